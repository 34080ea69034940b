//! SQL of the worker protocol. Every write names the lease it was made under, so that a worker whose job was taken
//! over changes nothing. Times are parameters: the server's clock, never a worker's or the database's.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::{DbError, DbResult};
use crate::domain::{
    failure::Failure,
    ids::{JobId, LeaseId},
    job::AttemptState,
};

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
    now: DateTime<Utc>,
    expires_at: DateTime<Utc>,
) -> DbResult<Renewal> {
    let row = sqlx::query!(
        r#"
        with renewed as (
            update jobs
            set lease_expires_at = $2, progress = coalesce($3, progress), changed_at = $4
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
        now,
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

/// Jobs that a sweep ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// As cancelled: a cancel was requested and the worker never came back.
    pub cancelled: Vec<JobId>,
    /// As failed: no attempt was left, or the deadline was over.
    pub failed: Vec<JobId>,
}

/// Ends the running jobs whose lease has lapsed and that nobody may take over, and closes their attempts: one statement.
pub async fn end_abandoned(connection: &mut PgConnection, max_attempts: u32, now: DateTime<Utc>) -> DbResult<Ended> {
    let rows = sqlx::query!(
        r#"
        with abandoned as (
            select job_id, lease_id, cancel_requested
            from jobs
            where state = 'running'
              and lease_expires_at <= $1
              and (cancel_requested or failure_count + 1 >= $2)
            for update skip locked
        ), closed as (
            update attempts
            set state = 'expired', error_code = $5, error_message = $6, finished_at = $1
            from abandoned
            where attempts.lease_id = abandoned.lease_id and attempts.state = 'running'
        ), forgotten as (
            delete from fit_states using abandoned where fit_states.job_id = abandoned.job_id
        )
        update jobs
        set state = case when abandoned.cancel_requested then 'cancelled' else 'failed' end,
            error_code = case when abandoned.cancel_requested then null else $3 end,
            error_message = case when abandoned.cancel_requested then null else $4 end,
            failure_count = failure_count + 1,
            lease_id = null,
            lease_expires_at = null,
            finished_at = $1,
            changed_at = $1
        from abandoned
        where jobs.job_id = abandoned.job_id
        returning jobs.job_id, abandoned.cancel_requested
        "#,
        now,
        i32::try_from(max_attempts).unwrap_or(i32::MAX),
        Failure::TOO_MANY_ATTEMPTS,
        format!("all {max_attempts} attempts failed; the last worker stopped sending heartbeats"),
        Failure::WORKER_LOST,
        Failure::LOST_MESSAGE,
    )
    .fetch_all(connection)
    .await?;
    let mut ended = Ended::default();
    for row in rows {
        let of = if row.cancel_requested { &mut ended.cancelled } else { &mut ended.failed };
        of.push(row.job_id.into());
    }
    Ok(ended)
}

/// Fails the jobs whose deadline is over, queued or running, and closes their attempts: one statement. Their workers hear
/// `lost` at the next heartbeat.
pub async fn end_overdue(connection: &mut PgConnection, now: DateTime<Utc>) -> DbResult<Vec<JobId>> {
    let rows = sqlx::query_scalar!(
        r#"
        with overdue as (
            select job_id, lease_id
            from jobs
            where state in ('queued', 'running') and deadline_at <= $1
            for update skip locked
        ), closed as (
            update attempts
            set state = 'failed', error_code = $2, error_message = $3, finished_at = $1
            from overdue
            where attempts.lease_id = overdue.lease_id and attempts.state = 'running'
        ), forgotten as (
            delete from fit_states using overdue where fit_states.job_id = overdue.job_id
        )
        update jobs
        set state = 'failed',
            error_code = $2,
            error_message = $3,
            lease_id = null,
            lease_expires_at = null,
            finished_at = $1,
            changed_at = $1
        from overdue
        where jobs.job_id = overdue.job_id
        returning jobs.job_id
        "#,
        now,
        Failure::DEADLINE_EXCEEDED,
        "the job had not ended when its deadline was over",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(JobId).collect())
}
