//! SQL of jobs. Documents (spec, estimate, progress, report) are stored as given; `app` knows their types.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::DbError;
use crate::domain::job::{AttemptState, Failure, JobState};

/// A job to be queued.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Identifier.
    pub job_id: Uuid,
    /// The run of its candidates.
    pub run_id: Uuid,
    /// The candidates.
    pub candidate_set_id: Uuid,
    /// The resolved spec.
    pub spec: Value,
    /// Its memory estimate.
    pub estimate: Value,
    /// The datasets the spec names, by the word it uses.
    pub datasets: Vec<(String, Uuid)>,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
}

/// Queues a job.
pub async fn insert(connection: &mut PgConnection, job: &NewJob) -> Result<(), DbError> {
    sqlx::query!(
        r#"
        insert into jobs (job_id, run_id, candidate_set_id, state, spec, estimate, created_at)
        values ($1, $2, $3, 'queued', $4, $5, $6)
        "#,
        job.job_id,
        job.run_id,
        job.candidate_set_id,
        job.spec,
        job.estimate,
        job.created_at,
    )
    .execute(&mut *connection)
    .await?;
    let (named, dataset_ids): (Vec<String>, Vec<Uuid>) = job.datasets.iter().cloned().unzip();
    sqlx::query!(
        r#"
        insert into job_datasets (job_id, named, dataset_id)
        select $1, named, dataset_id from unnest($2::text[], $3::uuid[]) as given (named, dataset_id)
        "#,
        job.job_id,
        &named,
        &dataset_ids,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A stored job.
#[derive(Clone, Debug)]
pub struct JobRow {
    /// Identifier.
    pub job_id: Uuid,
    /// The run of its candidates.
    pub run_id: Uuid,
    /// The candidates.
    pub candidate_set_id: Uuid,
    /// State.
    pub state: JobState,
    /// Whether someone asked for it to end.
    pub cancel_requested: bool,
    /// The resolved spec.
    pub spec: Value,
    /// Its memory estimate.
    pub estimate: Value,
    /// How far it is.
    pub progress: Option<Value>,
    /// What it found.
    pub report: Option<Value>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// What it made.
    pub artifact_id: Option<Uuid>,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// When a worker first took it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A job by its id.
pub async fn find(connection: &mut PgConnection, job_id: Uuid) -> Result<Option<JobRow>, DbError> {
    let row = sqlx::query!(
        r#"
        select
            job_id, run_id, candidate_set_id, state, cancel_requested, spec, estimate, progress, report,
            error_code, error_message, jobs.created_at, started_at, finished_at,
            (select artifact_id from artifacts where artifacts.job_id = jobs.job_id) as artifact_id
        from jobs
        where job_id = $1
        "#,
        job_id
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(JobRow {
            job_id: row.job_id,
            run_id: row.run_id,
            candidate_set_id: row.candidate_set_id,
            state: parse_state(&row.state, job_id)?,
            cancel_requested: row.cancel_requested,
            spec: row.spec,
            estimate: row.estimate,
            progress: row.progress,
            report: row.report,
            error: failure(row.error_code, row.error_message),
            artifact_id: row.artifact_id,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        })
    })
    .transpose()
}

fn parse_state(word: &str, job_id: Uuid) -> Result<JobState, DbError> {
    word.parse().map_err(|_| DbError::inconsistent("jobs", "state", job_id))
}

fn failure(code: Option<String>, message: Option<String>) -> Option<Failure> {
    code.map(|code| Failure { code, message: message.unwrap_or_default() })
}

/// A stored attempt.
#[derive(Clone, Debug)]
pub struct AttemptRow {
    /// 1 for the first.
    pub attempt: u32,
    /// Name of the worker.
    pub worker_name: String,
    /// How it stands.
    pub state: AttemptState,
    /// Why it ended.
    pub error: Option<Failure>,
    /// When it was leased.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// The attempts of a job, oldest first.
pub async fn list_attempts(connection: &mut PgConnection, job_id: Uuid) -> Result<Vec<AttemptRow>, DbError> {
    let rows = sqlx::query!(
        r#"
        select attempt, worker_name, state, error_code, error_message, started_at, finished_at
        from attempts
        where job_id = $1
        order by attempt
        "#,
        job_id
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(AttemptRow {
                attempt: row.attempt.unsigned_abs(),
                worker_name: row.worker_name,
                state: row.state.parse().map_err(|_| DbError::inconsistent("attempts", "state", job_id))?,
                error: failure(row.error_code, row.error_message),
                started_at: row.started_at,
                finished_at: row.finished_at,
            })
        })
        .collect()
}

/// A job in a list.
#[derive(Clone, Debug)]
pub struct SummaryRow {
    /// Identifier.
    pub job_id: Uuid,
    /// The run of its candidates.
    pub run_id: Uuid,
    /// The candidates.
    pub candidate_set_id: Uuid,
    /// State.
    pub state: JobState,
    /// How far it is.
    pub progress: Option<Value>,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Which jobs to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs of this run.
    pub run_id: Option<Uuid>,
    /// Only jobs older than this one: its submission time and id.
    pub before: Option<(DateTime<Utc>, Uuid)>,
}

/// Jobs, newest first, at most `limit`.
pub async fn list(connection: &mut PgConnection, filter: Filter, limit: i64) -> Result<Vec<SummaryRow>, DbError> {
    let (before_at, before_id) = filter.before.unzip();
    let rows = sqlx::query!(
        r#"
        select job_id, run_id, candidate_set_id, state, progress, created_at, finished_at
        from jobs
        where ($1::text is null or state = $1)
          and ($2::uuid is null or run_id = $2)
          and ($3::timestamptz is null or (created_at, job_id) < ($3, $4::uuid))
        order by created_at desc, job_id desc
        limit $5
        "#,
        filter.state.map(JobState::as_str),
        filter.run_id,
        before_at,
        before_id,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(SummaryRow {
                job_id: row.job_id,
                run_id: row.run_id,
                candidate_set_id: row.candidate_set_id,
                state: parse_state(&row.state, row.job_id)?,
                progress: row.progress,
                created_at: row.created_at,
                finished_at: row.finished_at,
            })
        })
        .collect()
}

/// What a decision about a job rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockedJob {
    /// Identifier.
    pub job_id: Uuid,
    /// The run of its candidates.
    pub run_id: Uuid,
    /// The candidates.
    pub candidate_set_id: Uuid,
    /// State.
    pub state: JobState,
    /// Whether someone asked for it to end.
    pub cancel_requested: bool,
    /// Attempts so far.
    pub attempt_count: u32,
    /// The lease that speaks for it, while it runs.
    pub lease_id: Option<Uuid>,
    /// When a worker first took it.
    pub started_at: Option<DateTime<Utc>>,
}

