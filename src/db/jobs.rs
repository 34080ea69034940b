//! SQL of jobs. Documents (spec, estimate, progress, report) are stored as given; `app` knows their types.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    failure::Failure,
    ids::{ArtifactId, CandidateSetId, DatasetId, JobId, LeaseId, RunId},
    job::{AttemptState, JobState},
};

/// A job to be queued.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Identifier.
    pub job_id: JobId,
    /// The run of its candidates.
    pub run_id: RunId,
    /// The candidates.
    pub candidate_set_id: CandidateSetId,
    /// The resolved spec.
    pub spec: Value,
    /// Its memory estimate.
    pub estimate: Value,
    /// Project of its run.
    pub project: String,
    /// Higher goes first.
    pub priority: i32,
    /// It fails where it has not ended by then.
    pub deadline_at: Option<DateTime<Utc>>,
    /// What its projection is called in the caches of workers.
    pub projection_key: Option<String>,
    /// The projection that this one is a revision of.
    pub extended_projection_key: Option<String>,
    /// What the projection of the candidates alone is called, where this one extends another.
    pub fresh_projection_key: Option<String>,
    /// The datasets the spec names, by the word it uses.
    pub datasets: Vec<(String, DatasetId)>,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
}

/// Queues a job, at the next turn of its project among the jobs of its priority.
pub async fn insert(connection: &mut PgConnection, job: &NewJob) -> DbResult<()> {
    sqlx::query!(
        r#"
        insert into jobs (
            job_id, run_id, candidate_set_id, state, spec, estimate, created_at, changed_at, project, priority, deadline_at,
            projection_key, extended_projection_key, fresh_projection_key, turn
        )
        values (
            $1, $2, $3, 'queued', $4, $5, $6, $6, $7, $8, $9, $10, $11, $12,
            -- After the last of its project, and not before the queue as it stands: who comes late does not catch up.
            greatest(
                (select max(turn) + 1 from jobs where state = 'queued' and project = $7 and priority = $8),
                coalesce(
                    (select max(turn) from jobs where state = 'running' and priority = $8),
                    (select min(turn) from jobs where state = 'queued' and priority = $8),
                    0
                )
            )
        )
        "#,
        job.job_id.0,
        job.run_id.0,
        job.candidate_set_id.0,
        job.spec,
        job.estimate,
        job.created_at,
        job.project,
        job.priority,
        job.deadline_at,
        job.projection_key,
        job.extended_projection_key,
        job.fresh_projection_key,
    )
    .execute(&mut *connection)
    .await?;
    let (named, dataset_ids): (Vec<String>, Vec<Uuid>) =
        job.datasets.iter().map(|(named, dataset_id)| (named.clone(), dataset_id.0)).unzip();
    sqlx::query!(
        r#"
        insert into job_datasets (job_id, named, dataset_id)
        select $1, named, dataset_id from unnest($2::text[], $3::uuid[]) as given (named, dataset_id)
        "#,
        job.job_id.0,
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
    pub job_id: JobId,
    /// The run of its candidates.
    pub run_id: RunId,
    /// The candidates.
    pub candidate_set_id: CandidateSetId,
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
    pub artifact_id: Option<ArtifactId>,
    /// Project of its run.
    pub project: String,
    /// Higher goes first.
    pub priority: i32,
    /// It fails where it has not ended by then.
    pub deadline_at: Option<DateTime<Utc>>,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// When a worker first took it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A job by its id.
pub async fn find(connection: &mut PgConnection, job_id: JobId) -> DbResult<Option<JobRow>> {
    let row = sqlx::query!(
        r#"
        select
            job_id, run_id, candidate_set_id, state, cancel_requested, spec, estimate, progress, report,
            error_code, error_message, jobs.created_at, started_at, finished_at, project, priority, deadline_at,
            (select artifact_id from artifacts where artifacts.job_id = jobs.job_id and artifacts.deleted_at is null)
                as artifact_id
        from jobs
        where job_id = $1 and deleted_at is null
        "#,
        job_id.0
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(JobRow {
            job_id: row.job_id.into(),
            run_id: row.run_id.into(),
            candidate_set_id: row.candidate_set_id.into(),
            state: parse_state(&row.state, job_id)?,
            cancel_requested: row.cancel_requested,
            spec: row.spec,
            estimate: row.estimate,
            progress: row.progress,
            report: row.report,
            error: failure(row.error_code, row.error_message),
            artifact_id: row.artifact_id.map(ArtifactId),
            project: row.project,
            priority: row.priority,
            deadline_at: row.deadline_at,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        })
    })
    .transpose()
}

fn parse_state(word: &str, job_id: JobId) -> DbResult<JobState> {
    word.parse().map_err(|_| DbError::inconsistent("jobs", "state", job_id.0))
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
pub async fn list_attempts(connection: &mut PgConnection, job_id: JobId) -> DbResult<Vec<AttemptRow>> {
    let rows = sqlx::query!(
        r#"
        select attempt, worker_name, state, error_code, error_message, started_at, finished_at
        from attempts
        where job_id = $1
        order by attempt
        "#,
        job_id.0
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(AttemptRow {
                attempt: row.attempt.unsigned_abs(),
                worker_name: row.worker_name,
                state: row.state.parse().map_err(|_| DbError::inconsistent("attempts", "state", job_id.0))?,
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
    pub job_id: JobId,
    /// The run of its candidates.
    pub run_id: RunId,
    /// The candidates.
    pub candidate_set_id: CandidateSetId,
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
    pub run_id: Option<RunId>,
    /// Only jobs with smaller ids, which are older.
    pub before: Option<Uuid>,
}

/// Jobs, newest first, at most `limit`.
pub async fn list(connection: &mut PgConnection, filter: Filter, limit: i64) -> DbResult<Vec<SummaryRow>> {
    let rows = sqlx::query!(
        r#"
        select job_id, run_id, candidate_set_id, state, progress, created_at, finished_at
        from jobs
        where deleted_at is null
          and ($1::text is null or state = $1)
          and ($2::uuid is null or run_id = $2)
          and ($3::uuid is null or job_id < $3)
        order by job_id desc
        limit $4
        "#,
        filter.state.map(JobState::as_str),
        filter.run_id.map(|id| id.0),
        filter.before,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(SummaryRow {
                job_id: row.job_id.into(),
                run_id: row.run_id.into(),
                candidate_set_id: row.candidate_set_id.into(),
                state: parse_state(&row.state, row.job_id.into())?,
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
    pub job_id: JobId,
    /// The run of its candidates.
    pub run_id: RunId,
    /// The candidates.
    pub candidate_set_id: CandidateSetId,
    /// State.
    pub state: JobState,
    /// Whether someone asked for it to end.
    pub cancel_requested: bool,
    /// Attempts that failed.
    pub failure_count: u32,
    /// The lease that speaks for it, while it runs.
    pub lease_id: Option<LeaseId>,
    /// When a worker first took it.
    pub started_at: Option<DateTime<Utc>>,
}

/// Locks a job for the rest of the transaction, so that the decision made on it still holds when it is written.
pub async fn lock(connection: &mut PgConnection, job_id: JobId) -> DbResult<Option<LockedJob>> {
    let row = sqlx::query!(
        r#"
        select run_id, candidate_set_id, state, cancel_requested, failure_count, lease_id, started_at
        from jobs
        where job_id = $1 and deleted_at is null
        for update
        "#,
        job_id.0
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(LockedJob {
            job_id,
            run_id: row.run_id.into(),
            candidate_set_id: row.candidate_set_id.into(),
            state: parse_state(&row.state, job_id)?,
            cancel_requested: row.cancel_requested,
            failure_count: row.failure_count.unsigned_abs(),
            lease_id: row.lease_id.map(LeaseId),
            started_at: row.started_at,
        })
    })
    .transpose()
}

/// What a failed attempt leaves behind on a job that is queued again.
#[derive(Clone, Copy, Debug)]
pub struct BackOff {
    /// Attempts that have failed by now.
    pub failure_count: u32,
    /// When the next may begin.
    pub not_before: DateTime<Utc>,
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
    /// Attempts that have failed by now, and when the next may begin, where it is queued again.
    pub back_off: Option<BackOff>,
    /// Now.
    pub now: DateTime<Utc>,
}

/// Takes a job to a state in which no worker holds it. Answers whether it was in the state expected.
pub async fn mark_moved(connection: &mut PgConnection, job_id: JobId, change: Move<'_>) -> DbResult<bool> {
    let done = sqlx::query!(
        r#"
        update jobs
        set state = $3,
            error_code = $4,
            error_message = $5,
            report = coalesce($6, report),
            finished_at = $7,
            failure_count = coalesce($8, failure_count),
            not_before = $9,
            changed_at = $10,
            lease_id = null,
            lease_expires_at = null
        where job_id = $1 and state = $2
        "#,
        job_id.0,
        change.from.as_str(),
        change.to.as_str(),
        change.failure.map(|failure| failure.code.as_str()),
        change.failure.map(|failure| failure.message.as_str()),
        change.report,
        change.to.is_terminal().then_some(change.now),
        change.back_off.map(|back_off| i32::try_from(back_off.failure_count).unwrap_or(i32::MAX)),
        change.back_off.map(|back_off| back_off.not_before),
        change.now,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that someone asked for a running job to end.
pub async fn mark_cancel_requested(connection: &mut PgConnection, job_id: JobId, now: DateTime<Utc>) -> DbResult<()> {
    sqlx::query!(
        "update jobs set cancel_requested = true, changed_at = $2
         where job_id = $1 and state = 'running' and not cancel_requested",
        job_id.0,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Moves a queued job to the next turn of its project among the jobs of another priority.
pub async fn set_priority(connection: &mut PgConnection, job_id: JobId, priority: i32) -> DbResult<()> {
    sqlx::query!(
        r#"
        update jobs
        set priority = $2,
            turn = greatest(
                (
                    select max(turn) + 1 from jobs as others
                    where others.state = 'queued' and others.project = jobs.project and others.priority = $2
                ),
                coalesce(
                    (select max(turn) from jobs as others where others.state = 'running' and others.priority = $2),
                    (select min(turn) from jobs as others where others.state = 'queued' and others.priority = $2),
                    0
                )
            )
        where job_id = $1 and state = 'queued' and priority <> $2
        "#,
        job_id.0,
        priority,
    )
    .execute(connection)
    .await?;
    Ok(())
}
