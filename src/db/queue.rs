//! SQL of the queue as a whole: its length, places in it, what its jobs wait for.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::DbResult;
use crate::domain::{ids::JobId, waiting::Surroundings};

/// How the queue stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStatus {
    /// Jobs that wait.
    pub queued: u64,
    /// Jobs that run.
    pub running: u64,
    /// When the job that waits longest was submitted.
    pub oldest_queued_at: Option<DateTime<Utc>>,
}

/// How the queue stands.
pub async fn queue_status(connection: &mut PgConnection) -> DbResult<QueueStatus> {
    let row = sqlx::query!(
        r#"
        select
            count(*) filter (where state = 'queued') as "queued!",
            count(*) filter (where state = 'running') as "running!",
            min(created_at) filter (where state = 'queued') as oldest_queued_at
        from jobs
        where state in ('queued', 'running')
        "#
    )
    .fetch_one(connection)
    .await?;
    Ok(QueueStatus {
        queued: row.queued.unsigned_abs(),
        running: row.running.unsigned_abs(),
        oldest_queued_at: row.oldest_queued_at,
    })
}

/// How many jobs stand before a queued one; `None` where it is not queued.
pub async fn count_before(connection: &mut PgConnection, job_id: JobId) -> DbResult<Option<u64>> {
    let count = sqlx::query_scalar!(
        r#"
        select
            -- Two ranges of one index: a condition with an `or` would walk all of it.
            (select count(*) from jobs where state = 'queued' and priority > this.priority)
            + (
                select count(*) from jobs
                where state = 'queued' and priority = this.priority and (turn, job_id) < (this.turn, this.job_id)
            ) as "count!"
        from jobs as this
        where this.job_id = $1 and this.state = 'queued'
        "#,
        job_id.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(count.map(i64::unsigned_abs))
}

/// What a job waits for: the workers that were seen since `alive_since` or hold a job, sieved by what the job asks for.
pub async fn find_surroundings(
    connection: &mut PgConnection,
    job_id: JobId,
    alive_since: DateTime<Utc>,
) -> DbResult<Surroundings> {
    let row = sqlx::query!(
        r#"
        with sieved as (
            select
                workers.state,
                running.job_id is not null as busy,
                jobs.device_kind is null or jobs.device_kind = workers.device_kind as has_device,
                workers.memory_bytes is null or jobs.memory_bytes <= workers.memory_bytes as has_memory,
                cardinality(workers.networks) = 0 or jobs.network = any(workers.networks) as has_network
            from jobs
            cross join workers
            left join attempts as running on running.worker_id = workers.worker_id and running.state = 'running'
            where jobs.job_id = $1 and (workers.seen_at > $2 or running.job_id is not null)
        )
        select
            jobs.not_before,
            count(sieved.*) as "alive!",
            count(*) filter (where has_device) as "with_device!",
            count(*) filter (where has_device and has_memory) as "with_memory!",
            count(*) filter (where has_device and has_memory and has_network) as "with_network!",
            count(*) filter (where has_device and has_memory and has_network and sieved.state = 'active') as "active!",
            count(*) filter (
                where has_device and has_memory and has_network and sieved.state = 'active' and not busy
            ) as "idle!",
            exists (
                select from projects
                where projects.project = jobs.project
                  and max_running_jobs <= (
                      select count(*) from jobs as others where others.state = 'running' and others.project = jobs.project
                  )
            ) as "project_at_cap!"
        from jobs
        left join sieved on true
        where jobs.job_id = $1
        group by jobs.job_id
        "#,
        job_id.0,
        alive_since,
    )
    .fetch_one(connection)
    .await?;
    Ok(Surroundings {
        not_before: row.not_before,
        alive: row.alive.unsigned_abs(),
        with_device: row.with_device.unsigned_abs(),
        with_memory: row.with_memory.unsigned_abs(),
        with_network: row.with_network.unsigned_abs(),
        active: row.active.unsigned_abs(),
        idle: row.idle.unsigned_abs(),
        project_at_cap: row.project_at_cap,
    })
}
