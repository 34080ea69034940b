//! Ends jobs that no worker will end, measures the queue, and keeps the cache of projections within its bounds.

use std::time::Duration;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use super::{AppResult, projections, rounds, transaction::connection};
use crate::{
    db::{self, leases::Ended},
    domain::worker,
    state::AppState,
};

const EVERY: Duration = Duration::from_secs(2);

/// Sweeps now and every few seconds until told to stop; a failed round is logged and the next one tries again.
pub async fn run(state: AppState, stop: CancellationToken) {
    rounds::repeat(EVERY, stop, "abandoned jobs could not be ended", async || {
        sweep(&state).await?;
        projections::evict(&state).await
    })
    .await;
}

/// One round: fails the jobs whose deadline is over, ends the running ones whose lease has lapsed and that nobody may take
/// over (a cancel was requested, or no attempt is left), forgets workers that are gone, and sets the gauges of the queue. A
/// job that may be taken over is left to the next claim.
pub async fn sweep(state: &AppState) -> AppResult<Ended> {
    let now = state.clock.now();
    let mut conn = connection(state).await?;
    let overdue = db::leases::end_overdue(&mut conn, now).await?;
    let mut ended = db::leases::end_abandoned(&mut conn, state.config.leases.max_attempts, now).await?;
    db::workers::delete_silent(&mut conn, now - worker::KEEP_FOR).await?;
    let queue = db::queue::queue_status(&mut conn).await?;
    drop(conn);
    let abandoned = (ended.cancelled.len() + ended.failed.len()) as u64;
    ended.failed.extend(overdue);
    for job_id in ended.cancelled.iter().chain(&ended.failed) {
        state.job_tags.forget(*job_id);
    }
    for job_id in &ended.cancelled {
        tracing::info!(job.id = %job_id, "cancelled a job whose worker was lost");
    }
    for job_id in &ended.failed {
        tracing::info!(job.id = %job_id, "failed a job that has no attempt or no time left");
    }
    metrics::counter!("barycenter_lease_expiries_total").increment(abandoned);
    metrics::gauge!("barycenter_jobs_queued").set(queue.queued as f64);
    metrics::gauge!("barycenter_jobs_running").set(queue.running as f64);
    let age = queue.oldest_queued_at.map_or(TimeDelta::zero(), |oldest| now - oldest);
    metrics::gauge!("barycenter_queue_oldest_age_seconds").set(age.as_seconds_f64());
    Ok(ended)
}
