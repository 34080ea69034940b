//! Jobs, their history and their coefficients.

use std::time::{Duration, Instant};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use barycenter_api::{
    CoefficientTable, EditJob, History, HistoryQuery, Job, JobQuery, JobSpec, JobSummary, ListJobs, Page, SubmitQuery,
    TableFormat, TableQuery, ValidatedJob,
};
use utoipa_axum::routes;

use crate::{
    app::{
        self, AppError,
        history::HistoryPage,
        history_csv::HistoryPart,
        jobs::{JobFilter, MAX_WAIT_SECONDS},
    },
    domain::{ids::JobId, page::Paged, problem_code::ProblemCode},
    http::{
        ApiRouter,
        extract::{Json, Path, Query, parse_page},
        json_content,
        problem::ApiResult,
        reply,
    },
    state::AppState,
};

const DEFAULT_SNAPSHOTS: u32 = 1000;
const MAX_SNAPSHOTS: u32 = 10_000;

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(create_job, list_jobs))
        .routes(routes!(show_job, edit_job))
        .routes(routes!(cancel_job))
        .routes(routes!(list_history))
        .routes(routes!(show_coefficients))
}

/// Submit an averaging job.
///
/// The spec is checked whole: a refusal names every field at fault. With `validate_only=true` nothing is queued and the
/// answer is 200 with the completed spec and its memory estimate.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs",
    params(
        SubmitQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key again repeats the answer."),
    ),
    request_body = JobSpec,
    responses(
        (status = 202, body = Job, headers(("Location" = String, description = "Path of the job."))),
        (status = 200, body = ValidatedJob, description = "The spec is sound; nothing was queued."),
    ),
)]
async fn create_job(
    State(state): State<AppState>,
    Query(query): Query<SubmitQuery>,
    Json { value: spec, idempotency }: Json<JobSpec>,
) -> ApiResult<Response> {
    if query.validate_only == Some(true) {
        return Ok(axum::Json(app::jobs::validate_job(&state, spec).await?).into_response());
    }
    let accepted = |job: &Job| reply::created(StatusCode::ACCEPTED, format!("/v1/jobs/{}", job.job_id), job);
    Ok(app::jobs::submit_job(&state, spec, idempotency.as_ref(), accepted).await?.into_response())
}

/// List jobs, newest first.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs", params(ListJobs),
    responses((status = 200, body = Page<JobSummary>)),
)]
async fn list_jobs(
    State(state): State<AppState>,
    Query(query): Query<ListJobs>,
) -> ApiResult<axum::Json<Page<JobSummary>>> {
    let ListJobs { state: in_state, run, page_size, page_token } = query;
    let page = parse_page(page_size, page_token.as_deref())?;
    let jobs: Paged<JobSummary> = app::jobs::list_jobs(&state, &JobFilter { state: in_state, run }, page).await?;
    Ok(axum::Json(reply::page(jobs)))
}

/// Show a job; with `wait`, once it is terminal or the time is over.
///
/// Whoever polls with `If-None-Match` may be told up to a second late of progress that came in through another server.
#[utoipa::path(
    get, path = "/v1/jobs/{job_id}", tag = "jobs",
    params(
        ("job_id" = uuid::Uuid, Path, description = "Id."),
        JobQuery,
        ("If-None-Match" = Option<String>, Header, description = "Answer 304 where the job still looks like this."),
    ),
    responses((status = 200, body = Job), (status = 304, description = "The caller has it already.")),
)]
async fn show_job(
    State(state): State<AppState>,
    Path(job_id): Path<JobId>,
    Query(query): Query<JobQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let wait = query.wait.unwrap_or(0);
    if wait > MAX_WAIT_SECONDS {
        let detail = format!("must be at most {MAX_WAIT_SECONDS}, not {wait}");
        return Err(AppError::fault(ProblemCode::InvalidQuery, "wait", detail).into());
    }
    if wait == 0
        && let Some(tag) = state.job_tags.find(job_id)
        && let Some(response) = json_content::unchanged(&headers, &tag)
    {
        return Ok(response);
    }
    let began = Instant::now();
    let job = app::jobs::wait_for_job(&state, job_id, Duration::from_secs(wait.into())).await?;
    let response = json_content::respond(&headers, &job)?;
    if wait == 0
        && let Some(tag) = json_content::tag_of(&response)
    {
        state.job_tags.keep(job_id, began, tag);
    }
    Ok(response)
}

