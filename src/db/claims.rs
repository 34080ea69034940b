//! SQL of the claim: which job a worker gets, and its lease.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::DbResult;
use crate::domain::{
    failure::Failure,
    ids::{JobId, LeaseId, WorkerId},
    worker::Worker,
};

/// Places of the queue, from the front, among which a worker takes first what its cache can serve.
const WINDOW: i64 = 32;

/// A worker that asks for a job, and the lease it is to get.
#[derive(Clone, Copy, Debug)]
pub struct Claimant<'a> {
    /// Identifier of the new lease.
    pub lease_id: LeaseId,
    /// The worker.
    pub worker: &'a Worker,
    /// Attempts of a job that may fail.
    pub max_attempts: u32,
    /// Seconds for which a job is left alone after its lease has lapsed, by the failures before.
    pub pauses_after_lapse: &'a [f64],
    /// Projects none of whose jobs is taken.
    pub not_of_projects: &'a [String],
    /// Keys of projections that other workers hold that are idle.
    pub held_elsewhere: &'a [String],
    /// Jobs submitted later are left for a moment to an idle worker that holds their projection.
    pub left_since: DateTime<Utc>,
    /// Jobs submitted earlier are not passed over for one whose projection is at hand.
    pub waited_since: DateTime<Utc>,
    /// Now.
    pub now: DateTime<Utc>,
    /// When the new lease lapses.
    pub expires_at: DateTime<Utc>,
}

/// A job that was just leased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The job.
    pub job_id: JobId,
    /// Its project.
    pub project: String,
    /// The new attempt.
    pub attempt: u32,
    /// What the projection is called in the caches of workers.
    pub projection_key: Option<String>,
    /// Whether a dead attempt was closed for it.
    pub took_over: bool,
}

/// Leases a job that the worker may take: one statement, which also closes a dead attempt.
///
/// First a job whose lease has lapsed and whose back-off is over, then the one at the front of the queue: by priority, then
/// by turn. Among the first places of one priority a job whose projection the worker holds goes before the others, unless
/// the one at the front has waited long. Two claims at the same moment never wait for each other and never take the same
/// job. A lapsed job that nobody may take over is ended by a sweep.
pub async fn claim(connection: &mut PgConnection, claimant: Claimant<'_>) -> DbResult<Option<Claimed>> {
    let worker = claimant.worker;
    let can = &worker.capabilities;
    let row = sqlx::query_file!(
        "src/db/claim.sql",
        claimant.now,
        i32::try_from(claimant.max_attempts).unwrap_or(i32::MAX),
        claimant.lease_id.0,
        claimant.expires_at,
        claimant.pauses_after_lapse,
        worker.worker_id.0,
        worker.name,
        worker.version,
        can.device_kind,
        can.memory_bytes.map(u64::cast_signed),
        &can.networks,
        &worker.projections,
        claimant.not_of_projects,
        WINDOW,
        claimant.held_elsewhere,
        claimant.left_since,
        claimant.waited_since,
        Failure::WORKER_LOST,
        Failure::LOST_MESSAGE,
        worker.device_name,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Claimed {
        job_id: row.job_id.into(),
        project: row.project,
        attempt: row.attempt.unsigned_abs(),
        projection_key: row.projection_key,
        took_over: row.took_over,
    }))
}

/// What a claim must know of all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Projects that run as many jobs as they may.
    pub full_projects: Vec<String>,
    /// Keys of projections that other workers hold that are idle and alive.
    pub held_elsewhere: Vec<String>,
}

/// Full projects, and the projections that idle workers hold other than this one that were seen since `alive_since`.
pub async fn find_others(
    connection: &mut PgConnection,
    worker_id: WorkerId,
    alive_since: DateTime<Utc>,
) -> DbResult<Others> {
    let row = sqlx::query!(
        r#"
        select
            array(
                select project
                from projects
                where max_running_jobs <= (
                    select count(*) from jobs where jobs.state = 'running' and jobs.project = projects.project
                )
            ) as "full_projects!",
            array(
                select distinct key
                from workers, unnest(projections) as key
                where worker_id <> $1
                  and state = 'active'
                  and seen_at > $2
                  and not exists (
                      select from attempts where attempts.worker_id = workers.worker_id and attempts.state = 'running'
                  )
            ) as "held_elsewhere!"
        "#,
        worker_id.0,
        alive_since,
    )
    .fetch_one(connection)
    .await?;
    Ok(Others { full_projects: row.full_projects, held_elsewhere: row.held_elsewhere })
}
