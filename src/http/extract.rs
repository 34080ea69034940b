//! Extractors that refuse unknown fields and answer with problems.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request, rejection::JsonRejection},
    http::{HeaderMap, header, request::Parts},
};
use barycenter_api::ListQuery;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{lingering::LingeringBody, problem::ApiError};
use crate::{
    app::{AppError, AppResult, Incoming, blobs::ByteStream, idempotency::IdempotentRequest},
    domain::{page::PageRequest, precondition::Precondition, problem_code::ProblemCode},
};

/// Largest JSON body that is read.
pub const MAX_JSON_BYTES: usize = 64 << 20;
/// Longest time between two chunks of an upload.
const MAX_SILENCE: Duration = Duration::from_mins(1);
const MAX_KEY_BYTES: usize = 255;
const DEFAULT_PAGE_SIZE: u32 = 100;
const MAX_PAGE_SIZE: u32 = 1000;

/// A JSON body; with an `Idempotency-Key`, also what identifies the request.
pub struct Json<T> {
    /// The body.
    pub value: T,
    /// Set where the caller sent an `Idempotency-Key`.
    pub idempotency: Option<IdempotentRequest>,
}

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        check_json_type(request.headers())?;
        let key = idempotency_key(request.headers())?;
        let operation = format!("{} {}", request.method(), request.uri().path());
        let bytes = read_all(request.into_body()).await?;
        let idempotency = key.map(|key| {
            let request_blake3 = blake3::hash(&bytes).to_hex().to_string();
            IdempotentRequest { operation, key, request_blake3 }
        });
        let value = axum::Json::<T>::from_bytes(&bytes).map_err(|rejection| refused_json(&rejection))?.0;
        Ok(Self { value, idempotency })
    }
}

fn check_json_type(headers: &HeaderMap) -> AppResult<()> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.ends_with("+json") {
        return Ok(());
    }
    let detail = format!("the body must be `application/json`, not `{given}`");
    Err(AppError::refused(ProblemCode::UnsupportedMediaType, detail))
}

async fn read_all(body: Body) -> AppResult<Bytes> {
    axum::body::to_bytes(body, MAX_JSON_BYTES).await.map_err(|error| {
        let too_long = std::error::Error::source(&error).is_some_and(<dyn std::error::Error>::is::<LengthLimitError>);
        if too_long {
            crate::app::blobs::too_large(MAX_JSON_BYTES as u64)
        } else {
            interrupted("the body ended before it was complete")
        }
    })
}

fn refused_json(rejection: &JsonRejection) -> AppError {
    // The rejection's own text repeats what the title says; its cause names field, line and column.
    let mut cause = std::error::Error::source(rejection);
    let mut detail = rejection.body_text();
    while let Some(source) = cause {
        detail = source.to_string();
        cause = source.source();
    }
    let code = match rejection {
        JsonRejection::JsonDataError(_) => ProblemCode::InvalidField,
        _ => ProblemCode::InvalidJson,
    };
    AppError::refused(code, detail)
}

fn idempotency_key(headers: &HeaderMap) -> AppResult<Option<String>> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= MAX_KEY_BYTES => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!("must be 1 to {MAX_KEY_BYTES} printable ASCII characters");
            Err(AppError::fault(ProblemCode::BadRequest, "idempotency-key", detail))
        }
    }
}

/// The `If-Match` or `If-None-Match` of a change.
pub struct Condition(pub Precondition);

impl<S: Sync> FromRequestParts<S> for Condition {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let text = |name| parts.headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let condition = Precondition::parse(text(header::IF_MATCH), text(header::IF_NONE_MATCH));
        let wrong = |detail| AppError::refused(ProblemCode::BadRequest, detail);
        Ok(Self(condition.map_err(wrong)?))
    }
}

/// Query parameters.
pub struct Query<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(query) => Ok(Self(query.0)),
            Err(rejection) => {
                let cause = std::error::Error::source(&rejection).map(ToString::to_string);
                let detail = cause.unwrap_or_else(|| rejection.body_text());
                Err(AppError::refused(ProblemCode::InvalidQuery, detail).into())
            }
        }
    }
}

/// Path parameters.
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(path) => Ok(Self(path.0)),
            Err(rejection) => Err(AppError::refused(ProblemCode::InvalidId, rejection.body_text()).into()),
        }
    }
}

/// A body that is streamed, with the length that was announced.
pub struct Upload {
    /// The bytes as they arrive.
    pub body: ByteStream,
    /// `Content-Length`; absent from chunked bodies.
    pub content_length: Option<u64>,
}

impl Upload {
    /// The file that a use case takes, with the digest that the query announced.
    pub fn announced(self, digest_blake3: Option<String>) -> Incoming {
        Incoming { body: self.body, content_length: self.content_length, digest_blake3 }
    }
}

impl<S: Sync> FromRequest<S> for Upload {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let length = request.headers().get(header::CONTENT_LENGTH);
        let content_length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        let body = LingeringBody::new(request.into_body().into_data_stream());
        Ok(Self { body: stream::unfold(Some(body), next_chunk).boxed(), content_length })
    }
}

/// The next bytes of a body; a client that falls silent must not hold an upload open for ever.
async fn next_chunk(body: Option<LingeringBody>) -> Option<(AppResult<Bytes>, Option<LingeringBody>)> {
    let mut body = body?;
    match tokio::time::timeout(MAX_SILENCE, body.next()).await {
        Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(body))),
        Ok(Some(Err(error))) => {
            tracing::debug!(%error, "an upload broke off");
            Some((Err(interrupted("the body ended before it was complete")), None))
        }
        Ok(None) => None,
        Err(_) => Some((Err(interrupted(&format!("no byte came for {} seconds", MAX_SILENCE.as_secs()))), None)),
    }
}

fn interrupted(detail: &str) -> AppError {
    AppError::refused(ProblemCode::BodyInterrupted, detail)
}

/// Checks and converts the paging parameters.
pub fn page_request(query: &ListQuery) -> AppResult<PageRequest> {
    parse_page(query.page_size, query.page_token.as_deref())
}

/// Checks and converts paging parameters that stand among others.
pub fn parse_page(size: Option<u32>, token: Option<&str>) -> AppResult<PageRequest> {
    let size = page_size(size)?;
    let before = token.map(Uuid::try_parse).transpose().map_err(|_| wrong_page_token())?;
    Ok(PageRequest { size, before })
}

/// Items a page.
pub fn page_size(size: Option<u32>) -> AppResult<u32> {
    let size = size.unwrap_or(DEFAULT_PAGE_SIZE);
    if (1..=MAX_PAGE_SIZE).contains(&size) {
        return Ok(size);
    }
    Err(AppError::fault(ProblemCode::InvalidQuery, "page_size", format!("must be 1 to {MAX_PAGE_SIZE}, not {size}")))
}

/// The refusal of a page token that no page of this list returned.
pub fn wrong_page_token() -> AppError {
    AppError::fault(ProblemCode::InvalidQuery, "page_token", "is no token that an earlier page of this list returned")
}
