//! Jobs: submitting, reading, waiting, cancelling.
//!
//! Spec, estimate, progress and report are documents that the server checks, stores and returns as written, so they are
//! the wire types here.

use std::time::Duration;

use barycenter_api::{
    Attempt, AttemptState as WireAttemptState, Job, JobFailure, JobSpec, JobState as WireState, JobSummary, Progress,
    ValidatedJob,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    AppError, AppResult,
    idempotency::{self, IdempotentRequest, Reply},
    runs::find_run_with,
    spec,
    transaction::{begin, commit, connection},
    waiting,
};
use crate::{
    db::{
        self, DbError,
        jobs::{Filter, Move, NewJob, SummaryRow},
    },
    domain::{
        failure::Failure,
        ids::JobId,
        job::{AttemptState, JobEvent, JobState},
        page::{PageRequest, Paged},
        problem_code::ProblemCode,
    },
    state::AppState,
};

/// Longest that a call may wait; proxies cut connections that are silent for longer than a minute.
pub const MAX_WAIT_SECONDS: u32 = 25;
/// How often a waiter looks at the table although nothing woke it.
pub(super) const POLL_EVERY: Duration = Duration::from_secs(1);

/// Checks a spec and fills in its defaults; nothing is queued.
pub async fn validate_job(state: &AppState, spec: JobSpec) -> AppResult<ValidatedJob> {
    let mut conn = connection(state).await?;
    let resolved = spec::resolve(&mut conn, spec).await?;
    Ok(ValidatedJob { spec: resolved.spec, estimate: resolved.estimate })
}

/// Queues a job. `reply` turns it into what the caller is answered, now and when it repeats its request.
pub async fn submit_job(
    state: &AppState,
    spec: JobSpec,
    request: Option<&IdempotentRequest>,
    reply: impl FnOnce(&Job) -> AppResult<Reply>,
) -> AppResult<Reply> {
    let now = state.clock.now();
    let mut transaction = begin(state).await?;
    if let Some(known) = idempotency::replay(&mut transaction, request, now).await? {
        return Ok(known);
    }
    let job_id = queue(state, &mut transaction, spec, now).await?;
    let reply = reply(&read_job(&mut transaction, job_id, now).await?)?;
    idempotency::record(&mut transaction, request, &reply).await?;
    commit(transaction).await?;
    tracing::info!(job.id = %job_id, "queued a job");
    Ok(reply)
}

/// Checks a spec and queues its job, in a transaction at hand.
pub(super) async fn queue(
    state: &AppState,
    conn: &mut PgConnection,
    spec: JobSpec,
    now: DateTime<Utc>,
) -> AppResult<JobId> {
    let resolved = spec::resolve(conn, spec).await?;
    hold_inputs(conn, &resolved.spec).await?;
    let scheduling = resolved.spec.scheduling;
    let job_id = JobId(state.clock.new_id());
    let new = NewJob {
        job_id,
        run_id: resolved.run_id,
        candidate_set_id: resolved.spec.candidate_set_id.into(),
        spec: serde_json::to_value(&resolved.spec).map_err(AppError::internal)?,
        estimate: serde_json::to_value(resolved.estimate).map_err(AppError::internal)?,
        project: db::runs::find_project(conn, resolved.run_id).await?,
        priority: scheduling.priority,
        deadline_at: scheduling.deadline_seconds.map(|seconds| now + TimeDelta::seconds(seconds as i64)),
        extended_projection_key: resolved.projection.extended_key(),
        projection_key: resolved.projection.key,
        fresh_projection_key: resolved.projection.fresh_key,
        datasets: resolved.datasets,
        created_at: now,
    };
    db::jobs::insert(conn, &new).await?;
    if !resolved.projection.links.is_empty() {
        db::projections::insert_links(conn, job_id, &resolved.projection.links).await?;
    }
    Ok(job_id)
}

/// Keeps set and base checkpoint from being deleted until the job that needs them is there to be seen.
async fn hold_inputs(conn: &mut PgConnection, spec: &JobSpec) -> AppResult<()> {
    let set = spec.candidate_set_id;
    if !db::deletion::hold_candidate_set(conn, set.into()).await? {
        return Err(AppError::invalid_field("candidate_set_id", format!("there is no candidate set {set}")));
    }
    if let Some(base) = spec.lora.as_ref().map(|lora| lora.base_checkpoint_id)
        && !db::deletion::hold_checkpoint(conn, base.into()).await?
    {
        return Err(AppError::invalid_field("lora.base_checkpoint_id", format!("there is no checkpoint {base}")));
    }
    Ok(())
}

