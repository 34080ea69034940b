//! JSON documents with an `ETag`.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use headers::{ETag, HeaderMapExt, IfNoneMatch};
use serde::Serialize;

use super::problem::ApiResult;
use crate::app::AppError;

/// The answer to a caller who has the document of this tag; `None` where the caller has another, or none.
pub(super) fn unchanged(request: &HeaderMap, etag: &str) -> Option<Response> {
    let tag: ETag = etag.parse().ok()?;
    let condition = request.typed_get::<IfNoneMatch>()?;
    (!condition.precondition_passes(&tag)).then(|| tagged(StatusCode::NOT_MODIFIED.into_response(), tag))
}

/// The tag of a document as [`respond`] has written it.
pub(super) fn tag_of(response: &Response) -> Option<String> {
    Some(response.headers().get(header::ETAG)?.to_str().ok()?.to_owned())
}

/// Answers a GET of a document; the digest of its text is its `ETag`, so whoever polls pays for changes only.
pub(super) fn respond(request: &HeaderMap, document: &impl Serialize) -> ApiResult<Response> {
    let text = serde_json::to_string(document).map_err(AppError::internal)?;
    let etag: ETag = format!("\"{}\"", blake3::hash(text.as_bytes()).to_hex())
        .parse()
        .map_err(|_| AppError::internal("a digest makes a valid ETag"))?;
    let unchanged = request.typed_get::<IfNoneMatch>().is_some_and(|condition| !condition.precondition_passes(&etag));
    let response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
    };
    Ok(tagged(response, etag))
}

fn tagged(mut response: Response, etag: ETag) -> Response {
    response.headers_mut().typed_insert(etag);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    response
}
