//! Uploads in parts.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use barycenter_api::{
    Checkpoint, CreateUpload, ListUploads, Page, PartUrl, PartUrls, PutPart, RegisterCheckpoint, SignParts, Upload,
    UploadPart, UploadState, UploadTarget, tree,
};
use utoipa_axum::routes;

use crate::{
    app::{
        self, AppError, AppResult, PutOutcome,
        multipart::create::{Begun, NewTarget, NewUpload},
        register::NewRegistration,
    },
    domain::{
        checkpoint::Reported,
        ids::UploadId,
        problem_code::ProblemCode,
        upload::{self, MultipartUpload, ToldNormalisation},
    },
    http::{
        ApiRouter,
        extract::{self, Json, Path, Query, parse_page},
        problem::ApiResult,
        reply,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(create_upload, list_uploads))
        .routes(routes!(show_upload, abort_upload))
        .routes(routes!(put_part))
        .routes(routes!(list_parts))
        .routes(routes!(sign_parts))
        .routes(routes!(complete_upload))
        .routes(routes!(register_checkpoint))
}

fn new_target(target: UploadTarget) -> AppResult<NewTarget> {
    Ok(match target {
        UploadTarget::Checkpoint { run, step, epoch, metrics, tags } => {
            NewTarget::Checkpoint { run, step, reported: Reported::new(epoch, metrics, tags)? }
        }
        UploadTarget::File { run } => NewTarget::File { run },
        UploadTarget::Dataset { name, scale, mean, std } => {
            NewTarget::Dataset { name, told: ToldNormalisation { scale, mean, std } }
        }
    })
}

impl From<upload::UploadTarget> for UploadTarget {
    fn from(target: upload::UploadTarget) -> Self {
        match target {
            upload::UploadTarget::Checkpoint { run_id, step, reported } => {
                let Reported { epoch, metrics, tags } = reported;
                Self::Checkpoint { run: run_id.to_string(), step, epoch, metrics, tags }
            }
            upload::UploadTarget::File { run_id } => Self::File { run: run_id.to_string() },
            upload::UploadTarget::Dataset { name, told } => {
                let ToldNormalisation { scale, mean, std } = told;
                Self::Dataset { name, scale, mean, std }
            }
        }
    }
}

/// What is shown of an upload; when it lapses is for the settings to say.
fn shown(state: &AppState, upload: MultipartUpload) -> Upload {
    let stage = match (upload.outcome_id, upload.sealed_at) {
        (Some(_), _) => UploadState::Completed,
        (None, Some(_)) => UploadState::Completing,
        (None, None) => UploadState::Open,
    };
    let kind = upload.target.kind();
    let completed = upload.outcome_id.is_some();
    let part_count = upload.size_bytes.div_ceil(upload.part_size_bytes);
    Upload {
        upload_id: upload.upload_id.0,
        state: stage,
        size_bytes: upload.size_bytes,
        part_size_bytes: upload.part_size_bytes,
        part_count,
        digest_blake3: upload.digest_blake3,
        received_parts: if completed { part_count } else { upload.received_parts },
        received_bytes: if completed { upload.size_bytes } else { upload.received_bytes },
        checkpoint_id: upload.outcome_id.filter(|_| kind == "checkpoint"),
        dataset_id: upload.outcome_id.filter(|_| kind == "dataset"),
        created_at: upload.created_at,
        lapses_at: upload.place.filter(|_| !completed).map(|place| place.renewed_at + state.config.uploads.patience()),
        target: upload.target.into(),
    }
}

fn shown_part(part: &upload::UploadPart) -> UploadPart {
    UploadPart {
        number: part.number,
        size_bytes: part.size_bytes,
        chaining_value_blake3: part.chaining_value.as_ref().map(tree::to_hex),
        stored_at: part.stored_at,
    }
}

