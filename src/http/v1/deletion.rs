//! Deletion in two steps: hidden at once and undeletable for the grace, then collected.

use axum::extract::State;
use barycenter_api::{Artifact, CandidateSet, Checkpoint, Deleted, Job, Run};
use utoipa_axum::routes;

use crate::{
    app,
    domain::ids::{ArtifactId, CandidateSetId, CheckpointId, JobId, RunId},
    http::{ApiRouter, extract::Path, problem::ApiResult},
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(delete_checkpoint))
        .routes(routes!(undelete_checkpoint))
        .routes(routes!(delete_candidate_set))
        .routes(routes!(undelete_candidate_set))
        .routes(routes!(delete_job))
        .routes(routes!(undelete_job))
        .routes(routes!(delete_artifact))
        .routes(routes!(undelete_artifact))
        .routes(routes!(delete_run))
        .routes(routes!(undelete_run))
}

fn deleted(deleted: app::deletion::Deleted) -> axum::Json<Deleted> {
    let app::deletion::Deleted { deleted_at, kept_until } = deleted;
    axum::Json(Deleted { deleted_at, kept_until })
}

/// Delete a checkpoint that is neither pinned nor needed by an alias, a candidate set or a job.
#[utoipa::path(
    delete, path = "/v1/checkpoints/{checkpoint_id}", tag = "checkpoints",
    params(("checkpoint_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = Deleted)),
)]
async fn delete_checkpoint(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<axum::Json<Deleted>> {
    let id: CheckpointId = id.parse()?;
    Ok(deleted(app::deletion::delete_checkpoint(&state, id).await?))
}

/// Bring a deleted checkpoint back.
#[utoipa::path(
    post, path = "/v1/checkpoints/{checkpoint_id}/undelete", tag = "checkpoints",
    params(("checkpoint_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = Checkpoint)),
)]
async fn undelete_checkpoint(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<Checkpoint>> {
    let id: CheckpointId = id.parse()?;
    app::deletion::undelete_checkpoint(&state, id).await?;
    Ok(axum::Json(app::checkpoints::find_checkpoint(&state, id).await?.into()))
}

/// Delete a candidate set that no job needs.
#[utoipa::path(
    delete, path = "/v1/candidate_sets/{candidate_set_id}", tag = "candidate sets",
    params(("candidate_set_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = Deleted)),
)]
async fn delete_candidate_set(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<axum::Json<Deleted>> {
    let id: CandidateSetId = id.parse()?;
    Ok(deleted(app::deletion::delete_candidate_set(&state, id).await?))
}

/// Bring a deleted candidate set back, whose members are all there.
#[utoipa::path(
    post, path = "/v1/candidate_sets/{candidate_set_id}/undelete", tag = "candidate sets",
    params(("candidate_set_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = CandidateSet)),
)]
async fn undelete_candidate_set(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> ApiResult<axum::Json<CandidateSet>> {
    let id: CandidateSetId = id.parse()?;
    app::deletion::undelete_candidate_set(&state, id).await?;
    Ok(axum::Json(app::candidate_sets::find_candidate_set(&state, id).await?.into()))
}

/// Delete a job that has ended and whose artifact, if it made one, is deleted.
#[utoipa::path(
    delete, path = "/v1/jobs/{job_id}", tag = "jobs",
    params(("job_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = Deleted)),
)]
async fn delete_job(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<axum::Json<Deleted>> {
    let id: JobId = id.parse()?;
    Ok(deleted(app::deletion::delete_job(&state, id).await?))
}

/// Bring a deleted job back, whose candidate set is there.
#[utoipa::path(
    post, path = "/v1/jobs/{job_id}/undelete", tag = "jobs",
    params(("job_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = Job)),
)]
async fn undelete_job(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<axum::Json<Job>> {
    let id: JobId = id.parse()?;
    app::deletion::undelete_job(&state, id).await?;
    Ok(axum::Json(app::jobs::find_job(&state, id).await?))
}

/// Delete an artifact that no alias names.
#[utoipa::path(
    delete, path = "/v1/artifacts/{artifact_id}", tag = "artifacts",
    params(("artifact_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = Deleted)),
)]
async fn delete_artifact(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<axum::Json<Deleted>> {
    let id: ArtifactId = id.parse()?;
    Ok(deleted(app::deletion::delete_artifact(&state, id).await?))
}

/// Bring a deleted artifact back, whose job is there; it no longer expires.
#[utoipa::path(
    post, path = "/v1/artifacts/{artifact_id}/undelete", tag = "artifacts",
    params(("artifact_id" = uuid::Uuid, Path, description = "Identifier.")),
    responses((status = 200, body = Artifact)),
)]
async fn undelete_artifact(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<axum::Json<Artifact>> {
    let id: ArtifactId = id.parse()?;
    app::deletion::undelete_artifact(&state, id).await?;
    Ok(axum::Json(app::artifacts::find_artifact(&state, id).await?))
}

/// Delete a run with all that it has, pinned or not.
#[utoipa::path(
    delete, path = "/v1/runs/{run}", tag = "runs", params(("run" = String, Path, description = "Id or name.")),
    responses((status = 200, body = Deleted)),
)]
async fn delete_run(State(state): State<AppState>, Path(run): Path<String>) -> ApiResult<axum::Json<Deleted>> {
    Ok(deleted(app::deletion::delete_run(&state, &run).await?))
}

/// Bring a deleted run back with all that was deleted with it.
#[utoipa::path(
    post, path = "/v1/runs/{run}/undelete", tag = "runs",
    params(("run" = uuid::Uuid, Path, description = "Identifier: a deleted run has no name.")),
    responses((status = 200, body = Run)),
)]
async fn undelete_run(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<axum::Json<Run>> {
    let id: RunId = id.parse()?;
    app::deletion::undelete_run(&state, id).await?;
    Ok(axum::Json(app::runs::find_run(&state, &id.to_string()).await?.into()))
}
