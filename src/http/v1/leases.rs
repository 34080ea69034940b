//! The worker protocol: claim, heartbeat, artifact, finish, fail.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use barycenter_api::{Claim, Fail, Finish, Heartbeat, HeartbeatReply, Job, Lease, StoredArtifact};
use utoipa_axum::routes;

use crate::{
    app,
    domain::ids::LeaseId,
    http::{
        ApiRouter,
        extract::{Json, Path, Upload},
        problem::ApiResult,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(claim_job))
        .routes(routes!(renew_lease))
        .routes(routes!(push_artifact))
        .routes(routes!(finish_job))
        .routes(routes!(fail_job))
}

/// Lease the job at the front of the queue that the worker can take, or one whose worker has stopped sending heartbeats.
#[utoipa::path(
    post, path = "/v1/leases", tag = "leases", request_body = Claim,
    responses(
        (status = 201, body = Lease, headers(("Location" = String, description = "Path of the lease's calls."))),
        (status = 204, description = "There was no job for as long as the claim waits."),
    ),
)]
async fn claim_job(State(state): State<AppState>, Json { value: claim, .. }: Json<Claim>) -> ApiResult<Response> {
    Ok(match app::claims::claim_job(&state, &claim).await? {
        Some(lease) => {
            let location = format!("/v1/leases/{}", lease.lease_id);
            (StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(lease)).into_response()
        }
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Renew a lease, report progress and snapshots, save the fit's state, and hear what to do next.
///
/// A lease that was lost is answered with `lost` and stores nothing.
#[utoipa::path(
    post, path = "/v1/leases/{lease_id}/heartbeat", tag = "leases",
    params(("lease_id" = uuid::Uuid, Path, description = "Id.")),
    request_body = Heartbeat,
    responses((status = 200, body = HeartbeatReply)),
)]
async fn renew_lease(
    State(state): State<AppState>,
    Path(lease_id): Path<LeaseId>,
    Json { value: heartbeat, .. }: Json<Heartbeat>,
) -> ApiResult<axum::Json<HeartbeatReply>> {
    Ok(axum::Json(app::leases::renew_lease(&state, lease_id, &heartbeat).await?))
}

/// Upload the artifact; nobody sees it until `finish`.
#[utoipa::path(
    put, path = "/v1/leases/{lease_id}/artifact", tag = "leases",
    params(("lease_id" = uuid::Uuid, Path, description = "Id.")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = StoredArtifact)),
)]
async fn push_artifact(
    State(state): State<AppState>,
    Path(lease_id): Path<LeaseId>,
    upload: Upload,
) -> ApiResult<axum::Json<StoredArtifact>> {
    Ok(axum::Json(app::artifacts::receive_artifact(&state, lease_id, upload.announced(None)).await?))
}

/// Publish the uploaded artifact and end the job as succeeded. The same call again is answered with the same job.
#[utoipa::path(
    post, path = "/v1/leases/{lease_id}/finish", tag = "leases",
    params(("lease_id" = uuid::Uuid, Path, description = "Id.")),
    request_body = Finish,
    responses((status = 200, body = Job)),
)]
async fn finish_job(
    State(state): State<AppState>,
    Path(lease_id): Path<LeaseId>,
    Json { value: finish, .. }: Json<Finish>,
) -> ApiResult<axum::Json<Job>> {
    Ok(axum::Json(app::leases::finish_job(&state, lease_id, &finish).await?))
}

/// End an attempt without an artifact: the job is queued again, fails, or is cancelled where that was asked for.
#[utoipa::path(
    post, path = "/v1/leases/{lease_id}/fail", tag = "leases",
    params(("lease_id" = uuid::Uuid, Path, description = "Id.")),
    request_body = Fail,
    responses((status = 200, body = Job)),
)]
async fn fail_job(
    State(state): State<AppState>,
    Path(lease_id): Path<LeaseId>,
    Json { value: fail, .. }: Json<Fail>,
) -> ApiResult<axum::Json<Job>> {
    Ok(axum::Json(app::leases::fail_job(&state, lease_id, &fail).await?))
}
