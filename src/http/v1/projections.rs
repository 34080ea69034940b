//! The cache of projections that workers share.

use axum::{
    extract::State,
    http::{HeaderMap, Method, StatusCode},
    response::Response,
};
use barycenter_api::{ListQuery, Page, Projection, PushProjection};
use utoipa_axum::routes;

use crate::{
    app,
    domain::{self, ids::LeaseId},
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
        .routes(routes!(list_projections))
        .routes(routes!(show_projection, delete_projection))
        .routes(routes!(read_projection))
        .routes(routes!(push_projection))
}

impl From<domain::projection::Projection> for Projection {
    fn from(projection: domain::projection::Projection) -> Self {
        Self {
            projection_id: projection.projection_id,
            projection_key: projection.projection_key,
            size_bytes: projection.blob.size_bytes,
            digest_blake3: projection.blob.digest_blake3,
            candidates: projection.candidate_count,
            revisions: projection.revision_count,
            hits: projection.hit_count,
            created_at: projection.created_at,
            used_at: projection.used_at,
        }
    }
}

/// List the projections that workers share, last come first.
#[utoipa::path(
    get, path = "/v1/projections", tag = "projections", params(ListQuery),
    responses((status = 200, body = Page<Projection>)),
)]
async fn list_projections(
    State(state): State<AppState>,
    Query(query): Query<ListQuery>,
) -> ApiResult<axum::Json<Page<Projection>>> {
    let projections = app::projections::list_projections(&state, page_request(&query)?).await?;
    Ok(axum::Json(reply::page(projections)))
}

/// Show a projection.
#[utoipa::path(
    get, path = "/v1/projections/{projection_key}", tag = "projections",
    params(("projection_key" = String, Path, description = "What it is called.")),
    responses((status = 200, body = Projection)),
)]
async fn show_projection(State(state): State<AppState>, Path(key): Path<String>) -> ApiResult<axum::Json<Projection>> {
    Ok(axum::Json(app::projections::find_projection(&state, &key).await?.into()))
}

/// Take a projection out of the cache. Workers that hold it keep it, others build it when they need it.
#[utoipa::path(
    delete, path = "/v1/projections/{projection_key}", tag = "projections",
    params(("projection_key" = String, Path, description = "What it is called.")),
    responses((status = 204, description = "It is gone.")),
)]
async fn delete_projection(State(state): State<AppState>, Path(key): Path<String>) -> ApiResult<StatusCode> {
    app::projections::delete_projection(&state, &key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Read a projection's file, whole or in part.
#[utoipa::path(
    get, path = "/v1/projections/{projection_key}/content", tag = "projections",
    params(
        ("projection_key" = String, Path, description = "What it is called."),
        ("Range" = Option<String>, Header, description = "One range of bytes."),
        ("If-None-Match" = Option<String>, Header, description = "Answer 304 where the digest is still this."),
    ),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, body = Vec<u8>, content_type = "application/octet-stream", description = "The range."),
        (status = 304, description = "The caller has it already."),
    ),
)]
async fn read_projection(
    State(state): State<AppState>,
    Path(key): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let projection = app::projections::find_projection(&state, &key).await?;
    content::respond(&state, &method, &headers, &projection.blob).await
}

/// Put the projection of a leased job into the cache, beside the job's work. One that is there is answered with 200.
#[utoipa::path(
    put, path = "/v1/leases/{lease_id}/projections/{projection_key}", tag = "leases",
    params(
        ("lease_id" = uuid::Uuid, Path, description = "Id."),
        ("projection_key" = String, Path, description = "What it is called: a key that the lease names as the job's own."),
        PushProjection,
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, body = Projection, headers(("Location" = String, description = "Path of the projection."))),
        (status = 200, body = Projection, description = "It was there."),
    ),
)]
async fn push_projection(
    State(state): State<AppState>,
    Path((lease_id, key)): Path<(LeaseId, String)>,
    Query(push): Query<PushProjection>,
    upload: Upload,
) -> ApiResult<Response> {
    let file = upload.announced(None);
    let outcome = app::projections::receive_projection(&state, lease_id, &key, push, file).await?;
    Ok(reply::put::<_, Projection>(outcome, |projection| format!("/v1/projections/{}", projection.projection_key)))
}
