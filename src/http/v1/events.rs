//! Events as they happen, and log lines of jobs.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use barycenter_api::{Event, EventKind, EventsQuery, JobLog, LogQuery};
use futures::{Stream, StreamExt};
use utoipa_axum::routes;

use crate::{
    app::{self, AppError, AppResult, events::Followed, job_log::LogPage, jobs::MAX_WAIT_SECONDS},
    domain::{
        event::{self, Scope},
        ids::JobId,
        problem_code::ProblemCode,
    },
    http::{
        ApiRouter,
        extract::{Path, Query},
        problem::ApiResult,
    },
    state::AppState,
};

/// Proxies cut connections that are silent for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const DEFAULT_LINES: u32 = 1000;
const MAX_LINES: u32 = 5000;

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(follow_job))
        .routes(routes!(follow_run))
        .routes(routes!(follow_project))
        .routes(routes!(read_log))
}

/// Follow a job: its events from the first, or after `Last-Event-ID`, as they happen (server-sent events).
///
/// The stream ends with the event that ends the job; who asks again after that is answered 204 and need not come back.
#[utoipa::path(
    get, path = "/v1/jobs/{job_id}/events", tag = "events",
    params(
        ("job_id" = uuid::Uuid, Path, description = "Id."), EventsQuery,
        ("Last-Event-ID" = Option<i64>, Header, description = "Begin after this event."),
    ),
    responses((status = 200, body = Event, content_type = "text/event-stream"), (status = 204, description = "All was seen.")),
)]
async fn follow_job(
    State(state): State<AppState>,
    Path(job_id): Path<JobId>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    follow(&state, Scope::Job(job_id), place(&headers, query)?).await
}

/// Follow a run: its events and those of its jobs, from now on or after `Last-Event-ID` (server-sent events).
///
/// An event `gap` says that events after `Last-Event-ID` are not kept any more.
#[utoipa::path(
    get, path = "/v1/runs/{run}/events", tag = "events",
    params(
        ("run" = String, Path, description = "Id or name."), EventsQuery,
        ("Last-Event-ID" = Option<i64>, Header, description = "Begin after this event."),
    ),
    responses((status = 200, body = Event, content_type = "text/event-stream")),
)]
async fn follow_run(
    State(state): State<AppState>,
    Path(run): Path<String>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let scope = app::events::scope_of_run(&state, &run).await?;
    follow(&state, scope, place(&headers, query)?).await
}

/// Follow a project: the events of all its runs and jobs, from now on or after `Last-Event-ID` (server-sent events).
#[utoipa::path(
    get, path = "/v1/projects/{project}/events", tag = "events",
    params(
        ("project" = String, Path, description = "Name."), EventsQuery,
        ("Last-Event-ID" = Option<i64>, Header, description = "Begin after this event."),
    ),
    responses((status = 200, body = Event, content_type = "text/event-stream")),
)]
async fn follow_project(
    State(state): State<AppState>,
    Path(project): Path<String>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let scope = app::events::scope_of_project(&state, &project).await?;
    follow(&state, scope, place(&headers, query)?).await
}

/// Read the log lines of a job's attempts; with `wait` the next ones as they come.
#[utoipa::path(
    get, path = "/v1/jobs/{job_id}/logs", tag = "jobs",
    params(("job_id" = uuid::Uuid, Path, description = "Id."), LogQuery),
    responses((status = 200, body = JobLog)),
)]
async fn read_log(
    State(state): State<AppState>,
    Path(job_id): Path<JobId>,
    Query(query): Query<LogQuery>,
) -> ApiResult<axum::Json<JobLog>> {
    let limit = query.limit.unwrap_or(DEFAULT_LINES);
    let wait = query.wait.unwrap_or(0);
    for (field, sound, bound) in
        [("limit", (1..=MAX_LINES).contains(&limit), MAX_LINES), ("wait", wait <= MAX_WAIT_SECONDS, MAX_WAIT_SECONDS)]
    {
        if !sound {
            return Err(AppError::fault(ProblemCode::InvalidQuery, field, format!("must be at most {bound}")).into());
        }
    }
    let patience = Duration::from_secs(wait.into());
    let page = LogPage { after: query.after.as_deref(), tail: query.tail, limit, patience };
    Ok(axum::Json(app::job_log::read_log(&state, job_id, page).await?))
}

/// Where a stream begins: what the header says, which browsers send by themselves, else the query.
fn place(headers: &HeaderMap, query: EventsQuery) -> AppResult<Option<i64>> {
    let Some(given) = headers.get("last-event-id") else { return Ok(query.after) };
    let id = given.to_str().ok().and_then(|text| text.trim().parse().ok());
    let refused = || AppError::fault(ProblemCode::BadRequest, "Last-Event-ID", "is no id of an event");
    id.map(Some).ok_or_else(refused)
}

async fn follow(state: &AppState, scope: Scope, after: Option<i64>) -> ApiResult<Response> {
    Ok(match app::events::follow(state, scope, after).await? {
        Some(followed) => Sse::new(written(followed)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

fn written(followed: impl Stream<Item = Followed>) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    followed.map(|followed| {
        Ok(match followed {
            Followed::Gap => sse::Event::default().event("gap").data("{}"),
            Followed::Event(event) => {
                let written = sse::Event::default().id(event.event_id.to_string()).event(event.kind.as_str());
                let data = serde_json::to_string(&to_wire(&event)).unwrap_or_default();
                written.data(data)
            }
        })
    })
}

fn to_wire(event: &event::Event) -> Event {
    Event {
        event_id: event.event_id,
        kind: kind_to_wire(event.kind),
        project: event.project.clone(),
        run_id: event.run_id.0,
        job_id: event.job_id.map(|id| id.0),
        detail: event.detail.clone(),
        occurred_at: event.occurred_at,
    }
}

pub(super) fn kind_to_wire(kind: event::EventKind) -> EventKind {
    match kind {
        event::EventKind::JobQueued => EventKind::JobQueued,
        event::EventKind::JobStarted => EventKind::JobStarted,
        event::EventKind::JobPhase => EventKind::JobPhase,
        event::EventKind::JobRequeued => EventKind::JobRequeued,
        event::EventKind::JobCancelRequested => EventKind::JobCancelRequested,
        event::EventKind::JobSucceeded => EventKind::JobSucceeded,
        event::EventKind::JobFailed => EventKind::JobFailed,
        event::EventKind::JobCancelled => EventKind::JobCancelled,
        event::EventKind::CheckpointPushed => EventKind::CheckpointPushed,
        event::EventKind::CandidateSetCreated => EventKind::CandidateSetCreated,
        event::EventKind::AliasMoved => EventKind::AliasMoved,
        event::EventKind::PolicyRefreshed => EventKind::PolicyRefreshed,
        event::EventKind::PolicyImproved => EventKind::PolicyImproved,
        event::EventKind::PolicyTargetReached => EventKind::PolicyTargetReached,
        event::EventKind::PolicyStalled => EventKind::PolicyStalled,
        event::EventKind::PolicyRefreshFailed => EventKind::PolicyRefreshFailed,
    }
}
