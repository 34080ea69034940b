//! Checkpoints of several files, and the files that come for them.

use axum::{
    extract::State,
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use barycenter_api::{
    Checkpoint, CheckpointFile, CompareTensors, CreateCheckpoint, EqualTensors, FileKind, NamedFile, PutFile,
    RegisterFile, StagedFile, StagedKind,
};
use utoipa_axum::routes;

use crate::{
    app::{
        self, AppError, AppResult, PutOutcome,
        checkpoint_files::{ListedFile, NewCheckpoint},
        files::{NewFile, NewRegisteredFile, RunFile},
        idempotency::Reply,
    },
    domain::{self, checkpoint::Reported, ids::CheckpointId},
    http::{
        ApiRouter, content,
        extract::{Json, Path, Query, Upload},
        problem::ApiResult,
        reply,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(put_file, show_file))
        .routes(routes!(register_file))
        .routes(routes!(list_checkpoint_files))
        .routes(routes!(read_checkpoint_file))
        .routes(routes!(find_equal_tensors))
}

fn shown(state: &AppState, RunFile { run_id, file }: RunFile) -> StagedFile {
    StagedFile {
        run_id: run_id.0,
        digest_blake3: file.blob.digest_blake3,
        size_bytes: file.blob.size_bytes,
        is_weights: file.layout_blake3.is_some(),
        lapses_at: file.staged_at.map(|at| at + state.config.uploads.patience()),
    }
}

fn put_reply(state: &AppState, outcome: PutOutcome<RunFile>) -> AppResult<Reply> {
    let (status, file) = match outcome {
        PutOutcome::Created(file) => (StatusCode::CREATED, shown(state, file)),
        PutOutcome::Existing(file) => (StatusCode::OK, shown(state, file)),
    };
    reply::created(status, format!("/v1/runs/{}/files/{}", file.run_id, file.digest_blake3), &file)
}

/// Upload a file for a checkpoint of several files, which is made once all of them are there.
///
/// Large safetensors files may also come in parts, by tus, or be registered in place. A file that no checkpoint of the run
/// needs for as long as an upload in parts may be silent is removed.
#[utoipa::path(
    put, path = "/v1/runs/{run}/files/{digest_blake3}", tag = "checkpoints",
    params(
        ("run" = String, Path, description = "Id or name."),
        ("digest_blake3" = String, Path, description = "BLAKE3 digest of the file; other bytes are refused."),
        PutFile,
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, body = StagedFile, headers(("Location" = String, description = "Path of the file."))),
        (status = 200, body = StagedFile, description = "It was there; the body was not read."),
    ),
)]
async fn put_file(
    State(state): State<AppState>,
    Path((run, digest_blake3)): Path<(String, String)>,
    Query(query): Query<PutFile>,
    upload: Upload,
) -> ApiResult<Response> {
    let new = NewFile { run, digest_blake3, is_weights: query.kind == StagedKind::Weights };
    let outcome = app::files::accept_file(&state, new, upload.announced(None)).await?;
    Ok(put_reply(&state, outcome)?.into_response())
}

/// Show a file that is there for checkpoints of a run.
#[utoipa::path(
    get, path = "/v1/runs/{run}/files/{digest_blake3}", tag = "checkpoints",
    params(
        ("run" = String, Path, description = "Id or name."),
        ("digest_blake3" = String, Path, description = "BLAKE3 digest of the file."),
    ),
    responses((status = 200, body = StagedFile)),
)]
async fn show_file(
    State(state): State<AppState>,
    Path((run, digest_blake3)): Path<(String, String)>,
) -> ApiResult<axum::Json<StagedFile>> {
    let file = app::files::find_file(&state, &run, &digest_blake3).await?;
    Ok(axum::Json(shown(&state, file)))
}

/// Make a safetensors file that lies below an allowed prefix a file for checkpoints of a run, in place.
///
/// The file is read to verify its header, its numbers and its digest; no byte is stored, and the file is never deleted.
#[utoipa::path(
    post, path = "/v1/runs/{run}/files", tag = "checkpoints", request_body = RegisterFile,
    params(
        ("run" = String, Path, description = "Id or name."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key again gets the same reply."),
    ),
    responses(
        (status = 201, body = StagedFile, headers(("Location" = String, description = "Path of the file."))),
        (status = 200, body = StagedFile, description = "It was there."),
    ),
)]
async fn register_file(
    State(state): State<AppState>,
    Path(run): Path<String>,
    body: Json<RegisterFile>,
) -> ApiResult<Response> {
    let RegisterFile { url, digest_blake3 } = body.value;
    let new = NewRegisteredFile { run, url, digest_blake3 };
    let reply = app::files::register_file(&state, new, body.idempotency.as_ref(), |outcome| put_reply(&state, outcome));
    Ok(reply.await?.into_response())
}

