//! Removes what unfinished requests left behind.

use std::time::Duration;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use super::{AppResult, blobs, events, rounds, transaction::connection, webhooks};
use crate::{
    db::{self, uploads::SilentSince},
    state::AppState,
};

const EVERY: Duration = Duration::from_mins(1);
/// How long a reply is kept for its idempotency key.
const KEEP_REPLIES: TimeDelta = TimeDelta::hours(24);
/// How long an upload in parts can say what it became.
const KEEP_OUTCOMES: TimeDelta = TimeDelta::days(7);

/// Reaps now and every minute until told to stop; a failed round is logged and the next one tries again.
pub async fn run(state: AppState, stop: CancellationToken) {
    rounds::repeat(EVERY, stop, "unfinished uploads could not be removed", || reap(&state)).await;
}

/// One round; returns how many uploads were removed.
///
/// An upload is first marked, so that it can no longer be committed, then its object is deleted, then its row: a round
/// that dies in between is taken up by the next.
pub async fn reap(state: &AppState) -> AppResult<usize> {
    let now = state.clock.now();
    let silent =
        SilentSince { streams: now - state.config.uploads.grace(), in_parts: now - state.config.uploads.patience() };
    let mut conn = connection(state).await?;
    let abandoned = db::uploads::mark_silent_abandoned(&mut conn, silent, now).await?;
    db::idempotency::delete_older(&mut conn, now - KEEP_REPLIES).await?;
    events::prune(&mut conn, now).await?;
    webhooks::prune(&mut conn, now).await?;
    db::multipart_uploads::delete_completed(&mut conn, now - KEEP_OUTCOMES).await?;
    drop(conn);
    let mut removed = 0;
    for upload in abandoned {
        let upload_id = upload.upload_id;
        // One object that cannot be deleted must not keep the others from it; its row brings it back next round.
        match blobs::remove(state, &upload).await {
            Ok(()) => {
                tracing::info!(upload.id = %upload_id, "removed an unfinished upload");
                removed += 1;
            }
            Err(error) => tracing::warn!(upload.id = %upload_id, error = ?error, "an upload could not be removed"),
        }
    }
    metrics::counter!("barycenter_uploads_reaped_total").increment(removed as u64);
    Ok(removed)
}
