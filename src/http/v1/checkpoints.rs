//! Checkpoints.

use axum::{
    extract::State,
    http::{HeaderMap, Method},
    response::Response,
};
use barycenter_api::{Checkpoint, ListQuery, Page, PushCheckpoint, TensorInfo};
use utoipa_axum::routes;

use crate::{
    app::{self, checkpoints::NewCheckpoint},
    domain::{self, checkpoint::Reported, ids::CheckpointId},
    http::{
        ApiRouter, content,
        extract::{Path, Query, Upload, page_request},
        problem::ApiResult,
        reply,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(push_checkpoint))
        .routes(routes!(list_checkpoints))
        .routes(routes!(show_checkpoint))
        .routes(routes!(read_checkpoint))
        .routes(routes!(list_tensors))
}

impl From<domain::checkpoint::Checkpoint> for Checkpoint {
    fn from(checkpoint: domain::checkpoint::Checkpoint) -> Self {
        let Reported { epoch, metrics, tags } = checkpoint.reported;
        Self {
            checkpoint_id: checkpoint.checkpoint_id.0,
            run_id: checkpoint.run_id.0,
            step: checkpoint.step,
            epoch,
            metrics,
            tags,
            size_bytes: checkpoint.blob.size_bytes,
            digest_blake3: checkpoint.blob.digest_blake3,
            layout_blake3: checkpoint.layout_blake3,
            tensor_count: checkpoint.tensor_count,
            created_at: checkpoint.created_at,
        }
    }
}

/// Push a checkpoint: one safetensors file.
///
/// The header is checked before the body is stored. The same bytes at the same step again are answered with 200.
#[utoipa::path(
    put, path = "/v1/runs/{run}/checkpoints/{step}", tag = "checkpoints",
    params(
        ("run" = String, Path, description = "Id or name."),
        ("step" = i64, Path, description = "Training step, 0 or more.", minimum = 0),
        PushCheckpoint,
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, body = Checkpoint, headers(("Location" = String, description = "Path of the checkpoint."))),
        (status = 200, body = Checkpoint, description = "The run already had these bytes at this step."),
    ),
)]
async fn push_checkpoint(
    State(state): State<AppState>,
    Path((run, step)): Path<(String, String)>,
    Query(query): Query<PushCheckpoint>,
    upload: Upload,
) -> ApiResult<Response> {
    let reported = Reported::parse(query.epoch, query.metrics.as_deref(), query.tags.as_deref());
    let new = NewCheckpoint { run, step, reported: reported.map_err(app::AppError::from)? };
    let incoming = upload.announced(query.digest_blake3);
    let outcome = app::checkpoints::accept_checkpoint(&state, new, incoming).await?;
    Ok(reply::put::<_, Checkpoint>(outcome, |checkpoint| format!("/v1/checkpoints/{}", checkpoint.checkpoint_id)))
}

/// List a run's checkpoints, newest first.
#[utoipa::path(
    get, path = "/v1/runs/{run}/checkpoints", tag = "checkpoints",
    params(("run" = String, Path, description = "Id or name."), ListQuery),
    responses((status = 200, body = Page<Checkpoint>)),
)]
async fn list_checkpoints(
    State(state): State<AppState>,
    Path(run): Path<String>,
    Query(query): Query<ListQuery>,
) -> ApiResult<axum::Json<Page<Checkpoint>>> {
    let checkpoints = app::checkpoints::list_checkpoints(&state, &run, page_request(&query)?).await?;
    Ok(axum::Json(reply::page(checkpoints)))
}

/// Show a checkpoint.
#[utoipa::path(
    get, path = "/v1/checkpoints/{checkpoint_id}", tag = "checkpoints",
    params(("checkpoint_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = Checkpoint)),
)]
async fn show_checkpoint(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<axum::Json<Checkpoint>> {
    let id: CheckpointId = id.parse()?;
    Ok(axum::Json(app::checkpoints::find_checkpoint(&state, id).await?.into()))
}

/// Read a checkpoint's file, whole or in part.
#[utoipa::path(
    get, path = "/v1/checkpoints/{checkpoint_id}/content", tag = "checkpoints",
    params(
        ("checkpoint_id" = uuid::Uuid, Path, description = "Identifier."),
        ("Range" = Option<String>, Header, description = "One range of bytes."),
        ("If-None-Match" = Option<String>, Header, description = "Answer 304 where the digest is still this."),
    ),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, body = Vec<u8>, content_type = "application/octet-stream", description = "The range."),
        (status = 304, description = "The caller has it already."),
    ),
)]
async fn read_checkpoint(
    State(state): State<AppState>,
    Path(id): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let id: CheckpointId = id.parse()?;
    let checkpoint = app::checkpoints::find_checkpoint(&state, id).await?;
    content::respond(&state, &method, &headers, &checkpoint.blob).await
}

/// List a checkpoint's tensors, by name.
#[utoipa::path(
    get, path = "/v1/checkpoints/{checkpoint_id}/tensors", tag = "checkpoints",
    params(("checkpoint_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = Vec<TensorInfo>)),
)]
async fn list_tensors(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<axum::Json<Vec<TensorInfo>>> {
    let id: CheckpointId = id.parse()?;
    let tensors = app::checkpoints::list_tensors(&state, id).await?.into_iter();
    let wire = tensors.map(|tensor| TensorInfo { name: tensor.name, dtype: tensor.dtype, shape: tensor.shape });
    Ok(axum::Json(wire.collect()))
}
