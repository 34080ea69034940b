//! Collection: what was deleted longer ago than the grace is removed for good, rows first, then bytes.
//!
//! A row and the blob that only it needed go in one transaction, which notes the blob's object; the object goes after the
//! commit. So a blob that is there has its object, whatever dies when; and an object that is left is deleted by the next round.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    AppResult, drops, retention, rounds,
    transaction::{begin, commit, connection, rollback},
};
use crate::{
    db::{self, gc::Before},
    domain::collection::Collected,
    state::AppState,
    storage::ObjectKey,
};

const EVERY: Duration = Duration::from_mins(10);
/// Rows of each kind that one transaction removes: few enough to hold no lock for long.
const BATCH: i64 = 200;

/// Collects now and every ten minutes until told to stop; a failed round is logged and the next one tries again.
pub async fn run(state: AppState, stop: CancellationToken) {
    rounds::repeat(EVERY, stop, "deleted things could not be collected", || collect(&state)).await;
}

/// One round: applies retention rules, lets artifacts expire, then removes everything whose grace is over. Returns what was
/// removed; `objects` and `bytes` are those that the store has deleted in this round.
pub async fn collect(state: &AppState) -> AppResult<Collected> {
    retention::apply_everywhere(state).await?;
    expire(state).await?;
    drops::drop_due(state).await?;
    let now = state.clock.now();
    let before = before(state);
    let mut total = Collected::default();
    loop {
        let mut transaction = begin(state).await?;
        let removed = db::gc::purge(&mut transaction, before, BATCH, now).await?;
        commit(transaction).await?;
        if removed.is_nothing() {
            break;
        }
        total += removed;
    }
    (total.objects, total.bytes) = delete_objects(state).await?;
    metrics::counter!("barycenter_gc_bytes_total").increment(total.bytes);
    if total != Collected::default() {
        tracing::info!(
            gc.bytes = total.bytes,
            gc.objects = total.objects,
            gc.checkpoints = total.checkpoints,
            "collected"
        );
    }
    Ok(total)
}

fn before(state: &AppState) -> Before {
    let now = state.clock.now();
    Before { deleted: now - state.config.deletion.grace(), staged: now - state.config.uploads.patience() }
}

async fn expire(state: &AppState) -> AppResult<()> {
    let mut transaction = begin(state).await?;
    db::gc::mark_expired_artifacts(&mut transaction, state.clock.now()).await?;
    commit(transaction).await
}

/// What a round would remove of that which is deleted by now: the same statements, taken back.
pub async fn preview(state: &AppState) -> AppResult<Collected> {
    let now = state.clock.now();
    let mut total = Collected::default();
    let mut transaction = begin(state).await?;
    loop {
        let removed = db::gc::purge(&mut transaction, before(state), BATCH, now).await?;
        if removed.is_nothing() {
            // At once: a transaction that is only dropped holds its locks a little longer, and a collection passes over them.
            rollback(transaction).await?;
            return Ok(total);
        }
        total += removed;
    }
}

/// Deletes the objects whose blobs are gone, also those that an earlier round has left; a missing one is no error.
pub(super) async fn delete_objects(state: &AppState) -> AppResult<(u64, u64)> {
    let (mut objects, mut bytes) = (0, 0);
    let mut after = String::new();
    loop {
        let mut conn = connection(state).await?;
        let freed = db::gc::list_freed_objects(&mut conn, &after, BATCH).await?;
        drop(conn);
        let Some(last) = freed.last() else { return Ok((objects, bytes)) };
        after.clone_from(&last.object_key);
        for object in freed {
            // One object that cannot be deleted must not keep the others; its row brings it back next round.
            if let Err(error) = state.store.delete(&ObjectKey::from_stored(&object.object_key)).await {
                tracing::warn!(object.key = object.object_key, error = ?error, "an object could not be deleted");
                continue;
            }
            let mut conn = connection(state).await?;
            if db::gc::delete_freed_object(&mut conn, &object.object_key).await? {
                objects += 1;
                bytes += object.size_bytes;
            }
        }
    }
}
