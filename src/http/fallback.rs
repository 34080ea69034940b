//! Answers to requests that no route takes.

use axum::http::{Method, Uri};

use super::problem::ApiError;
use crate::{app::AppError, domain::problem_code::ProblemCode};

/// There is no such path.
pub(super) async fn route_not_found(uri: Uri) -> ApiError {
    AppError::refused(ProblemCode::RouteNotFound, format!("there is no path `{}`", uri.path())).into()
}

/// The path does not support this method.
pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let detail = format!("`{}` does not support {method}", uri.path());
    AppError::refused(ProblemCode::MethodNotAllowed, detail).into()
}