/// A job as it stands.
pub async fn find_job(state: &AppState, job_id: JobId) -> AppResult<Job> {
    let mut conn = connection(state).await?;
    read_job(&mut conn, job_id, state.clock.now()).await
}

/// A job once it is terminal, or as it stands after `patience`. No connection is held while waiting.
pub async fn wait_for_job(state: &AppState, job_id: JobId, patience: Duration) -> AppResult<Job> {
    let deadline = Instant::now() + patience;
    let mut changes = state.jobs_changed.subscribe();
    loop {
        let job = find_job(state, job_id).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        if job.state.is_terminal() || left.is_zero() {
            return Ok(job);
        }
        changes.changed(left.min(POLL_EVERY), |change| change.job_id == job_id && change.state.is_terminal()).await;
    }
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Only jobs in this state.
    pub state: Option<WireState>,
    /// Only jobs of this run, by name or id.
    pub run: Option<String>,
}

/// A page of jobs, newest first.
pub async fn list_jobs(state: &AppState, filter: &JobFilter, page: PageRequest) -> AppResult<Paged<JobSummary>> {
    let mut conn = connection(state).await?;
    let run_id = match &filter.run {
        None => None,
        Some(run) => Some(find_run_with(&mut conn, run).await?.run_id),
    };
    let filter = Filter { state: filter.state.map(from_wire), run_id, before: page.before };
    let rows = db::jobs::list(&mut conn, filter, page.limit()).await?;
    let Paged { items, next } = page.cut(rows, |row| row.job_id.0);
    Ok(Paged { items: items.into_iter().map(summary).collect::<AppResult<_>>()?, next })
}

/// Asks for a job to end: a queued one ends now, a running one when its worker hears of it, an ended one stays.
pub async fn cancel_job(state: &AppState, job_id: JobId) -> AppResult<Job> {
    let now = state.clock.now();
    let mut transaction = begin(state).await?;
    let job = db::jobs::lock(&mut transaction, job_id).await?.ok_or_else(|| not_found(job_id))?;
    let to = job.state.after(JobEvent::CancelRequested).map_err(AppError::internal)?;
    if to == JobState::Running {
        db::jobs::mark_cancel_requested(&mut transaction, job_id, now).await?;
    } else if to != job.state {
        let change = Move { from: job.state, to, failure: None, report: None, back_off: None, now };
        move_job(&mut transaction, job_id, change).await?;
    }
    let job = read_job(&mut transaction, job_id, now).await?;
    commit(transaction).await?;
    state.job_tags.forget(job_id);
    Ok(job)
}

/// Changes the priority of a queued job.
pub async fn edit_job(state: &AppState, job_id: JobId, priority: i32) -> AppResult<Job> {
    spec::check_priority("priority", priority)?;
    let mut transaction = begin(state).await?;
    let job = db::jobs::lock(&mut transaction, job_id).await?.ok_or_else(|| not_found(job_id))?;
    if job.state != JobState::Queued {
        let detail = format!("job {job_id} is {}: a priority means something while it is queued", job.state);
        return Err(AppError::refused(ProblemCode::JobNotQueued, detail));
    }
    db::jobs::set_priority(&mut transaction, job_id, priority).await?;
    let job = read_job(&mut transaction, job_id, state.clock.now()).await?;
    commit(transaction).await?;
    state.job_tags.forget(job_id);
    Ok(job)
}

/// Writes a move that was decided on a locked job.
pub(super) async fn move_job(conn: &mut PgConnection, job_id: JobId, change: Move<'_>) -> AppResult<()> {
    if !db::jobs::mark_moved(conn, job_id, change).await? {
        return Err(AppError::internal(format!("locked job {job_id} changed its state")));
    }
    if change.to.is_terminal() {
        db::leases::delete_fit_state(conn, job_id).await?;
    }
    Ok(())
}

