//! Why a queued job waits.

use barycenter_api::{WaitReason as WireReason, Waiting as WireWaiting};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::AppResult;
use crate::{
    db,
    domain::{ids::JobId, waiting::WaitReason, worker},
};

/// Place and reason of a queued job; `None` where it has left the queue.
pub(super) async fn find_waiting(
    conn: &mut PgConnection,
    job_id: JobId,
    now: DateTime<Utc>,
) -> AppResult<Option<WireWaiting>> {
    let Some(before) = db::queue::count_before(conn, job_id).await? else { return Ok(None) };
    let surroundings = db::queue::find_surroundings(conn, job_id, now - worker::ALIVE_FOR).await?;
    let reason = surroundings.reason(now);
    Ok(Some(WireWaiting {
        position: before + 1,
        reason: to_wire(reason),
        detail: detail(reason).to_owned(),
        until: surroundings.not_before.filter(|_| reason == WaitReason::BackOff),
    }))
}

fn detail(reason: WaitReason) -> &'static str {
    match reason {
        WaitReason::BackOff => "it failed before; the next attempt waits until then",
        WaitReason::NoWorker => "no worker is alive",
        WaitReason::NoWorkerWithDevice => "no worker that is alive has the device that it asks for",
        WaitReason::NoWorkerWithMemory => "no worker that is alive has the memory that it is estimated to take",
        WaitReason::NoWorkerWithNetwork => "no worker that is alive computes its network",
        WaitReason::WorkersPaused => "every worker that could take it is paused or draining",
        WaitReason::ProjectAtCap => "its project runs as many jobs as it may",
        WaitReason::WorkersBusy => "every worker that could take it is at work",
        WaitReason::Starting => "a worker is free and takes it, or one of those before it, at its next claim",
    }
}

fn to_wire(reason: WaitReason) -> WireReason {
    match reason {
        WaitReason::BackOff => WireReason::BackOff,
        WaitReason::NoWorker => WireReason::NoWorker,
        WaitReason::NoWorkerWithDevice => WireReason::NoWorkerWithDevice,
        WaitReason::NoWorkerWithMemory => WireReason::NoWorkerWithMemory,
        WaitReason::NoWorkerWithNetwork => WireReason::NoWorkerWithNetwork,
        WaitReason::WorkersPaused => WireReason::WorkersPaused,
        WaitReason::ProjectAtCap => WireReason::ProjectAtCap,
        WaitReason::WorkersBusy => WireReason::WorkersBusy,
        WaitReason::Starting => WireReason::Starting,
    }
}
