//! Errors as RFC 9457 problem details.
//!
//! A handler's error becomes a response that carries a [`Draft`]; the middleware [`complete`], which knows the path and
//! the request id, writes the body. So extractors, fallbacks, panics and handlers all give one shape.

use std::sync::Arc;

use axum::{
    Json,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use barycenter_api::{FieldError, Problem};

use super::middleware::request_id_of;
use crate::{
    app::AppError,
    domain::problem_code::{ProblemCode, Retry},
};

/// The error of every handler.
#[derive(Debug)]
pub struct ApiError(pub AppError);

/// Result of a handler.
pub type ApiResult<T> = Result<T, ApiError>;

impl<E: Into<AppError>> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// A problem that still lacks its path and request id.
#[derive(Clone)]
struct Draft(Arc<AppError>);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = status_of(self.0.code()).into_response();
        response.extensions_mut().insert(Draft(Arc::new(self.0)));
        response
    }
}

fn status_of(code: ProblemCode) -> StatusCode {
    StatusCode::from_u16(code.status()).expect("the table holds valid statuses")
}

/// Middleware: writes the problem body of every error response.
pub(super) async fn complete(request: Request, next: Next) -> Response {
    let instance = request.uri().path().to_owned();
    let request_id = request_id_of(request.headers());
    let mut response = next.run(request).await;
    if let Some(Draft(error)) = response.extensions_mut().remove() {
        return render(&error, instance, request_id, &response);
    }
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let error = from_bare_status(status);
        return render(&error, instance, request_id, &response);
    }
    response
}

/// The error behind a response that a library made by itself.
fn from_bare_status(status: StatusCode) -> AppError {
    let code = ProblemCode::ALL.iter().copied().find(|code| code.status() == status.as_u16());
    match code {
        Some(code) if status.is_client_error() => AppError::refused(code, code.title()),
        None if status.is_client_error() => AppError::refused(ProblemCode::BadRequest, status.to_string()),
        _ => AppError::internal(format!("a response with status {status} and no error")),
    }
}

fn render(error: &AppError, instance: String, request_id: String, bare: &Response) -> Response {
    let code = error.code();
    let (detail, faults) = match error {
        AppError::Refused { detail, faults, .. } => (detail.clone(), faults.as_slice()),
        AppError::Unavailable { .. } | AppError::Internal(_) => {
            tracing::error!(error.code = code.as_str(), error = %chain(error), "request failed");
            (format!("{}; the log has more under this request id", code.title()), [].as_slice())
        }
    };
    let errors = faults.iter().map(|fault| FieldError { field: fault.field.clone(), detail: fault.detail.clone() });
    let problem = Problem {
        type_uri: format!("/problems/{}", code.as_str()),
        title: code.title().to_owned(),
        status: code.status(),
        detail,
        instance,
        code: code.as_str().to_owned(),
        request_id,
        errors: errors.collect(),
    };
    let mut response = (status_of(code), Json(problem)).into_response();
    // `Allow`, `Content-Range` and the like, which the error's maker knew; its body and what describes it are replaced.
    for (name, value) in bare.headers() {
        if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let AppError::Unavailable { retry_after, .. } = error {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after.as_secs()));
    } else if code.retry() == Retry::Later {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(1));
    }
    response
}

/// The error and its causes, outermost first.
fn chain(error: &AppError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

/// The response to a panic: a problem like any other; the panic itself goes to the log with its place.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands the panic over by value")]
pub(super) fn from_panic(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into());
    ApiError(AppError::internal(format!("panic: {text}"))).into_response()
}
