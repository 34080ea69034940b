//! Ends jobs that no worker will end, and measures the queue.

use std::time::Duration;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use super::{AppResult, rounds, transaction::connection};
use crate::{
    db::{self, leases::Abandoned},
    state::AppState,
};

const EVERY: Duration = Duration::from_secs(5);

/// Sweeps now and every few seconds until told to stop; a failed round is logged and the next one tries again.
pub async fn run(state: AppState, stop: CancellationToken) {
    rounds::repeat(EVERY, stop, "abandoned jobs could not be ended", || sweep(&state)).await;
}

/// One round: ends the running jobs whose lease has lapsed and that nobody may take over (a cancel was requested, or no
/// attempt is left), and sets the gauges of the queue. A job that may be taken over is left to the next claim.
pub async fn sweep(state: &AppState) -> AppResult<Abandoned> {
    let now = state.clock.now();
    let mut conn = connection(state).await?;
    let abandoned = db::leases::end_abandoned(&mut conn, state.config.leases.max_attempts, now).await?;
    let queue = db::jobs::queue_status(&mut conn).await?;
    drop(conn);
    let ended = abandoned.cancelled + abandoned.failed;
    if ended > 0 {
        tracing::info!(jobs.cancelled = abandoned.cancelled, jobs.failed = abandoned.failed, "ended abandoned jobs");
    }
    metrics::counter!("barycenter_lease_expiries_total").increment(ended);
    metrics::gauge!("barycenter_jobs_queued").set(queue.queued as f64);
    metrics::gauge!("barycenter_jobs_running").set(queue.running as f64);
    let age = queue.oldest_queued_at.map_or(TimeDelta::zero(), |oldest| now - oldest);
    metrics::gauge!("barycenter_queue_oldest_age_seconds").set(age.as_seconds_f64());
    Ok(abandoned)
}
