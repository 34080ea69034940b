//! Files on their way out: strong `ETag`, `If-None-Match`, single ranges with `If-Range` (RFC 9110).

use std::ops::Range;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use headers::{ETag, HeaderMapExt, IfNoneMatch, IfRange};

use super::problem::{ApiError, ApiResult};
use crate::{
    app::{self, AppError},
    domain::{blob::Blob, problem_code::ProblemCode},
    state::AppState,
};

/// Answers a GET or HEAD of a blob; its digest is its `ETag`, so a copy never goes stale.
pub(super) async fn respond(
    state: &AppState,
    method: &Method,
    request: &HeaderMap,
    blob: &Blob,
) -> ApiResult<Response> {
    let etag_text = format!("\"{}\"", blob.digest_blake3);
    let etag: ETag = etag_text.parse().map_err(|_| AppError::internal("a digest makes a valid ETag"))?;
    let unchanged = request.typed_get::<IfNoneMatch>().is_some_and(|condition| !condition.precondition_passes(&etag));
    if unchanged {
        return Ok(with_validators(StatusCode::NOT_MODIFIED.into_response(), &etag_text));
    }
    let asked = match requested_range(request, &etag, blob.size_bytes) {
        Ok(asked) => asked,
        Err(unsatisfiable) => return Ok(with_validators(unsatisfiable.into_response(), &etag_text)),
    };
    let range = asked.clone().unwrap_or(0..blob.size_bytes);
    let length = range.end - range.start;
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        Body::from_stream(app::blobs::open_range(state, blob, range.clone()).await?)
    };
    let status = if asked.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if asked.is_some() {
        headers.typed_insert(content_range(&range, blob.size_bytes)?);
    }
    Ok(with_validators(response, &etag_text))
}

fn content_range(range: &Range<u64>, size: u64) -> ApiResult<headers::ContentRange> {
    headers::ContentRange::bytes(range.clone(), size)
        .map_err(|_| AppError::internal("a satisfiable range is a valid content range").into())
}

fn with_validators(mut response: Response, etag: &str) -> Response {
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // The bytes behind an id never change; but whoever lost the token must not read them from a shared cache.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable"));
    response
}

/// A range that lies outside the file.
struct Unsatisfiable {
    size: u64,
}

impl IntoResponse for Unsatisfiable {
    fn into_response(self) -> Response {
        let detail = format!("the file has {} bytes", self.size);
        let mut response = ApiError(AppError::refused(ProblemCode::RangeNotSatisfiable, detail)).into_response();
        response.headers_mut().typed_insert(headers::ContentRange::unsatisfied_bytes(self.size));
        response
    }
}

/// The single range that is asked for. Several ranges, malformed ones, and those whose `If-Range` names another file are
/// ignored, as the RFC allows: the answer is the whole file.
fn requested_range(request: &HeaderMap, etag: &ETag, size: u64) -> Result<Option<Range<u64>>, Unsatisfiable> {
    let Some(asked) = request.get(header::RANGE).and_then(|value| parse_range(value.to_str().ok()?)) else {
        return Ok(None);
    };
    if request.typed_get::<IfRange>().is_some_and(|condition| condition.is_modified(Some(etag), None)) {
        return Ok(None);
    }
    let range = match asked {
        AskedRange::From { first, last } => first..last.saturating_add(1).min(size),
        AskedRange::Last(count) => size.saturating_sub(count)..size,
    };
    if range.start < range.end { Ok(Some(range)) } else { Err(Unsatisfiable { size }) }
}

/// A range as RFC 9110, section 14.1.2, writes it. (`headers` takes a suffix that is longer than the file for unsatisfiable.)
enum AskedRange {
    /// `first-last` or, with the highest `last` there is, `first-`.
    From { first: u64, last: u64 },
    /// `-count`.
    Last(u64),
}

fn parse_range(text: &str) -> Option<AskedRange> {
    let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    match (first, last) {
        ("", count) => Some(AskedRange::Last(number(count)?)),
        (first, "") => Some(AskedRange::From { first: number(first)?, last: u64::MAX }),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(AskedRange::From { first, last })
        }
    }
}
