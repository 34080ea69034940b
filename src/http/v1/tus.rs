//! Uploads by the [tus protocol](https://tus.io/protocols/resumable-upload), version 1.0.0: core, creation, termination.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn, map_response},
    response::{IntoResponse, Response},
};
use utoipa_axum::routes;

use crate::{
    app::{
        self, AppError, AppResult,
        idempotency::Reply,
        multipart::tus::{self, Progress},
    },
    domain::{ids::UploadId, problem_code::ProblemCode},
    http::{
        ApiRouter,
        extract::{Path, Upload},
        problem::{ApiError, ApiResult},
    },
    state::AppState,
};

const VERSION: &str = "1.0.0";
const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const APPENDED: &str = "application/offset+octet-stream";

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(tus_options, tus_create))
        .routes(routes!(tus_progress, tus_append, tus_terminate))
        .layer(from_fn(check_version))
        .layer(map_response(with_version))
}

/// Every request but OPTIONS tells the version that it speaks.
async fn check_version(request: Request, next: Next) -> Response {
    let told = request.headers().get(&TUS_RESUMABLE);
    if request.method() == Method::OPTIONS || told.is_some_and(|told| told == VERSION) {
        return next.run(request).await;
    }
    let detail = format!("send the header `Tus-Resumable: {VERSION}`");
    let refused = AppError::fault(ProblemCode::TusVersion, "tus-resumable", detail);
    let mut response = ApiError::from(refused).into_response();
    response.headers_mut().insert(TUS_VERSION, HeaderValue::from_static(VERSION));
    response
}

async fn with_version(mut response: Response) -> Response {
    response.headers_mut().insert(TUS_RESUMABLE, HeaderValue::from_static(VERSION));
    response
}

fn number(headers: &HeaderMap, name: &HeaderName) -> AppResult<u64> {
    let value = headers.get(name).and_then(|value| value.to_str().ok()?.parse().ok());
    value.ok_or_else(|| AppError::fault(ProblemCode::BadRequest, name.as_str(), "must be a whole number of bytes"))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What of tus this server speaks.
#[utoipa::path(options, path = "/v1/tus", tag = "tus", responses((status = 204, description = "See the headers.")))]
async fn tus_options(State(state): State<AppState>) -> impl IntoResponse {
    let headers = [
        (TUS_VERSION, HeaderValue::from_static(VERSION)),
        (TUS_EXTENSION, HeaderValue::from_static("creation,termination")),
        (TUS_MAX_SIZE, HeaderValue::from(state.config.uploads.max_upload_bytes)),
    ];
    (StatusCode::NO_CONTENT, headers)
}

/// Begin an upload by tus.
///
/// `Upload-Metadata` has `run` and `step`, and may have `epoch`, `metrics` (`name:value,…`), `tags` and `digest_blake3`; for a
/// dataset it has `dataset`, and may have `scale`, `mean`, `std` and `digest_blake3`. Other keys are passed over.
#[utoipa::path(
    post, path = "/v1/tus", tag = "tus",
    params(
        ("Tus-Resumable" = String, Header, description = "`1.0.0`"),
        ("Upload-Length" = u64, Header, description = "Size of the file."),
        ("Upload-Metadata" = String, Header, description = "Keys with values in base64."),
    ),
    responses((status = 201, headers(("Location" = String, description = "Where to append.")))),
)]
async fn tus_create(State(state): State<AppState>, headers: HeaderMap) -> ApiResult<Response> {
    let length = number(&headers, &UPLOAD_LENGTH)?;
    let reply = tus::create_upload(&state, length, text(&headers, "upload-metadata"), |upload_id| {
        let location = Some(format!("/v1/tus/{upload_id}"));
        Ok(Reply { status: StatusCode::CREATED.as_u16(), location, body: String::new() })
    })
    .await?;
    Ok(reply.into_response())
}

fn at(progress: Progress) -> [(HeaderName, HeaderValue); 3] {
    [
        (UPLOAD_OFFSET, HeaderValue::from(progress.offset)),
        (UPLOAD_LENGTH, HeaderValue::from(progress.length)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ]
}

/// Ask how far an upload is.
#[utoipa::path(
    head, path = "/v1/tus/{upload_id}", tag = "tus",
    params(
        ("upload_id" = uuid::Uuid, Path, description = "Identifier."),
        ("Tus-Resumable" = String, Header, description = "`1.0.0`"),
    ),
    responses((status = 200, headers(("Upload-Offset" = u64, description = "Where to go on.")))),
)]
async fn tus_progress(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<impl IntoResponse> {
    let id: UploadId = id.parse()?;
    Ok(at(tus::find_progress(&state, id).await?))
}

/// Append to an upload; with its last byte it is completed.
///
/// What is appended counts in whole parts, of which `GET /v1/uploads/{upload_id}` tells the size: a body that ends or breaks inside
/// a part has to send that part again.
#[utoipa::path(
    patch, path = "/v1/tus/{upload_id}", tag = "tus",
    params(
        ("upload_id" = uuid::Uuid, Path, description = "Identifier."),
        ("Tus-Resumable" = String, Header, description = "`1.0.0`"),
        ("Upload-Offset" = u64, Header, description = "Where the body belongs: where the upload stands."),
    ),
    request_body(content = Vec<u8>, content_type = "application/offset+octet-stream"),
    responses((status = 204, headers(("Upload-Offset" = u64, description = "Where to go on.")))),
)]
async fn tus_append(
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Upload,
) -> ApiResult<impl IntoResponse> {
    let id: UploadId = id.parse()?;
    if text(&headers, "content-type") != Some(APPENDED) {
        let detail = format!("the body must be `{APPENDED}`");
        return Err(AppError::refused(ProblemCode::UnsupportedMediaType, detail).into());
    }
    let offset = number(&headers, &UPLOAD_OFFSET)?;
    let progress = tus::append(&state, id, offset, body.body).await?;
    Ok((StatusCode::NO_CONTENT, at(progress)))
}

/// Give an upload up.
#[utoipa::path(
    delete, path = "/v1/tus/{upload_id}", tag = "tus",
    params(
        ("upload_id" = uuid::Uuid, Path, description = "Identifier."),
        ("Tus-Resumable" = String, Header, description = "`1.0.0`"),
    ),
    responses((status = 204, description = "It is gone.")),
)]
async fn tus_terminate(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    let id: UploadId = id.parse()?;
    app::multipart::abort_upload(&state, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
