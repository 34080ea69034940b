//! Training runs.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use barycenter_api::{CreateRun, EditRun, ListRuns, Page, Run};
use utoipa_axum::routes;

use crate::{
    app::{
        self,
        runs::{NewRun, RunEdit},
    },
    domain,
    http::{
        ApiRouter,
        extract::{Condition, Json, Path, Query, parse_page},
        problem::ApiResult,
        reply,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new().routes(routes!(create_run, list_runs)).routes(routes!(show_run, edit_run))
}

impl From<domain::run::Run> for Run {
    fn from(run: domain::run::Run) -> Self {
        Self {
            run_id: run.run_id.0,
            name: run.name,
            project: run.project,
            description: run.description,
            metadata: run.metadata,
            checkpoint_count: run.checkpoint_count,
            revision: run.revision,
            created_at: run.created_at,
            deleted_at: run.deleted_at,
        }
    }
}

/// Open a run.
#[utoipa::path(
    post, path = "/v1/runs", tag = "runs", request_body = CreateRun,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same request with the same key gets the same reply.")),
    responses((status = 201, body = Run, headers(("Location" = String, description = "Path of the run.")))),
)]
async fn create_run(State(state): State<AppState>, body: Json<CreateRun>) -> ApiResult<Response> {
    let CreateRun { name, project, description, metadata } = body.value;
    let project = project.unwrap_or_else(|| app::projects::DEFAULT.to_owned());
    let new = NewRun { name, project, description, metadata };
    let reply = app::runs::create_run(&state, new, body.idempotency.as_ref(), |run| {
        let location = format!("/v1/runs/{}", run.run_id);
        reply::created(StatusCode::CREATED, location, &Run::from(run))
    })
    .await?;
    Ok(reply.into_response())
}

/// List runs, newest first.
#[utoipa::path(get, path = "/v1/runs", tag = "runs", params(ListRuns), responses((status = 200, body = Page<Run>)))]
async fn list_runs(State(state): State<AppState>, Query(query): Query<ListRuns>) -> ApiResult<axum::Json<Page<Run>>> {
    let page = parse_page(query.page_size, query.page_token.as_deref())?;
    let runs = app::runs::list_runs(&state, query.deleted.unwrap_or(false), page).await?;
    Ok(axum::Json(reply::page(runs)))
}

/// Show a run.
#[utoipa::path(
    get, path = "/v1/runs/{run}", tag = "runs", params(("run" = String, Path, description = "Id or name.")),
    responses((status = 200, body = Run, headers(("ETag" = String, description = "Version of description and metadata.")))),
)]
async fn show_run(State(state): State<AppState>, Path(run): Path<String>) -> ApiResult<Response> {
    let run = app::runs::find_run(&state, &run).await?;
    Ok(reply::tagged(&run.revision.to_string(), Run::from(run)))
}

/// Edit a run: a merge patch (RFC 7396) of description and metadata.
#[utoipa::path(
    patch, path = "/v1/runs/{run}", tag = "runs", request_body = EditRun,
    params(
        ("run" = String, Path, description = "Id or name."),
        ("If-Match" = Option<String>, Header, description = "Edit only what still has this `ETag`."),
    ),
    responses((status = 200, body = Run, headers(("ETag" = String, description = "The new version.")))),
)]
async fn edit_run(
    State(state): State<AppState>,
    Path(run): Path<String>,
    Condition(precondition): Condition,
    body: Json<EditRun>,
) -> ApiResult<Response> {
    let EditRun { description, metadata } = body.value;
    let run = app::runs::edit_run(&state, &run, RunEdit { description, metadata }, &precondition).await?;
    Ok(reply::tagged(&run.revision.to_string(), Run::from(run)))
}