/// Locks a job for the rest of the transaction, so that the decision made on it still holds when it is written.
pub async fn lock(connection: &mut PgConnection, job_id: Uuid) -> Result<Option<LockedJob>, DbError> {
    let row = sqlx::query!(
        r#"
        select run_id, candidate_set_id, state, cancel_requested, attempt_count, lease_id, started_at
        from jobs
        where job_id = $1
        for update
        "#,
        job_id
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(LockedJob {
            job_id,
            run_id: row.run_id,
            candidate_set_id: row.candidate_set_id,
            state: parse_state(&row.state, job_id)?,
            cancel_requested: row.cancel_requested,
            attempt_count: row.attempt_count.unsigned_abs(),
            lease_id: row.lease_id,
            started_at: row.started_at,
        })
    })
    .transpose()
}

/// A change of state, decided by [`JobState::after`].
#[derive(Clone, Copy, Debug)]
pub struct Move<'a> {
    /// The state the job is expected in.
    pub from: JobState,
    /// The state it gets.
    pub to: JobState,
    /// Why, where it failed.
    pub failure: Option<&'a Failure>,
    /// What was found, where it succeeded.
    pub report: Option<&'a Value>,
    /// Now.
    pub now: DateTime<Utc>,
}

/// Takes a job to a state in which no worker holds it. Answers whether it was in the state expected.
pub async fn mark_moved(connection: &mut PgConnection, job_id: Uuid, change: Move<'_>) -> Result<bool, DbError> {
    let done = sqlx::query!(
        r#"
        update jobs
        set state = $3,
            error_code = $4,
            error_message = $5,
            report = coalesce($6, report),
            finished_at = $7,
            lease_id = null,
            lease_expires_at = null
        where job_id = $1 and state = $2
        "#,
        job_id,
        change.from.as_str(),
        change.to.as_str(),
        change.failure.map(|failure| failure.code.as_str()),
        change.failure.map(|failure| failure.message.as_str()),
        change.report,
        change.to.is_terminal().then_some(change.now),
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that someone asked for a running job to end.
pub async fn mark_cancel_requested(connection: &mut PgConnection, job_id: Uuid) -> Result<(), DbError> {
    sqlx::query!("update jobs set cancel_requested = true where job_id = $1 and state = 'running'", job_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// The candidates of a job, in the order of its coefficients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateRow {
    /// The checkpoint.
    pub checkpoint_id: Uuid,
    /// Its step.
    pub step: i64,
    /// Size of its file.
    pub size_bytes: u64,
    /// Digest of its file.
    pub digest_blake3: String,
}

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
pub async fn queue_status(connection: &mut PgConnection) -> Result<QueueStatus, DbError> {
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