/// Counts the time of a job that has ended.
pub(super) fn measure_end(started_at: Option<DateTime<Utc>>, state: JobState, now: DateTime<Utc>) {
    if let Some(started_at) = started_at.filter(|_| state.is_terminal()) {
        let seconds = (now - started_at).as_seconds_f64();
        metrics::histogram!("barycenter_job_duration_seconds", "state" => state.as_str()).record(seconds);
    }
}

/// The refusal of an id that no job has.
pub(super) fn not_found(job_id: JobId) -> AppError {
    AppError::refused(ProblemCode::JobNotFound, format!("there is no job {job_id}"))
}

/// A job with its attempts and what it waits for, read on one connection.
pub(super) async fn read_job(conn: &mut PgConnection, job_id: JobId, now: DateTime<Utc>) -> AppResult<Job> {
    let row = db::jobs::find(conn, job_id).await?.ok_or_else(|| not_found(job_id))?;
    let attempts = db::jobs::list_attempts(conn, job_id).await?;
    let waiting = match row.state {
        JobState::Queued => waiting::find_waiting(conn, job_id, now).await?,
        _ => None,
    };
    Ok(Job {
        job_id: job_id.0,
        run_id: row.run_id.0,
        state: to_wire(row.state),
        project: row.project,
        priority: row.priority,
        deadline_at: row.deadline_at,
        waiting,
        cancel_requested: row.cancel_requested,
        spec: document("spec", job_id.0, row.spec)?,
        estimate: document("estimate", job_id.0, row.estimate)?,
        progress: progress(job_id.0, row.state, row.progress)?,
        attempts: attempts
            .into_iter()
            .map(|row| Attempt {
                attempt: row.attempt,
                worker: row.worker_name,
                state: attempt_to_wire(row.state),
                error: row.error.map(failure_to_wire),
                started_at: row.started_at,
                finished_at: row.finished_at,
            })
            .collect(),
        error: row.error.map(failure_to_wire),
        report: row.report.map(|report| document("report", job_id.0, report)).transpose()?,
        artifact_id: row.artifact_id.map(|id| id.0),
        created_at: row.created_at,
        started_at: row.started_at,
        finished_at: row.finished_at,
    })
}

/// Reads a stored document of a job.
pub(super) fn document<T: DeserializeOwned>(column: &'static str, job_id: Uuid, value: Value) -> AppResult<T> {
    serde_json::from_value(value).map_err(|error| {
        tracing::error!(job.id = %job_id, job.column = column, error = %error, "a stored document cannot be read");
        DbError::inconsistent("jobs", column, job_id).into()
    })
}

/// How far a job is, or where it failed or was cancelled; one that succeeded is through, whatever its worker said last.
fn progress(job_id: Uuid, state: JobState, stored: Option<Value>) -> AppResult<Option<Progress>> {
    stored.filter(|_| state != JobState::Succeeded).map(|stored| document("progress", job_id, stored)).transpose()
}

fn summary(row: SummaryRow) -> AppResult<JobSummary> {
    Ok(JobSummary {
        job_id: row.job_id.0,
        run_id: row.run_id.0,
        candidate_set_id: row.candidate_set_id.0,
        state: to_wire(row.state),
        progress: progress(row.job_id.0, row.state, row.progress)?,
        created_at: row.created_at,
        finished_at: row.finished_at,
    })
}

fn failure_to_wire(failure: Failure) -> JobFailure {
    JobFailure { code: failure.code, message: failure.message }
}

fn to_wire(state: JobState) -> WireState {
    match state {
        JobState::Queued => WireState::Queued,
        JobState::Running => WireState::Running,
        JobState::Succeeded => WireState::Succeeded,
        JobState::Failed => WireState::Failed,
        JobState::Cancelled => WireState::Cancelled,
    }
}

fn from_wire(state: WireState) -> JobState {
    match state {
        WireState::Queued => JobState::Queued,
        WireState::Running => JobState::Running,
        WireState::Succeeded => JobState::Succeeded,
        WireState::Failed => JobState::Failed,
        WireState::Cancelled => JobState::Cancelled,
    }
}

fn attempt_to_wire(state: AttemptState) -> WireAttemptState {
    match state {
        AttemptState::Running => WireAttemptState::Running,
        AttemptState::Succeeded => WireAttemptState::Succeeded,
        AttemptState::Failed => WireAttemptState::Failed,
        AttemptState::Cancelled => WireAttemptState::Cancelled,
        AttemptState::Expired => WireAttemptState::Expired,
    }
}
