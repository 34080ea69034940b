//! Artifacts: averaged models and where they come from.

use axum::{
    extract::State,
    http::{HeaderMap, Method},
    response::Response,
};
use barycenter_api::{Artifact, DroppedArtifact, EditArtifact, Lineage, ListArtifacts, Manifest, Page};
use utoipa_axum::routes;

use crate::{
    app,
    domain::ids::ArtifactId,
    http::{
        ApiRouter, content,
        extract::{Json, Path, Query, Upload, parse_page},
        problem::ApiResult,
        reply,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(show_artifact, edit_artifact))
        .routes(routes!(show_manifest))
        .routes(routes!(show_lineage))
        .routes(routes!(read_artifact, restore_artifact))
        .routes(routes!(drop_artifact))
        .routes(routes!(read_kept_tensors))
        .routes(routes!(list_artifacts))
}

/// List artifacts, newest first.
#[utoipa::path(
    get, path = "/v1/artifacts", tag = "artifacts", params(ListArtifacts),
    responses((status = 200, body = Page<Artifact>)),
)]
async fn list_artifacts(
    State(state): State<AppState>,
    Query(query): Query<ListArtifacts>,
) -> ApiResult<axum::Json<Page<Artifact>>> {
    let page = parse_page(query.page_size, query.page_token.as_deref())?;
    let deleted = query.deleted.unwrap_or(false);
    let artifacts = app::artifacts::list_artifacts(&state, query.run.as_deref(), deleted, page).await?;
    Ok(axum::Json(reply::page(artifacts)))
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

/// Set when an artifact deletes itself or drops its bytes, unless an alias names it then.
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
    Ok(axum::Json(app::artifacts::edit_artifact(&state, artifact_id, &body.value).await?))
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
        (status = 410, description = "Its bytes were dropped: rebuild it."),
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

/// Drop an artifact's bytes, which a merge of its candidates makes again; the few tensors that no merge makes are kept.
///
/// Refused where an alias names it, and where the same bytes could not be made again. What it is made from can then not be deleted,
/// as before, for as long as the artifact is there.
#[utoipa::path(
    post, path = "/v1/artifacts/{artifact_id}/drop", tag = "artifacts",
    params(("artifact_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = DroppedArtifact)),
)]
async fn drop_artifact(
    State(state): State<AppState>,
    Path(artifact_id): Path<ArtifactId>,
) -> ApiResult<axum::Json<DroppedArtifact>> {
    Ok(axum::Json(app::drops::drop_artifact(&state, artifact_id).await?))
}

/// Read what was kept of a dropped artifact: a safetensors file of the tensors that no merge of the candidates makes.
#[utoipa::path(
    get, path = "/v1/artifacts/{artifact_id}/kept", tag = "artifacts",
    params(("artifact_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")),
)]
async fn read_kept_tensors(
    State(state): State<AppState>,
    Path(artifact_id): Path<ArtifactId>,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let blob = app::drops::find_kept_blob(&state, artifact_id).await?;
    content::respond(&state, &method, &headers, &blob).await
}

/// Give a dropped artifact its bytes again: those of its digest and no others.
#[utoipa::path(
    put, path = "/v1/artifacts/{artifact_id}/content", tag = "artifacts",
    params(("artifact_id" = uuid::Uuid, Path, description = "Id.")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Artifact)),
)]
async fn restore_artifact(
    State(state): State<AppState>,
    Path(artifact_id): Path<ArtifactId>,
    upload: Upload,
) -> ApiResult<axum::Json<Artifact>> {
    Ok(axum::Json(app::drops::restore_artifact(&state, artifact_id, upload.announced(None)).await?))
}
