//! Retention rules of runs.

use axum::{extract::State, http::StatusCode};
use barycenter_api::{DoomedCheckpoint, KeepBest, Retention, RetentionPreview};
use utoipa_axum::routes;

use crate::{
    app,
    domain::{self, retention},
    http::{
        ApiRouter,
        extract::{Json, Path},
        problem::ApiResult,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(show_retention, set_retention, remove_retention))
        .routes(routes!(preview_retention, try_retention))
}

impl From<Retention> for retention::Retention {
    fn from(rules: Retention) -> Self {
        let best = rules.best.into_iter().map(|best| retention::KeepBest {
            count: best.count,
            metric: best.metric,
            direction: best.direction.into(),
        });
        Self { last: rules.last, best: best.collect(), every_steps: rules.every_steps }
    }
}

impl From<retention::Retention> for Retention {
    fn from(rules: retention::Retention) -> Self {
        let best = rules.best.into_iter().map(|best| KeepBest {
            count: best.count,
            metric: best.metric,
            direction: best.direction.into(),
        });
        Self { last: rules.last, best: best.collect(), every_steps: rules.every_steps }
    }
}

fn preview(preview: app::retention::Preview) -> axum::Json<RetentionPreview> {
    let doomed = preview.doomed.into_iter().map(|doomed| DoomedCheckpoint {
        checkpoint_id: doomed.checkpoint_id.0,
        step: doomed.step,
        size_bytes: doomed.size_bytes,
    });
    axum::Json(RetentionPreview {
        rules: preview.rules.into(),
        checkpoints: doomed.collect(),
        freed_bytes: preview.freed_bytes,
    })
}

/// Show the retention rules of a run; `null` where it keeps everything.
#[utoipa::path(
    get, path = "/v1/runs/{run}/retention", tag = "retention",
    params(("run" = String, Path, description = "Id or name.")),
    responses((status = 200, body = Option<Retention>)),
)]
async fn show_retention(
    State(state): State<AppState>,
    Path(run): Path<String>,
) -> ApiResult<axum::Json<Option<Retention>>> {
    Ok(axum::Json(app::retention::find_retention(&state, &run).await?.map(Into::into)))
}

/// Set the retention rules of a run; the next collection applies them.
#[utoipa::path(
    put, path = "/v1/runs/{run}/retention", tag = "retention", request_body = Retention,
    params(("run" = String, Path, description = "Id or name.")),
    responses((status = 200, body = Retention)),
)]
async fn set_retention(
    State(state): State<AppState>,
    Path(run): Path<String>,
    body: Json<Retention>,
) -> ApiResult<axum::Json<Retention>> {
    let rules: domain::retention::Retention = body.value.into();
    Ok(axum::Json(app::retention::set_retention(&state, &run, rules).await?.into()))
}

/// Remove the retention rules of a run: it keeps everything.
#[utoipa::path(
    delete, path = "/v1/runs/{run}/retention", tag = "retention",
    params(("run" = String, Path, description = "Id or name.")),
    responses((status = 204, description = "It keeps everything.")),
)]
async fn remove_retention(State(state): State<AppState>, Path(run): Path<String>) -> ApiResult<StatusCode> {
    app::retention::remove_retention(&state, &run).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Show what the retention rules of a run would delete now, and the bytes that this would free.
#[utoipa::path(
    get, path = "/v1/runs/{run}/retention/preview", tag = "retention",
    params(("run" = String, Path, description = "Id or name.")),
    responses((status = 200, body = RetentionPreview)),
)]
async fn preview_retention(
    State(state): State<AppState>,
    Path(run): Path<String>,
) -> ApiResult<axum::Json<RetentionPreview>> {
    Ok(preview(app::retention::preview(&state, &run, None).await?))
}

/// Show what other rules would delete, without setting them.
#[utoipa::path(
    post, path = "/v1/runs/{run}/retention/preview", tag = "retention", request_body = Retention,
    params(("run" = String, Path, description = "Id or name.")),
    responses((status = 200, body = RetentionPreview)),
)]
async fn try_retention(
    State(state): State<AppState>,
    Path(run): Path<String>,
    body: Json<Retention>,
) -> ApiResult<axum::Json<RetentionPreview>> {
    Ok(preview(app::retention::preview(&state, &run, Some(body.value.into())).await?))
}