/// Begin an upload in parts, or find the one that is open for the same bytes at the same place.
///
/// Whoever has lost track asks again with the same digest and gets the upload with what it has; what is told beside the file
/// takes the place of what was told before. Where the file is there already, the answer is a completed upload.
#[utoipa::path(
    post, path = "/v1/uploads", tag = "uploads", request_body = CreateUpload,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key again gets the same reply.")),
    responses(
        (status = 201, body = Upload, headers(("Location" = String, description = "Path of the upload."))),
        (status = 200, body = Upload, description = "It was open, or the file is there already."),
    ),
)]
async fn create_upload(State(state): State<AppState>, body: Json<CreateUpload>) -> ApiResult<Response> {
    let CreateUpload { target, size_bytes, digest_blake3, part_size_bytes } = body.value;
    let digest_blake3 = Some(digest_blake3);
    let new = NewUpload { target: new_target(target)?, size_bytes, part_size_bytes, digest_blake3 };
    let reply = app::multipart::create::create_upload(&state, new, body.idempotency.as_ref(), |begun| {
        let (status, upload) = match begun {
            Begun::Created(upload) => (StatusCode::CREATED, upload),
            Begun::Found(upload) => (StatusCode::OK, upload),
        };
        let location = format!("/v1/uploads/{}", upload.upload_id);
        reply::created(status, location, &shown(&state, upload))
    })
    .await?;
    Ok(reply.into_response())
}

/// List uploads in parts, newest first.
#[utoipa::path(
    get, path = "/v1/uploads", tag = "uploads", params(ListUploads),
    responses((status = 200, body = Page<Upload>)),
)]
async fn list_uploads(
    State(state): State<AppState>,
    Query(query): Query<ListUploads>,
) -> ApiResult<axum::Json<Page<Upload>>> {
    let page = parse_page(query.page_size, query.page_token.as_deref())?;
    let uploads = app::multipart::list_uploads(&state, query.run.as_deref(), page).await?;
    Ok(axum::Json(Page {
        items: uploads.items.into_iter().map(|upload| shown(&state, upload)).collect(),
        next_page_token: uploads.next.map(|id| id.simple().to_string()),
    }))
}

/// Show an upload in parts.
#[utoipa::path(
    get, path = "/v1/uploads/{upload_id}", tag = "uploads",
    params(("upload_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = Upload)),
)]
async fn show_upload(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<axum::Json<Upload>> {
    let id: UploadId = id.parse()?;
    let upload = app::multipart::find_upload(&state, id).await?;
    Ok(axum::Json(shown(&state, upload)))
}

/// Abort an upload in parts and give its bytes back.
#[utoipa::path(
    delete, path = "/v1/uploads/{upload_id}", tag = "uploads",
    params(("upload_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 204, description = "It is gone.")),
)]
async fn abort_upload(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    let id: UploadId = id.parse()?;
    app::multipart::abort_upload(&state, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Send a part: in any order, several at a time; one that was there is replaced.
///
/// Part n holds the bytes from (n - 1) x `part_size_bytes` on. The first part is refused where the file's header is bad.
#[utoipa::path(
    put, path = "/v1/uploads/{upload_id}/parts/{number}", tag = "uploads",
    params(
        ("upload_id" = uuid::Uuid, Path, description = "Identifier."),
        ("number" = u64, Path, description = "Number of the part, from 1.", minimum = 1),
        PutPart,
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = UploadPart)),
)]
async fn put_part(
    State(state): State<AppState>,
    Path((id, number)): Path<(String, String)>,
    Query(query): Query<PutPart>,
    part: extract::Upload,
) -> ApiResult<axum::Json<UploadPart>> {
    let id: UploadId = id.parse()?;
    let part = part.announced(query.chaining_value_blake3);
    let received = app::multipart::receive::receive_part(&state, id, &number, part).await?;
    Ok(axum::Json(shown_part(&received)))
}

/// List the parts that are there, in order.
#[utoipa::path(
    get, path = "/v1/uploads/{upload_id}/parts", tag = "uploads",
    params(("upload_id" = uuid::Uuid, Path, description = "Identifier."), barycenter_api::ListQuery),
    responses((status = 200, body = Page<UploadPart>)),
)]
async fn list_parts(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<barycenter_api::ListQuery>,
) -> ApiResult<axum::Json<Page<UploadPart>>> {
    let id: UploadId = id.parse()?;
    let size = parse_page(query.page_size, None)?.size;
    let after = query.page_token.map_or(Ok(0), |token| token.parse()).map_err(|_| {
        AppError::fault(ProblemCode::InvalidQuery, "page_token", "is no token that an earlier page returned")
    })?;
    let (parts, more) = app::multipart::list_parts(&state, id, after, size).await?;
    let next_page_token = parts.last().filter(|_| more).map(|part| part.number.to_string());
    Ok(axum::Json(Page { items: parts.iter().map(shown_part).collect(), next_page_token }))
}

