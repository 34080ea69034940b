//! SQL of the worker protocol. Every write names the lease it was made under, so that a worker whose job was taken
//! over changes nothing. Times are parameters: the server's clock, never a worker's or the database's.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::{DbError, DbResult};
use crate::domain::{
    ids::{JobId, LeaseId},
    job::{AttemptState, Failure},
};

/// A worker that asks for a job, and the lease it is to get.
#[derive(Clone, Copy, Debug)]
pub struct Claimant<'a> {
    /// Identifier of the new lease.
    pub lease_id: LeaseId,
    /// Name of the worker.
    pub worker_name: &'a str,
    /// Version of the worker.
    pub worker_version: &'a str,
    /// Device of the worker.
    pub worker_device: &'a str,
    /// Attempts a job may have in all.
    pub max_attempts: u32,
    /// Now, and when the new lease lapses.
    pub now: DateTime<Utc>,
    /// When the new lease lapses.
    pub expires_at: DateTime<Utc>,
}

/// A job that was just leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The job.
    pub job_id: JobId,
    /// The new attempt.
    pub attempt: u32,
    /// Whether a dead attempt was closed for it.
    pub took_over: bool,
}

/// Leases the oldest job that is queued, or whose lease has lapsed: one statement, which also closes the dead attempt.
///
/// Two claims at the same moment never wait for each other and never take the same job. A lapsed job without attempts
/// left, or with a cancel requested, is not taken: [`end_abandoned`] ends it.
pub async fn claim(connection: &mut PgConnection, claimant: Claimant<'_>) -> DbResult<Option<Claimed>> {
    let row = sqlx::query!(
        r#"
        with candidate as (
            select job_id, attempt_count, lease_id as dead_lease_id
            from jobs
            where state in ('queued', 'running')
              and (state = 'queued' or lease_expires_at <= $1)
              and not cancel_requested
              and attempt_count < $2
            order by created_at, job_id
            limit 1
            for update skip locked
        ), closed as (
            -- Runs before `opened` sees the table: both write disjoint rows of one snapshot.
            update attempts
            set state = 'expired', finished_at = $1
            from candidate
            where attempts.lease_id = candidate.dead_lease_id and attempts.state = 'running'
            returning attempts.lease_id
        ), leased as (
            update jobs
            set state = 'running',
                lease_id = $3,
                lease_expires_at = $4,
                attempt_count = jobs.attempt_count + 1,
                started_at = coalesce(jobs.started_at, $1),
                progress = null
            from candidate
            where jobs.job_id = candidate.job_id
            returning jobs.job_id, jobs.attempt_count
        ), opened as (
            insert into attempts (job_id, attempt, lease_id, worker_name, worker_version, worker_device, state, started_at)
            select job_id, attempt_count, $3, $5, $6, $7, 'running', $1
            from leased
            -- Reading `closed` makes it run first, so that `attempts_running` never sees two.
            where (select count(*) from closed) >= 0
        )
        select
            leased.job_id as "job_id!",
            leased.attempt_count as "attempt!",
            exists (select 1 from closed) as "took_over!"
        from leased
        "#,
        claimant.now,
        i32::try_from(claimant.max_attempts).unwrap_or(i32::MAX),
        claimant.lease_id.0,
        claimant.expires_at,
        claimant.worker_name,
        claimant.worker_version,
        claimant.worker_device,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Claimed {
        job_id: row.job_id.into(),
        attempt: row.attempt.unsigned_abs(),
        took_over: row.took_over,
    }))
}

/// What a renewal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease holds this job and lasts longer now.
    Held {
        /// The job.
        job_id: JobId,
        /// The attempt.
        attempt: u32,
        /// Whether someone asked for the job to end.
        cancel_requested: bool,
    },
    /// The lease was given once and holds nothing any more.
    Lost,
    /// No such lease was ever given.
    Unknown,
}

/// Renews a lease and writes the progress: one statement. A lease that has lapsed but was not taken over is renewed.
pub async fn renew(
    connection: &mut PgConnection,
    lease_id: LeaseId,
    progress: Option<&Value>,
    expires_at: DateTime<Utc>,
) -> DbResult<Renewal> {
    let row = sqlx::query!(
        r#"
        with renewed as (
            update jobs
            set lease_expires_at = $2, progress = coalesce($3, progress)
            where lease_id = $1 and state = 'running'
            returning job_id, attempt_count, cancel_requested
        )
        select renewed.job_id as "job_id?", renewed.attempt_count as "attempt?", renewed.cancel_requested as "cancel_requested?"
        from attempts
        left join renewed on renewed.job_id = attempts.job_id
        where attempts.lease_id = $1
        "#,
        lease_id.0,
        expires_at,
        progress,
    )
    .fetch_optional(connection)
    .await?;
    Ok(match row.map(|row| (row.job_id, row.attempt, row.cancel_requested)) {
        Some((Some(job_id), Some(attempt), Some(cancel_requested))) => {
            Renewal::Held { job_id: job_id.into(), attempt: attempt.unsigned_abs(), cancel_requested }
        }
        Some(_) => Renewal::Lost,
        None => Renewal::Unknown,
    })
}

