//! Signs of life.

use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};

use super::problem::ApiResult;
use crate::{app, state::AppState};

/// `/livez`, `/readyz`, `/metrics`: outside the API, without a token.
pub(super) fn router() -> Router<AppState> {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(check_ready))
        .route("/metrics", get(render_metrics))
}

async fn check_ready(State(state): State<AppState>) -> ApiResult<&'static str> {
    app::health::check_ready(&state).await?;
    Ok("ok\n")
}

async fn render_metrics(State(state): State<AppState>) -> impl IntoResponse {
    state.metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.render())
}