/// Change the priority of a queued job.
#[utoipa::path(
    patch, path = "/v1/jobs/{job_id}", tag = "jobs", request_body = EditJob,
    params(("job_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = Job)),
)]
async fn edit_job(
    State(state): State<AppState>,
    Path(job_id): Path<JobId>,
    Json { value: edit, .. }: Json<EditJob>,
) -> ApiResult<axum::Json<Job>> {
    Ok(axum::Json(app::jobs::edit_job(&state, job_id, edit.priority).await?))
}

/// Ask for a job to end: a queued one ends now, a running one within a heartbeat, an ended one stays as it is.
#[utoipa::path(
    post, path = "/v1/jobs/{job_id}/cancel", tag = "jobs",
    params(("job_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = Job)),
)]
async fn cancel_job(State(state): State<AppState>, Path(job_id): Path<JobId>) -> ApiResult<axum::Json<Job>> {
    Ok(axum::Json(app::jobs::cancel_job(&state, job_id).await?))
}

/// Read the history of a job's fit, as JSON or CSV; empty until a worker has reported.
#[utoipa::path(
    get, path = "/v1/jobs/{job_id}/history", tag = "jobs",
    params(("job_id" = uuid::Uuid, Path, description = "Id."), HistoryQuery),
    responses((status = 200, content((History = "application/json"), (String = "text/csv")))),
)]
async fn list_history(
    State(state): State<AppState>,
    Path(job_id): Path<JobId>,
    Query(query): Query<HistoryQuery>,
) -> ApiResult<Response> {
    let HistoryQuery { format, after_step, limit, coefficients } = query;
    if limit.is_some_and(|limit| !(1..=MAX_SNAPSHOTS).contains(&limit)) {
        let detail = format!("must be 1 to {MAX_SNAPSHOTS}");
        return Err(AppError::fault(ProblemCode::InvalidQuery, "limit", detail).into());
    }
    let coefficients = coefficients.unwrap_or(true);
    if format.unwrap_or_default() == TableFormat::Csv {
        let part = HistoryPart { after_step, limit, coefficients };
        let text = app::history_csv::write_history(&state, job_id, part).await?;
        return Ok(csv(Body::from_stream(text)));
    }
    let page = HistoryPage { after_step, limit: limit.unwrap_or(DEFAULT_SNAPSHOTS), coefficients };
    Ok(axum::Json(app::history::list_history(&state, job_id, page).await?).into_response())
}

/// Read the coefficients that a job ended with, as JSON or CSV.
#[utoipa::path(
    get, path = "/v1/jobs/{job_id}/coefficients", tag = "jobs",
    params(("job_id" = uuid::Uuid, Path, description = "Id."), TableQuery),
    responses((status = 200, content((CoefficientTable = "application/json"), (String = "text/csv")))),
)]
async fn show_coefficients(
    State(state): State<AppState>,
    Path(job_id): Path<JobId>,
    Query(query): Query<TableQuery>,
) -> ApiResult<Response> {
    let table = app::history::find_coefficients(&state, job_id).await?;
    if query.format.unwrap_or_default() == TableFormat::Csv {
        return Ok(csv(Body::from(app::history_csv::write_coefficients(&table)?)));
    }
    Ok(axum::Json(table).into_response())
}

fn csv(body: Body) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"))], body).into_response()
}