/// An attempt, found by its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasedAttempt {
    /// The job.
    pub job_id: JobId,
    /// The attempt.
    pub attempt: u32,
    /// How it stands.
    pub state: AttemptState,
    /// Version of its worker.
    pub worker_version: String,
}

/// The attempt that a lease was given to, whatever became of it.
pub async fn find_attempt(connection: &mut PgConnection, lease_id: LeaseId) -> DbResult<Option<LeasedAttempt>> {
    let row =
        sqlx::query!("select job_id, attempt, state, worker_version from attempts where lease_id = $1", lease_id.0)
            .fetch_optional(connection)
            .await?;
    row.map(|row| {
        let state = row.state.parse().map_err(|_| DbError::inconsistent("attempts", "state", lease_id.0))?;
        Ok(LeasedAttempt {
            job_id: row.job_id.into(),
            attempt: row.attempt.unsigned_abs(),
            state,
            worker_version: row.worker_version,
        })
    })
    .transpose()
}

/// Closes the attempt that a lease was given to, if it still runs.
pub async fn mark_attempt_ended(
    connection: &mut PgConnection,
    lease_id: LeaseId,
    state: AttemptState,
    failure: Option<&Failure>,
    now: DateTime<Utc>,
) -> DbResult<()> {
    sqlx::query!(
        r#"
        update attempts
        set state = $2, error_code = $3, error_message = $4, finished_at = $5
        where lease_id = $1 and state = 'running'
        "#,
        lease_id.0,
        state.as_str(),
        failure.map(|failure| failure.code.as_str()),
        failure.map(|failure| failure.message.as_str()),
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Keeps the state a fit resumes from, in place of the one before.
pub async fn save_fit_state(
    connection: &mut PgConnection,
    job_id: JobId,
    attempt: u32,
    state: &[u8],
    now: DateTime<Utc>,
) -> DbResult<()> {
    sqlx::query!(
        r#"
        insert into fit_states (job_id, attempt, state, saved_at) values ($1, $2, $3, $4)
        on conflict (job_id) do update
        set attempt = excluded.attempt, state = excluded.state, saved_at = excluded.saved_at
        "#,
        job_id.0,
        i32::try_from(attempt).unwrap_or(i32::MAX),
        state,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The state a fit resumes from, where an attempt has saved one.
pub async fn find_fit_state(connection: &mut PgConnection, job_id: JobId) -> DbResult<Option<Vec<u8>>> {
    Ok(sqlx::query_scalar!("select state from fit_states where job_id = $1", job_id.0)
        .fetch_optional(connection)
        .await?)
}

/// Forgets the state of a fit that nobody will resume.
pub async fn delete_fit_state(connection: &mut PgConnection, job_id: JobId) -> DbResult<()> {
    sqlx::query!("delete from fit_states where job_id = $1", job_id.0).execute(connection).await?;
    Ok(())
}

/// Jobs that [`end_abandoned`] ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abandoned {
    /// Ended as cancelled: a cancel was requested and the worker never came back.
    pub cancelled: u64,
    /// Ended as failed: no attempt was left.
    pub failed: u64,
}

/// Ends the running jobs whose lease has lapsed and that nobody may take over, and closes their attempts: one statement.
pub async fn end_abandoned(
    connection: &mut PgConnection,
    max_attempts: u32,
    now: DateTime<Utc>,
) -> DbResult<Abandoned> {
    let row = sqlx::query!(
        r#"
        with abandoned as (
            select job_id, lease_id, cancel_requested
            from jobs
            where state = 'running'
              and lease_expires_at <= $1
              and (cancel_requested or attempt_count >= $2)
            for update skip locked
        ), closed as (
            update attempts
            set state = 'expired', finished_at = $1
            from abandoned
            where attempts.lease_id = abandoned.lease_id and attempts.state = 'running'
        ), forgotten as (
            delete from fit_states using abandoned where fit_states.job_id = abandoned.job_id
        ), ended as (
            update jobs
            set state = case when abandoned.cancel_requested then 'cancelled' else 'failed' end,
                error_code = case when abandoned.cancel_requested then null else $3 end,
                error_message = case when abandoned.cancel_requested then null else $4 end,
                lease_id = null,
                lease_expires_at = null,
                finished_at = $1
            from abandoned
            where jobs.job_id = abandoned.job_id
            returning abandoned.cancel_requested
        )
        select
            count(*) filter (where cancel_requested) as "cancelled!",
            count(*) filter (where not cancel_requested) as "failed!"
        from ended
        "#,
        now,
        i32::try_from(max_attempts).unwrap_or(i32::MAX),
        Failure::TOO_MANY_ATTEMPTS,
        format!(
            "the leases of all {max_attempts} attempts lapsed or failed; the last worker stopped sending heartbeats"
        ),
    )
    .fetch_one(connection)
    .await?;
    Ok(Abandoned { cancelled: row.cancelled.unsigned_abs(), failed: row.failed.unsigned_abs() })
}
