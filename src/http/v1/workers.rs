//! Workers.

use axum::extract::State;
use barycenter_api::{
    DeviceKind, EditWorker, ListQuery, Page, ProjectionCounts, RegisterWorker, Worker, WorkerDevice, WorkerHeartbeat,
    WorkerHeartbeatReply, WorkerState,
};
use chrono::{DateTime, Utc};
use utoipa_axum::routes;

use crate::{
    app::{self, workers::NewWorker},
    domain::{
        ids::WorkerId,
        page::Paged,
        worker::{self, Capabilities},
    },
    http::{
        ApiRouter,
        extract::{Json, Path, Query, page_request},
        problem::ApiResult,
        reply,
    },
    state::AppState,
};

pub(super) fn router() -> ApiRouter {
    ApiRouter::new()
        .routes(routes!(register_worker, list_workers))
        .routes(routes!(show_worker, edit_worker))
        .routes(routes!(renew_worker))
        .routes(routes!(drain_worker))
}

fn to_wire(worker: worker::Worker, now: DateTime<Utc>) -> Worker {
    let counts = worker.projection_counts;
    Worker {
        worker_id: worker.worker_id.0,
        state: state_to_wire(&worker),
        alive: worker.is_alive(now),
        device: WorkerDevice {
            kind: if worker.capabilities.device_kind == "cuda" { DeviceKind::Cuda } else { DeviceKind::Cpu },
            name: worker.device_name,
        },
        name: worker.name,
        version: worker.version,
        memory_bytes: worker.capabilities.memory_bytes,
        networks: worker.capabilities.networks,
        projections: worker.projections,
        projection_counts: ProjectionCounts::new(counts.built, counts.extended, counts.cached, counts.fetched),
        job_id: worker.job_id.map(|id| id.0),
        registered_at: worker.registered_at,
        seen_at: worker.seen_at,
    }
}

fn state_to_wire(worker: &worker::Worker) -> WorkerState {
    match worker.state {
        worker::WorkerState::Active => WorkerState::Active,
        worker::WorkerState::Paused => WorkerState::Paused,
        worker::WorkerState::Draining if worker.job_id.is_some() => WorkerState::Draining,
        worker::WorkerState::Draining => WorkerState::Drained,
    }
}

/// Register a worker, or take up its place again after a restart: a worker is known by its name.
#[utoipa::path(
    post, path = "/v1/workers", tag = "workers", request_body = RegisterWorker,
    responses((status = 200, body = Worker)),
)]
async fn register_worker(
    State(state): State<AppState>,
    Json { value: body, .. }: Json<RegisterWorker>,
) -> ApiResult<axum::Json<Worker>> {
    let new = NewWorker {
        name: body.name,
        version: body.version,
        device_name: body.device.name,
        capabilities: Capabilities {
            device_kind: body.device.kind.as_str().to_owned(),
            memory_bytes: body.memory_bytes,
            networks: body.networks,
        },
        projections: body.projections,
    };
    let worker = app::workers::register_worker(&state, new).await?;
    Ok(axum::Json(to_wire(worker, state.clock.now())))
}

/// List workers, last registered first.
#[utoipa::path(
    get, path = "/v1/workers", tag = "workers", params(ListQuery),
    responses((status = 200, body = Page<Worker>)),
)]
async fn list_workers(
    State(state): State<AppState>,
    Query(query): Query<ListQuery>,
) -> ApiResult<axum::Json<Page<Worker>>> {
    let Paged { items, next } = app::workers::list_workers(&state, page_request(&query)?).await?;
    let now = state.clock.now();
    let items: Vec<Worker> = items.into_iter().map(|worker| to_wire(worker, now)).collect();
    Ok(axum::Json(reply::page(Paged { items, next })))
}

/// Show a worker.
#[utoipa::path(
    get, path = "/v1/workers/{worker_id}", tag = "workers",
    params(("worker_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = Worker)),
)]
async fn show_worker(State(state): State<AppState>, Path(worker_id): Path<WorkerId>) -> ApiResult<axum::Json<Worker>> {
    let worker = app::workers::find_worker(&state, worker_id).await?;
    Ok(axum::Json(to_wire(worker, state.clock.now())))
}

/// Pause a worker or let it go on. The job that it has goes on in any case.
#[utoipa::path(
    patch, path = "/v1/workers/{worker_id}", tag = "workers", request_body = EditWorker,
    params(("worker_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = Worker)),
)]
async fn edit_worker(
    State(state): State<AppState>,
    Path(worker_id): Path<WorkerId>,
    Json { value: edit, .. }: Json<EditWorker>,
) -> ApiResult<axum::Json<Worker>> {
    let to = if edit.paused { worker::WorkerState::Paused } else { worker::WorkerState::Active };
    let worker = app::workers::change_worker(&state, worker_id, to).await?;
    Ok(axum::Json(to_wire(worker, state.clock.now())))
}

/// Tell that a worker is there, between and during jobs.
#[utoipa::path(
    post, path = "/v1/workers/{worker_id}/heartbeat", tag = "workers", request_body = WorkerHeartbeat,
    params(("worker_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = WorkerHeartbeatReply)),
)]
async fn renew_worker(
    State(state): State<AppState>,
    Path(worker_id): Path<WorkerId>,
    Json { value: heartbeat, .. }: Json<WorkerHeartbeat>,
) -> ApiResult<axum::Json<WorkerHeartbeatReply>> {
    let worker = app::workers::renew_worker(&state, worker_id, heartbeat.projections.as_deref()).await?;
    let heartbeat_seconds = worker::HEARTBEAT.as_seconds_f64();
    Ok(axum::Json(WorkerHeartbeatReply { state: state_to_wire(&worker), heartbeat_seconds }))
}

/// Let a worker end after the job that it has; it is given no other.
#[utoipa::path(
    post, path = "/v1/workers/{worker_id}/drain", tag = "workers",
    params(("worker_id" = uuid::Uuid, Path, description = "Id.")),
    responses((status = 200, body = Worker)),
)]
async fn drain_worker(State(state): State<AppState>, Path(worker_id): Path<WorkerId>) -> ApiResult<axum::Json<Worker>> {
    let worker = app::workers::change_worker(&state, worker_id, worker::WorkerState::Draining).await?;
    Ok(axum::Json(to_wire(worker, state.clock.now())))
}
