//! SQL of workers.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    ids::{JobId, WorkerId},
    page::PageRequest,
    projection::Counts,
    worker::{Capabilities, Worker, WorkerState},
};

struct WorkerRow {
    worker_id: Uuid,
    name: String,
    version: String,
    device_kind: String,
    device_name: String,
    memory_bytes: Option<i64>,
    networks: Vec<String>,
    projections: Vec<String>,
    projections_built: i64,
    projections_extended: i64,
    projections_cached: i64,
    projections_fetched: i64,
    state: String,
    job_id: Option<Uuid>,
    registered_at: DateTime<Utc>,
    seen_at: DateTime<Utc>,
}

impl TryFrom<WorkerRow> for Worker {
    type Error = DbError;

    fn try_from(row: WorkerRow) -> DbResult<Self> {
        let state = row.state.parse().map_err(|_| DbError::inconsistent("workers", "state", row.worker_id))?;
        Ok(Self {
            worker_id: row.worker_id.into(),
            name: row.name,
            version: row.version,
            device_name: row.device_name,
            capabilities: Capabilities {
                device_kind: row.device_kind,
                memory_bytes: row.memory_bytes.map(i64::unsigned_abs),
                networks: row.networks,
            },
            projections: row.projections,
            projection_counts: Counts {
                built: row.projections_built.unsigned_abs(),
                extended: row.projections_extended.unsigned_abs(),
                cached: row.projections_cached.unsigned_abs(),
                fetched: row.projections_fetched.unsigned_abs(),
            },
            state,
            job_id: row.job_id.map(JobId),
            registered_at: row.registered_at,
            seen_at: row.seen_at,
        })
    }
}

/// Stores a worker; one of its name is taken for the same worker started anew, keeps its id, and stays paused where it was.
/// Returns the id.
pub async fn upsert_worker(connection: &mut PgConnection, worker: &Worker) -> DbResult<WorkerId> {
    let can = &worker.capabilities;
    let worker_id = sqlx::query_scalar!(
        r#"
        insert into workers (
            worker_id, name, version, device_kind, device_name, memory_bytes, networks, projections, state,
            registered_at, seen_at
        )
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        on conflict (name) do update
        set version = excluded.version,
            device_kind = excluded.device_kind,
            device_name = excluded.device_name,
            memory_bytes = excluded.memory_bytes,
            networks = excluded.networks,
            projections = excluded.projections,
            state = case workers.state when 'paused' then 'paused' else excluded.state end,
            seen_at = excluded.seen_at
        returning worker_id
        "#,
        worker.worker_id.0,
        worker.name,
        worker.version,
        can.device_kind,
        worker.device_name,
        can.memory_bytes.map(u64::cast_signed),
        &can.networks,
        &worker.projections,
        worker.state.as_str(),
        worker.registered_at,
        worker.seen_at,
    )
    .fetch_one(connection)
    .await?;
    Ok(worker_id.into())
}

/// A worker by its id.
pub async fn find_worker(connection: &mut PgConnection, worker_id: WorkerId) -> DbResult<Option<Worker>> {
    let row = sqlx::query_as!(
        WorkerRow,
        r#"
        select
            worker_id, name, version, device_kind, device_name, memory_bytes, networks, projections, state,
            projections_built, projections_extended, projections_cached, projections_fetched,
            (select job_id from attempts where attempts.worker_id = workers.worker_id and attempts.state = 'running' limit 1)
                as job_id,
            registered_at, seen_at
        from workers
        where worker_id = $1
        "#,
        worker_id.0
    )
    .fetch_optional(connection)
    .await?;
    row.map(Worker::try_from).transpose()
}

/// Rows of a page of workers, last registered first.
pub async fn list_workers(connection: &mut PgConnection, page: PageRequest) -> DbResult<Vec<Worker>> {
    let rows = sqlx::query_as!(
        WorkerRow,
        r#"
        select
            worker_id, name, version, device_kind, device_name, memory_bytes, networks, projections, state,
            projections_built, projections_extended, projections_cached, projections_fetched,
            (select job_id from attempts where attempts.worker_id = workers.worker_id and attempts.state = 'running' limit 1)
                as job_id,
            registered_at, seen_at
        from workers
        where worker_id < $1
        order by worker_id desc
        limit $2
        "#,
        page.before.unwrap_or(Uuid::max()),
        page.limit(),
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Worker::try_from).collect()
}

/// Notes that a worker was heard of, and what its cache holds where it says so. Answers whether there is such a worker.
pub async fn mark_seen(
    connection: &mut PgConnection,
    worker_id: WorkerId,
    projections: Option<&[String]>,
    now: DateTime<Utc>,
) -> DbResult<bool> {
    let done = sqlx::query!(
        "update workers set seen_at = $2, projections = coalesce($3, projections) where worker_id = $1",
        worker_id.0,
        now,
        projections,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Changes whether a worker is given jobs. Answers whether there is such a worker.
pub async fn mark_state(connection: &mut PgConnection, worker_id: WorkerId, state: WorkerState) -> DbResult<bool> {
    let done = sqlx::query!("update workers set state = $2 where worker_id = $1", worker_id.0, state.as_str())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets workers that were last heard of before, apart from those that hold a job.
pub async fn delete_silent(connection: &mut PgConnection, before: DateTime<Utc>) -> DbResult<u64> {
    let done = sqlx::query!(
        r#"
        delete from workers
        where seen_at < $1
          and not exists (select from attempts where attempts.worker_id = workers.worker_id and attempts.state = 'running')
        "#,
        before
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