fn named(file: NamedFile) -> domain::checkpoint_files::NamedFile {
    let NamedFile { name, digest_blake3, size_bytes } = file;
    domain::checkpoint_files::NamedFile { name, digest_blake3, size_bytes }
}

/// Make files that were uploaded before a checkpoint.
///
/// All of it becomes visible at once. Where files are missing the answer is 409 `files_missing`, which names each; nothing that
/// was uploaded is lost, and the same request may be sent again. The same files at the same step again are answered with 200.
#[utoipa::path(
    post, path = "/v1/runs/{run}/checkpoints", tag = "checkpoints", request_body = CreateCheckpoint,
    params(
        ("run" = String, Path, description = "Id or name."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key again gets the same reply."),
    ),
    responses(
        (status = 201, body = Checkpoint, headers(("Location" = String, description = "Path of the checkpoint."))),
        (status = 200, body = Checkpoint, description = "The run already had these files at this step."),
    ),
)]
pub(super) async fn create_checkpoint(
    State(state): State<AppState>,
    Path(run): Path<String>,
    body: Json<CreateCheckpoint>,
) -> ApiResult<Response> {
    let CreateCheckpoint { step, files, epoch, metrics, tags } = body.value;
    let reported = Reported::new(epoch, metrics, tags).map_err(AppError::from)?;
    let new = NewCheckpoint { run, step, reported, files: files.into_iter().map(named).collect() };
    let reply = app::checkpoint_files::create_checkpoint(&state, new, body.idempotency.as_ref(), |outcome| {
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

impl From<ListedFile> for CheckpointFile {
    fn from(ListedFile { file, kind }: ListedFile) -> Self {
        let kind = match kind {
            domain::checkpoint_files::FileKind::Weights => FileKind::Weights,
            domain::checkpoint_files::FileKind::Index => FileKind::Index,
            domain::checkpoint_files::FileKind::Other => FileKind::Other,
        };
        Self { name: file.name, kind, digest_blake3: file.digest_blake3, size_bytes: file.size_bytes }
    }
}

/// List a checkpoint's files, by name: at most 4096.
#[utoipa::path(
    get, path = "/v1/checkpoints/{checkpoint_id}/files", tag = "checkpoints",
    params(("checkpoint_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = Vec<CheckpointFile>)),
)]
async fn list_checkpoint_files(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Vec<CheckpointFile>>> {
    let id: CheckpointId = id.parse()?;
    let files = app::checkpoint_files::list_files(&state, id).await?;
    Ok(axum::Json(files.into_iter().map(CheckpointFile::from).collect()))
}

/// Read a file of a checkpoint, whole or in part.
#[utoipa::path(
    get, path = "/v1/checkpoints/{checkpoint_id}/files/{name}", tag = "checkpoints",
    params(
        ("checkpoint_id" = uuid::Uuid, Path, description = "Identifier."),
        ("name" = String, Path, description = "Name of the file in the checkpoint."),
        ("Range" = Option<String>, Header, description = "One range of bytes."),
        ("If-None-Match" = Option<String>, Header, description = "Answer 304 where the digest is still this."),
    ),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, body = Vec<u8>, content_type = "application/octet-stream", description = "The range."),
        (status = 304, description = "The caller has it already."),
    ),
)]
async fn read_checkpoint_file(
    State(state): State<AppState>,
    Path((id, name)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let id: CheckpointId = id.parse()?;
    let blob = app::checkpoint_files::find_file(&state, id, &name).await?;
    content::respond(&state, &method, &headers, &blob).await
}

/// Compare two checkpoints tensor by tensor: which are equal byte for byte, such as frozen embeddings.
///
/// The digests of a file's tensors are computed when somebody first asks, by reading it once, and kept: the first answer about a
/// large checkpoint takes its time.
#[utoipa::path(
    get, path = "/v1/checkpoints/{checkpoint_id}/equal_tensors", tag = "checkpoints",
    params(("checkpoint_id" = uuid::Uuid, Path, description = "Identifier."), CompareTensors),
    responses((status = 200, body = EqualTensors)),
)]
async fn find_equal_tensors(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<CompareTensors>,
) -> ApiResult<axum::Json<EqualTensors>> {
    let found = app::equal_tensors::find_equal_tensors(&state, id.parse()?, query.with.into()).await?;
    Ok(axum::Json(EqualTensors {
        checkpoint_id: found.checkpoint.checkpoint_id.0,
        step: found.checkpoint.step,
        with: found.other.checkpoint_id.0,
        with_step: found.other.step,
        tensor_count: found.checkpoint.tensor_count,
        tensor_bytes: found.tensor_bytes,
        equal_count: found.equal.len() as u64,
        equal_bytes: found.equal.iter().map(|(_, bytes)| bytes).sum(),
        equal: found.equal.into_iter().map(|(name, _)| name).collect(),
    }))
}
