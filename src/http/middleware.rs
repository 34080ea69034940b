//! What happens around every request: id, span, metrics, panics, token.

use std::time::Instant;

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use tower_http::{catch_panic::CatchPanicLayer, trace::TraceLayer};

use super::problem::{self, ApiError};
use crate::{
    app::AppError,
    config::AuthConfig,
    domain::{clock::Clock, problem_code::ProblemCode},
    state::AppState,
};

/// Names one exchange, in and out.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Puts everything around a router that holds for every path. The last layer is the outermost.
pub fn wrap(router: Router, clock: std::sync::Arc<dyn Clock>) -> Router {
    router
        .layer(CatchPanicLayer::custom(problem::from_panic))
        .layer(from_fn(problem::complete))
        .layer(from_fn(measure))
        .layer(TraceLayer::new_for_http().make_span_with(span).on_request(()).on_failure(()))
        .layer(from_fn_with_state(clock, name_request))
}

/// Refuses requests without the configured token.
pub(super) fn guard(router: Router<AppState>, auth: &AuthConfig) -> Router<AppState> {
    match auth.token_digest() {
        Some(expected) => router.layer(from_fn_with_state(expected, check_token)),
        None => router,
    }
}

async fn check_token(State(expected): State<blake3::Hash>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|value| value.strip_prefix("Bearer "));
    // Hashes compare in constant time, whatever the token's length.
    if token.is_some_and(|token| blake3::hash(token.as_bytes()) == expected) {
        return next.run(request).await;
    }
    let detail = "send the API token as `Authorization: Bearer <token>`";
    let mut response = ApiError::from(AppError::refused(ProblemCode::Unauthorized, detail)).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Takes the caller's request id where it is short and printable, makes one otherwise, and returns it.
async fn name_request(State(clock): State<std::sync::Arc<dyn Clock>>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(&REQUEST_ID);
    let usable = given.filter(|id| id.len() <= MAX_REQUEST_ID_BYTES && id.to_str().is_ok_and(|id| !id.is_empty()));
    let id = usable
        .cloned()
        .unwrap_or_else(|| HeaderValue::from_str(&clock.new_id().to_string()).expect("a UUID is a valid header value"));
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The request id that [`name_request`] left in the headers.
pub(super) fn request_id_of(headers: &HeaderMap) -> String {
    headers.get(&REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned()
}

fn span(request: &Request) -> tracing::Span {
    // The query may hold what users typed and the headers hold the token: neither is logged.
    tracing::info_span!(
        "http.request",
        request.id = %request_id_of(request.headers()),
        http.method = %request.method(),
        http.path = %request.uri().path(),
    )
}

async fn measure(request: Request, next: Next) -> Response {
    // Neither free methods nor paths with their ids: each would make a series of its own.
    let is_known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE]
        .contains(request.method());
    let method = if is_known { request.method().to_string() } else { "other".to_owned() };
    let route = request.extensions().get::<MatchedPath>().map_or("none".to_owned(), |path| path.as_str().to_owned());
    let started = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    let labels = [("method", method), ("route", route), ("status", status)];
    metrics::counter!("barycenter_http_requests_total", &labels).increment(1);
    metrics::histogram!("barycenter_http_request_duration_seconds", &labels).record(started.elapsed().as_secs_f64());
    response
}
