//! Artifacts: averaged models and where they come from.

use axum::{
    extract::State,
    http::{HeaderMap, Method},
    response::Response,
};
use barycenter_api::{Artifact, EditArtifact, Lineage, Manifest};
use utoipa_axum::routes;

use crate::{
    app,
    domain::ids::ArtifactId,
    http::{
        ApiRouter, content,
        extract::{Json, Path},
        problem::ApiResult,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(show_artifact, edit_artifact))
        .routes(routes!(show_manifest))
        .routes(routes!(show_lineage))
        .routes(routes!(read_artifact))
}

/// Show an artifact.
#[utoipa::path(
    get, path = "/v1/artifacts/{artifact_id}", tag = "artifacts",
    params(("artifact_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = Artifact)),
)]
async fn show_artifact(
    State(state): State<AppState>,
    Path(artifact_id): Path<ArtifactId>,
) -> ApiResult<axum::Json<Artifact>> {
    Ok(axum::Json(app::artifacts::find_artifact(&state, artifact_id).await?))
}

/// Set when an artifact deletes itself, unless an alias names it then.
#[utoipa::path(
    patch, path = "/v1/artifacts/{artifact_id}", tag = "artifacts", request_body = EditArtifact,
    params(("artifact_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = Artifact)),
)]
async fn edit_artifact(
    State(state): State<AppState>,
    Path(artifact_id): Path<ArtifactId>,
    body: Json<EditArtifact>,
) -> ApiResult<axum::Json<Artifact>> {
    Ok(axum::Json(app::artifacts::expire_artifact(&state, artifact_id, body.value.expires_at).await?))
}

/// Show everything needed to make an artifact again: candidates, coefficients, spec, report.
#[utoipa::path(
    get, path = "/v1/artifacts/{artifact_id}/manifest", tag = "artifacts",
    params(("artifact_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = Manifest)),
)]
async fn show_manifest(
    State(state): State<AppState>,
    Path(artifact_id): Path<ArtifactId>,
) -> ApiResult<axum::Json<Manifest>> {
    Ok(axum::Json(app::lineage::find_manifest(&state, artifact_id).await?))
}

/// Show where an artifact comes from: job, candidate set with its rule, checkpoints, datasets.
#[utoipa::path(
    get, path = "/v1/artifacts/{artifact_id}/lineage", tag = "artifacts",
    params(("artifact_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = Lineage)),
)]
async fn show_lineage(
    State(state): State<AppState>,
    Path(artifact_id): Path<ArtifactId>,
) -> ApiResult<axum::Json<Lineage>> {
    let lineage = app::lineage::find_lineage(&state, artifact_id).await?;
    Ok(axum::Json(Lineage {
        artifact_id: lineage.artifact.artifact_id.0,
        job_id: lineage.artifact.job_id.0,
        start_job_id: lineage.start_job_id,
        candidate_set: lineage.candidate_set.into(),
        base: lineage.base,
        datasets: lineage.datasets,
    }))
}

/// Read the averaged model's safetensors file, whole or in part.
#[utoipa::path(
    get, path = "/v1/artifacts/{artifact_id}/content", tag = "artifacts",
    params(
        ("artifact_id" = uuid::Uuid, Path, description = "Id."),
        ("Range" = Option<String>, Header, description = "One range of bytes."),
        ("If-None-Match" = Option<String>, Header, description = "Answer 304 where the digest is still this."),
    ),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, body = Vec<u8>, content_type = "application/octet-stream", description = "The range."),
        (status = 304, description = "The caller has it already."),
    ),
)]
async fn read_artifact(
    State(state): State<AppState>,
    Path(artifact_id): Path<ArtifactId>,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let blob = app::artifacts::find_artifact_blob(&state, artifact_id).await?;
    content::respond(&state, &method, &headers, &blob).await
}
