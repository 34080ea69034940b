//! Checkpoints.

use axum::{
    extract::State,
    http::{HeaderMap, Method},
    response::Response,
};
use barycenter_api::{Checkpoint, EditCheckpoint, ListCheckpoints, Page, PushCheckpoint, SortOrder, TensorInfo};
use utoipa_axum::routes;

use super::checkpoint_files;
use crate::{
    app::{self, AppError, AppResult, checkpoints::NewCheckpoint},
    domain::{
        self,
        checkpoint::{ReportEdit, Reported, parse_tags},
        checkpoint_list::{Bound, Cursor, Filter, ListRequest, Order, Sort},
        ids::CheckpointId,
        problem_code::ProblemCode,
    },
    http::{
        ApiRouter, content,
        extract::{Json, Path, Query, Upload, page_size, wrong_page_token},
        problem::ApiResult,
        reply,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(push_checkpoint, show_named_checkpoint))
        .routes(routes!(list_checkpoints, checkpoint_files::create_checkpoint))
        .routes(routes!(show_checkpoint, edit_checkpoint))
        .routes(routes!(pin_checkpoint, unpin_checkpoint))
        .routes(routes!(read_checkpoint))
        .routes(routes!(list_tensors))
}

impl From<domain::checkpoint::Checkpoint> for Checkpoint {
    fn from(checkpoint: domain::checkpoint::Checkpoint) -> Self {
        let size_bytes = checkpoint.size_bytes();
        let Reported { epoch, metrics, tags } = checkpoint.reported;
        Self {
            checkpoint_id: checkpoint.checkpoint_id.0,
            run_id: checkpoint.run_id.0,
            step: checkpoint.step,
            epoch,
            metrics,
            tags,
            size_bytes,
            file_count: checkpoint.files.map(|files| files.count),
            digest_blake3: checkpoint.blob.digest_blake3,
            layout_blake3: checkpoint.layout_blake3,
            tensor_count: checkpoint.tensor_count,
            pinned: checkpoint.pinned,
            created_at: checkpoint.created_at,
            deleted_at: None,
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

/// Show the checkpoint of a run that a step or an alias names.
#[utoipa::path(
    get, path = "/v1/runs/{run}/checkpoints/{step}", tag = "checkpoints",
    params(
        ("run" = String, Path, description = "Id or name."),
        ("step" = String, Path, description = "A step, `latest`, another alias or an id."),
    ),
    responses((status = 200, body = Checkpoint)),
)]
async fn show_named_checkpoint(
    State(state): State<AppState>,
    Path((run, name)): Path<(String, String)>,
) -> ApiResult<axum::Json<Checkpoint>> {
    Ok(axum::Json(app::aliases::find_named_checkpoint(&state, &run, &name).await?.into()))
}

/// List a run's checkpoints, newest first unless told otherwise.
#[utoipa::path(
    get, path = "/v1/runs/{run}/checkpoints", tag = "checkpoints",
    params(("run" = String, Path, description = "Id or name."), ListCheckpoints),
    responses((status = 200, body = Page<Checkpoint>)),
)]
async fn list_checkpoints(
    State(state): State<AppState>,
    Path(run): Path<String>,
    Query(query): Query<ListCheckpoints>,
) -> ApiResult<axum::Json<Page<Checkpoint>>> {
    let deleted = query.deleted.unwrap_or(false);
    let request = list_request(query)?;
    let (items, next) = if deleted {
        let page = app::checkpoints::list_deleted_checkpoints(&state, &run, &request).await?;
        let wire = |(checkpoint, at)| Checkpoint { deleted_at: Some(at), ..Checkpoint::from(checkpoint) };
        (page.items.into_iter().map(wire).collect(), page.next)
    } else {
        let page = app::checkpoints::list_checkpoints(&state, &run, &request).await?;
        (page.items.into_iter().map(Checkpoint::from).collect(), page.next)
    };
    Ok(axum::Json(Page { items, next_page_token: next.map(|cursor| cursor.to_string()) }))
}

fn list_request(query: ListCheckpoints) -> AppResult<ListRequest> {
    let wrong = |field, detail| AppError::fault(ProblemCode::InvalidQuery, field, detail);
    let order = query.order.map(|order| match order {
        SortOrder::Asc => Order::Ascending,
        SortOrder::Desc => Order::Descending,
    });
    let sort = Sort::parse(query.sort.as_deref(), order).map_err(|detail| wrong("sort", detail))?;
    let cursor = query.page_token.map(|token| token.parse::<Cursor>());
    let cursor = cursor.transpose().map_err(|()| wrong_page_token())?;
    if cursor.as_ref().is_some_and(|cursor| cursor.sort != sort) {
        return Err(wrong_page_token());
    }
    let filter = Filter {
        tags: parse_tags(&query.tag.unwrap_or_default()).map_err(|invalid| wrong("tag", invalid.detail))?,
        from_step: query.from_step,
        to_step: query.to_step,
        created_from: query.created_from,
        created_before: query.created_before,
        bounds: Bound::parse_list(&query.conditions.unwrap_or_default()).map_err(|detail| wrong("where", detail))?,
    };
    Ok(ListRequest { filter, sort, after: cursor.map(|cursor| cursor.position), size: page_size(query.page_size)? })
}

/// Report about a checkpoint after it was pushed: metrics are merged, tags are replaced.
#[utoipa::path(
    patch, path = "/v1/checkpoints/{checkpoint_id}", tag = "checkpoints", request_body = EditCheckpoint,
    params(("checkpoint_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = Checkpoint)),
)]
async fn edit_checkpoint(
    State(state): State<AppState>,
    Path(id): Path<String>,
    body: Json<EditCheckpoint>,
) -> ApiResult<axum::Json<Checkpoint>> {
    let id: CheckpointId = id.parse()?;
    let edit = ReportEdit { metrics: body.value.metrics, tags: body.value.tags };
    Ok(axum::Json(app::checkpoint_edits::edit_checkpoint(&state, id, edit).await?.into()))
}

/// Pin a checkpoint: no retention rule and no deletion takes it.
#[utoipa::path(
    put, path = "/v1/checkpoints/{checkpoint_id}/pin", tag = "checkpoints",
    params(("checkpoint_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = Checkpoint)),
)]
async fn pin_checkpoint(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<axum::Json<Checkpoint>> {
    let id: CheckpointId = id.parse()?;
    Ok(axum::Json(app::checkpoint_edits::pin_checkpoint(&state, id, true).await?.into()))
}

/// Unpin a checkpoint.
#[utoipa::path(
    delete, path = "/v1/checkpoints/{checkpoint_id}/pin", tag = "checkpoints",
    params(("checkpoint_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = Checkpoint)),
)]
async fn unpin_checkpoint(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<axum::Json<Checkpoint>> {
    let id: CheckpointId = id.parse()?;
    Ok(axum::Json(app::checkpoint_edits::pin_checkpoint(&state, id, false).await?.into()))
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

/// Read the file of a checkpoint that is one file, whole or in part.
///
/// A checkpoint of several files is answered with 409: each of them is read by its name.
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
    let blob = app::checkpoint_files::find_content(&state, id).await?;
    content::respond(&state, &method, &headers, &blob).await
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
