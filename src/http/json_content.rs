//! JSON documents with an `ETag`.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use headers::{ETag, HeaderMapExt, IfNoneMatch};
use serde::Serialize;

use super::problem::ApiResult;
use crate::app::AppError;

/// Answers a GET of a document; the digest of its text is its `ETag`, so whoever polls pays for changes only.
pub(super) fn respond(request: &HeaderMap, document: &impl Serialize) -> ApiResult<Response> {
    let text = serde_json::to_string(document).map_err(AppError::internal)?;
    let etag: ETag = format!("\"{}\"", blake3::hash(text.as_bytes()).to_hex())
        .parse()
        .map_err(|_| AppError::internal("a digest makes a valid ETag"))?;
    let unchanged = request.typed_get::<IfNoneMatch>().is_some_and(|condition| !condition.precondition_passes(&etag));
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
    };
    response.headers_mut().typed_insert(etag);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(response)
}