/// Sign URLs by which parts can be sent to the store directly, for those that are sent next.
///
/// Parts that were sent so are found in the store when parts are listed and when the upload is completed, which reads them
/// back. Where the store signs no URLs, parts go through the server.
#[utoipa::path(
    post, path = "/v1/uploads/{upload_id}/part_urls", tag = "uploads", request_body = SignParts,
    params(("upload_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = PartUrls)),
)]
async fn sign_parts(
    State(state): State<AppState>,
    Path(id): Path<String>,
    body: Json<SignParts>,
) -> ApiResult<axum::Json<PartUrls>> {
    let id: UploadId = id.parse()?;
    let signed = app::multipart::direct::sign_parts(&state, id, &body.value.numbers).await?;
    let urls = signed.into_iter().map(|part| PartUrl {
        number: part.number,
        size_bytes: part.size_bytes,
        url: part.url,
        expires_at: part.expires_at,
    });
    Ok(axum::Json(PartUrls { urls: urls.collect() }))
}

/// Complete an upload: verify all of it and make the file visible. Asked again, it answers the same.
///
/// Missing parts and another digest than was announced leave the upload open. A file that is not sound is refused and gone.
#[utoipa::path(
    post, path = "/v1/uploads/{upload_id}/complete", tag = "uploads",
    params(("upload_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((
        status = 200, body = Upload, headers(("Location" = String, description = "Path of the checkpoint, file or dataset.")),
    )),
)]
async fn complete_upload(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<Response> {
    let id: UploadId = id.parse()?;
    let upload = shown(&state, app::multipart::complete::complete_upload(&state, id).await?);
    let location = match (upload.checkpoint_id, upload.dataset_id, &upload.target, &upload.digest_blake3) {
        (Some(id), ..) => format!("/v1/checkpoints/{id}"),
        (None, Some(id), ..) => format!("/v1/datasets/{id}"),
        (.., UploadTarget::File { run }, Some(digest)) => format!("/v1/runs/{run}/files/{digest}"),
        (.., UploadTarget::File { run }, None) => format!("/v1/runs/{run}"),
        _ => return Err(AppError::internal("an upload was completed and became nothing").into()),
    };
    Ok(([(header::LOCATION, location)], axum::Json(upload)).into_response())
}

/// Make a safetensors file that lies below an allowed prefix a checkpoint, in place.
///
/// The file is read to verify its header, its numbers and its digest; no byte is stored, and the file is never deleted.
#[utoipa::path(
    post, path = "/v1/runs/{run}/checkpoints/register", tag = "checkpoints", request_body = RegisterCheckpoint,
    params(
        ("run" = String, Path, description = "Id or name."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key again gets the same reply."),
    ),
    responses(
        (status = 201, body = Checkpoint, headers(("Location" = String, description = "Path of the checkpoint."))),
        (status = 200, body = Checkpoint, description = "The run already had these bytes at this step."),
    ),
)]
async fn register_checkpoint(
    State(state): State<AppState>,
    Path(run): Path<String>,
    body: Json<RegisterCheckpoint>,
) -> ApiResult<Response> {
    let RegisterCheckpoint { step, url, digest_blake3, epoch, metrics, tags } = body.value;
    let reported = Reported::new(epoch, metrics, tags).map_err(AppError::from)?;
    let new = NewRegistration { run, step, url, digest_blake3, reported };
    let reply = app::register::register_checkpoint(&state, new, body.idempotency.as_ref(), |outcome| {
        let (status, checkpoint) = match outcome {
            PutOutcome::Created(checkpoint) => (StatusCode::CREATED, checkpoint),
            PutOutcome::Existing(checkpoint) => (StatusCode::OK, checkpoint),
        };
        let location = format!("/v1/checkpoints/{}", checkpoint.checkpoint_id);
        reply::created(status, location, &Checkpoint::from(checkpoint))
    })
    .await?;
    Ok(reply.into_response())
}
