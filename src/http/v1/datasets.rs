//! Datasets.

use axum::{
    extract::State,
    http::{HeaderMap, Method},
    response::Response,
};
use barycenter_api::{Dataset, DatasetKind, ListQuery, Normalisation, Page, PushDataset};
use utoipa_axum::routes;

use crate::{
    app::{self, datasets::NewDataset},
    domain,
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
        .routes(routes!(push_dataset, show_dataset))
        .routes(routes!(list_datasets))
        .routes(routes!(read_dataset))
}

impl From<domain::dataset::Dataset> for Dataset {
    fn from(dataset: domain::dataset::Dataset) -> Self {
        Self {
            dataset_id: dataset.dataset_id.0,
            name: dataset.name,
            kind: dataset.shape.kind.into(),
            target_count: dataset.shape.kind.target_count(),
            sample_count: dataset.shape.sample_count,
            input_shape: dataset.shape.input_shape,
            input_dtype: dataset.shape.input_dtype,
            normalisation: dataset.normalisation.into(),
            size_bytes: dataset.blob.size_bytes,
            digest_blake3: dataset.blob.digest_blake3,
            created_at: dataset.created_at,
        }
    }
}

impl From<domain::dataset::DatasetKind> for DatasetKind {
    fn from(kind: domain::dataset::DatasetKind) -> Self {
        match kind {
            domain::dataset::DatasetKind::Labels => Self::Labels,
            domain::dataset::DatasetKind::Targets { .. } => Self::Targets,
            domain::dataset::DatasetKind::Tokens => Self::Tokens,
        }
    }
}

impl From<domain::dataset::Normalisation> for Normalisation {
    fn from(normalisation: domain::dataset::Normalisation) -> Self {
        let domain::dataset::Normalisation { scale, mean, std } = normalisation;
        Self { scale, mean, std }
    }
}

/// Push a dataset: one safetensors file of one of three kinds.
///
/// - `labels`: `inputs` (U8 or F32, `[N, channels, height, width]` or `[N, features]`) and `labels` (I64, `[N]`);
/// - `targets`: such `inputs` and `targets` (F32, `[N, k]`);
/// - `tokens`: `tokens` (I64, I32 or U16, `[N, T + 1]`), of which the first T are read and the last T predicted; a
///   `padding_token` in the file's metadata is never predicted.
///
/// The header is checked before the body is stored. The same bytes under the same name again are answered with 200.
#[utoipa::path(
    put, path = "/v1/datasets/{dataset}", tag = "datasets",
    params(("dataset" = String, Path, description = "Name."), PushDataset),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, body = Dataset, headers(("Location" = String, description = "Path of the dataset."))),
        (status = 200, body = Dataset, description = "These bytes were there under this name."),
    ),
)]
async fn push_dataset(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Query(query): Query<PushDataset>,
    upload: Upload,
) -> ApiResult<Response> {
    let PushDataset { scale, mean, std, digest_blake3 } = query;
    let new = NewDataset { name, scale, mean, std };
    let outcome = app::datasets::accept_dataset(&state, new, upload.announced(digest_blake3)).await?;
    Ok(reply::put::<_, Dataset>(outcome, |dataset| format!("/v1/datasets/{}", dataset.dataset_id)))
}

/// List datasets, newest first.
#[utoipa::path(
    get, path = "/v1/datasets", tag = "datasets", params(ListQuery),
    responses((status = 200, body = Page<Dataset>)),
)]
async fn list_datasets(
    State(state): State<AppState>,
    Query(query): Query<ListQuery>,
) -> ApiResult<axum::Json<Page<Dataset>>> {
    let datasets = app::datasets::list_datasets(&state, page_request(&query)?).await?;
    Ok(axum::Json(reply::page(datasets)))
}

/// Show a dataset.
#[utoipa::path(
    get, path = "/v1/datasets/{dataset}", tag = "datasets",
    params(("dataset" = String, Path, description = "Id or name.")),
    responses((status = 200, body = Dataset)),
)]
async fn show_dataset(State(state): State<AppState>, Path(dataset): Path<String>) -> ApiResult<axum::Json<Dataset>> {
    Ok(axum::Json(app::datasets::find_dataset(&state, &dataset).await?.into()))
}

/// Read a dataset's file, whole or in part.
#[utoipa::path(
    get, path = "/v1/datasets/{dataset}/content", tag = "datasets",
    params(
        ("dataset" = String, Path, description = "Id or name."),
        ("Range" = Option<String>, Header, description = "One range of bytes."),
        ("If-None-Match" = Option<String>, Header, description = "Answer 304 where the digest is still this."),
    ),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, body = Vec<u8>, content_type = "application/octet-stream", description = "The range."),
        (status = 304, description = "The caller has it already."),
    ),
)]
async fn read_dataset(
    State(state): State<AppState>,
    Path(dataset): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let dataset = app::datasets::find_dataset(&state, &dataset).await?;
    content::respond(&state, &method, &headers, &dataset.blob).await
}
