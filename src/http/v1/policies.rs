//! Policies of runs, and their refreshes.

use axum::{extract::State, http::StatusCode, response::Response};
use barycenter_api::{ListQuery, Page, Policy, PolicyRefresh, SetPolicy};
use utoipa_axum::routes;

use crate::{
    app,
    http::{
        ApiRouter,
        extract::{Condition, Json, Path, Query, parse_page},
        problem::ApiResult,
        reply,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new().routes(routes!(show_policy, set_policy, remove_policy)).routes(routes!(list_refreshes))
}

fn tagged(policy: Policy) -> Response {
    reply::tagged(&policy.revision_id.to_string(), policy)
}

/// Show the policy of a run, and how it stands.
#[utoipa::path(
    get, path = "/v1/runs/{run}/policy", tag = "policies",
    params(("run" = String, Path, description = "Id or name.")),
    responses((status = 200, body = Policy, headers(("ETag" = String, description = "Version of what was set.")))),
)]
async fn show_policy(State(state): State<AppState>, Path(run): Path<String>) -> ApiResult<Response> {
    Ok(tagged(app::policies::find_policy(&state, &run).await?))
}

/// Set the policy of a run: after every so many new checkpoints it averages a window of them.
///
/// The job is checked as a submission is, as far as its candidates are known. Setting what is set already changes nothing; a change
/// counts refreshes without improvement anew, and another target can be reached anew.
#[utoipa::path(
    put, path = "/v1/runs/{run}/policy", tag = "policies", request_body = SetPolicy,
    params(
        ("run" = String, Path, description = "Id or name."),
        ("If-Match" = Option<String>, Header, description = "Change only what still has this `ETag`."),
        ("If-None-Match" = Option<String>, Header, description = "`*`: set only what is not there yet."),
    ),
    responses((status = 200, body = Policy, headers(("ETag" = String, description = "The new version.")))),
)]
async fn set_policy(
    State(state): State<AppState>,
    Path(run): Path<String>,
    Condition(precondition): Condition,
    body: Json<SetPolicy>,
) -> ApiResult<Response> {
    Ok(tagged(app::policies::set_policy(&state, &run, body.value, &precondition).await?))
}

/// Remove the policy of a run. A job that it has queued goes on; what was refreshed and the alias stay.
#[utoipa::path(
    delete, path = "/v1/runs/{run}/policy", tag = "policies",
    params(
        ("run" = String, Path, description = "Id or name."),
        ("If-Match" = Option<String>, Header, description = "Remove only what still has this `ETag`."),
    ),
    responses((status = 204, description = "It is gone.")),
)]
async fn remove_policy(
    State(state): State<AppState>,
    Path(run): Path<String>,
    Condition(precondition): Condition,
) -> ApiResult<StatusCode> {
    app::policies::remove_policy(&state, &run, &precondition).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the refreshes of a run, newest first.
#[utoipa::path(
    get, path = "/v1/runs/{run}/policy/refreshes", tag = "policies",
    params(("run" = String, Path, description = "Id or name."), ListQuery),
    responses((status = 200, body = Page<PolicyRefresh>)),
)]
async fn list_refreshes(
    State(state): State<AppState>,
    Path(run): Path<String>,
    Query(query): Query<ListQuery>,
) -> ApiResult<axum::Json<Page<PolicyRefresh>>> {
    let page = parse_page(query.page_size, query.page_token.as_deref())?;
    Ok(axum::Json(reply::page(app::policies::list_refreshes(&state, &run, page).await?)))
}
