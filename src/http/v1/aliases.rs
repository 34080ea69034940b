//! Aliases of runs.

use axum::{extract::State, http::StatusCode, response::Response};
use barycenter_api::{Alias, SetAlias};
use utoipa_axum::routes;

use crate::{
    app::{self, AppError, AppResult, aliases::NewTarget},
    domain::{self, alias::Target},
    http::{
        ApiRouter,
        extract::{Condition, Json, Path},
        problem::ApiResult,
        reply,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new().routes(routes!(list_aliases)).routes(routes!(show_alias, set_alias, remove_alias))
}

impl From<domain::alias::Alias> for Alias {
    fn from(alias: domain::alias::Alias) -> Self {
        let (checkpoint_id, artifact_id) = match alias.target {
            Target::Checkpoint(id) => (Some(id.0), None),
            Target::Artifact(id) => (None, Some(id.0)),
        };
        Self {
            run_id: alias.run_id.0,
            alias: alias.alias,
            checkpoint_id,
            artifact_id,
            revision_id: alias.revision_id,
            moved_at: alias.moved_at,
        }
    }
}

fn tagged(alias: domain::alias::Alias) -> Response {
    reply::tagged(&alias.revision_id.to_string(), Alias::from(alias))
}

fn target(body: SetAlias) -> AppResult<NewTarget> {
    match (body.checkpoint, body.artifact_id) {
        (Some(name), None) => Ok(NewTarget::Checkpoint(name)),
        (None, Some(id)) => Ok(NewTarget::Artifact(id.into())),
        _ => Err(AppError::invalid_field("checkpoint", "an alias names either a checkpoint or an artifact")),
    }
}

/// List a run's aliases: `latest`, then the others by name.
#[utoipa::path(
    get, path = "/v1/runs/{run}/aliases", tag = "aliases", params(("run" = String, Path, description = "Id or name.")),
    responses((status = 200, body = Vec<Alias>)),
)]
async fn list_aliases(State(state): State<AppState>, Path(run): Path<String>) -> ApiResult<axum::Json<Vec<Alias>>> {
    let aliases = app::aliases::list_aliases(&state, &run).await?;
    Ok(axum::Json(aliases.into_iter().map(Alias::from).collect()))
}

/// Show what an alias names.
#[utoipa::path(
    get, path = "/v1/runs/{run}/aliases/{alias}", tag = "aliases",
    params(("run" = String, Path, description = "Id or name."), ("alias" = String, Path, description = "The alias.")),
    responses((status = 200, body = Alias, headers(("ETag" = String, description = "Version of the alias.")))),
)]
async fn show_alias(State(state): State<AppState>, Path((run, alias)): Path<(String, String)>) -> ApiResult<Response> {
    Ok(tagged(app::aliases::find_alias(&state, &run, &alias).await?))
}

/// Set an alias, or move it.
///
/// `latest` moves by itself and cannot be set. Numbers are steps, so no alias is one.
#[utoipa::path(
    put, path = "/v1/runs/{run}/aliases/{alias}", tag = "aliases", request_body = SetAlias,
    params(
        ("run" = String, Path, description = "Id or name."),
        ("alias" = String, Path, description = "Letters, digits, `.`, `_`, `-`, at most 100."),
        ("If-Match" = Option<String>, Header, description = "Move only what still has this `ETag`."),
        ("If-None-Match" = Option<String>, Header, description = "`*`: set only what is not there yet."),
    ),
    responses((status = 200, body = Alias, headers(("ETag" = String, description = "Version of the alias.")))),
)]
async fn set_alias(
    State(state): State<AppState>,
    Path((run, alias)): Path<(String, String)>,
    Condition(precondition): Condition,
    body: Json<SetAlias>,
) -> ApiResult<Response> {
    Ok(tagged(app::aliases::set_alias(&state, &run, &alias, target(body.value)?, &precondition).await?))
}

/// Remove an alias; what it named stays.
#[utoipa::path(
    delete, path = "/v1/runs/{run}/aliases/{alias}", tag = "aliases",
    params(
        ("run" = String, Path, description = "Id or name."),
        ("alias" = String, Path, description = "The alias."),
        ("If-Match" = Option<String>, Header, description = "Remove only what still has this `ETag`."),
    ),
    responses((status = 204, description = "It is gone.")),
)]
async fn remove_alias(
    State(state): State<AppState>,
    Path((run, alias)): Path<(String, String)>,
    Condition(precondition): Condition,
) -> ApiResult<StatusCode> {
    app::aliases::remove_alias(&state, &run, &alias, &precondition).await?;
    Ok(StatusCode::NO_CONTENT)
}
