//! Artifacts as folders: the averaged model and the files that go with it.

use axum::{
    extract::State,
    http::{HeaderMap, Method},
    response::Response,
};
use barycenter_api::CheckpointFile;
use utoipa_axum::routes;

use crate::{
    app,
    domain::ids::ArtifactId,
    http::{ApiRouter, content, extract::Path, problem::ApiResult},
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new().routes(routes!(list_artifact_files)).routes(routes!(read_artifact_file))
}

/// List the files of an artifact, by name: the model as `model.safetensors`, and what goes with it (config, tokenizer).
///
/// The latter are those of the last candidate, or of the base model where adapters were averaged.
#[utoipa::path(
    get, path = "/v1/artifacts/{artifact_id}/files", tag = "artifacts",
    params(("artifact_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = Vec<CheckpointFile>)),
)]
async fn list_artifact_files(
    State(state): State<AppState>,
    Path(artifact_id): Path<ArtifactId>,
) -> ApiResult<axum::Json<Vec<CheckpointFile>>> {
    let files = app::artifact_files::list_files(&state, artifact_id).await?;
    Ok(axum::Json(files.into_iter().map(CheckpointFile::from).collect()))
}

/// Read a file of an artifact, whole or in part.
#[utoipa::path(
    get, path = "/v1/artifacts/{artifact_id}/files/{name}", tag = "artifacts",
    params(
        ("artifact_id" = uuid::Uuid, Path, description = "Id."),
        ("name" = String, Path, description = "Name of the file."),
        ("Range" = Option<String>, Header, description = "One range of bytes."),
        ("If-None-Match" = Option<String>, Header, description = "Answer 304 where the digest is still this."),
    ),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, body = Vec<u8>, content_type = "application/octet-stream", description = "The range."),
        (status = 304, description = "The caller has it already."),
    ),
)]
async fn read_artifact_file(
    State(state): State<AppState>,
    Path((artifact_id, name)): Path<(ArtifactId, String)>,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let blob = app::artifact_files::find_file(&state, artifact_id, &name).await?;
    content::respond(&state, &method, &headers, &blob).await
}
