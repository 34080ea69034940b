//! HTTP: extract, call one function of `app`, convert.

mod content;
pub mod extract;
mod fallback;
mod health;
mod json_content;
mod lingering;
mod middleware;
mod openapi;
pub mod problem;
mod reply;
mod v1;

use axum::Router;
use utoipa_axum::router::OpenApiRouter;

pub use middleware::wrap;
pub use openapi::document;

use crate::state::AppState;

/// The whole router: the API, its description, health and metrics, behind the middleware.
pub fn router(state: AppState) -> Router {
    let clock = std::sync::Arc::clone(&state.clock);
    let (v1, _) = v1::router().split_for_parts();
    let v1 = middleware::guard(v1, &state.config.auth);
    let open = Router::new().merge(health::router()).merge(openapi::router());
    let router = v1.merge(open).fallback(fallback::route_not_found);
    let router = router.method_not_allowed_fallback(fallback::method_not_allowed).with_state(state);
    wrap(router, clock)
}

/// A router that knows its own OpenAPI description.
pub(crate) type ApiRouter = OpenApiRouter<AppState>;
