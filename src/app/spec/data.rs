//! The datasets of a spec.

use std::collections::BTreeMap;

use barycenter_api::{DataSpec, JobSpec};
use barycenter_core::{data, network::Network, objective::check_kind};
use sqlx::PgConnection;

use super::{Faults, objective, tensors};
use crate::{
    app::{AppResult, error::AppError},
    domain::{
        dataset::{Dataset, DatasetKind},
        ids::DatasetId,
        name::shown,
        problem_code::ProblemCode,
    },
};

const DEFAULT_SELECT_FRACTION: f64 = 0.2;
/// Where training data is fitted on too, held-out data is worth more for telling averages apart: on 1,000 samples a greedy soup
/// won by luck against a fit that was better by 0.01 on other data.
const DEFAULT_SELECT_FRACTION_BESIDE_TRAIN: f64 = 0.5;
const MAX_SELECT_FRACTION: f64 = 0.9;
/// Batches of running statistics: more change a loss by less than other seeds do (`docs/method.md`, "Evidence").
const DEFAULT_BATCHES: u32 = 32;

/// What the data of a spec comes to.
pub(super) struct Data {
    /// Shape of one input of the fit data.
    pub(super) input_shape: Vec<usize>,
    /// Samples that are fitted on.
    pub(super) fit_samples: u64,
    /// Bytes of all files.
    pub(super) file_bytes: u64,
    /// The datasets by the words that name them.
    pub(super) datasets: Vec<(String, DatasetId)>,
}

/// Checks the datasets and fills in the defaults of split and batch norm; `None` where the fit data is missing.
pub(super) async fn resolve(
    conn: &mut PgConnection,
    spec: &mut JobSpec,
    network: Option<&dyn Network>,
    faults: &mut Faults,
) -> AppResult<Option<Data>> {
    resolve_batch_norm(spec, network, faults);
    let named: Vec<(&str, String)> = [
        ("data.fit", Some(spec.data.fit.clone())),
        ("data.train", spec.data.train.clone()),
        ("data.select", spec.data.select.clone()),
        ("data.test", spec.data.test.clone()),
        ("batch_norm.dataset", spec.batch_norm.dataset.clone()),
    ]
    .into_iter()
    .filter_map(|(field, name)| name.map(|name| (field, name)))
    // What batch norm takes over from what is fitted on is at fault there, once.
    .filter(|(field, name)| *field != "batch_norm.dataset" || !takes_over(&spec.data, name))
    .collect();
    let mut found = BTreeMap::new();
    for (field, name) in &named {
        match find(conn, name).await? {
            None => faults.add(*field, format!("there is no dataset `{}`", shown(name))),
            Some(dataset) => {
                found.insert(name.clone(), dataset);
            }
        }
    }
    let fit = found.get(&spec.data.fit);
    for (field, name) in &named {
        if let Some(dataset) = found.get(name) {
            check_dataset(network, field, dataset, fit, faults);
        }
    }
    let Some(fit) = fit else {
        return Ok(None);
    };
    objective::resolve(&mut spec.objective, &fit.name, fit.shape.kind, faults);
    let selected = resolve_split(spec, fit.shape.sample_count, faults);
    let train = spec.data.train.as_ref().and_then(|name| found.get(name));
    check_train(fit, train, faults);
    check_augmentation(spec, &fit.shape.input_shape, faults);
    // Two words may name one dataset, which is held once.
    let by_id: BTreeMap<DatasetId, u64> = found.values().map(|d| (d.dataset_id, d.blob.size_bytes)).collect();
    Ok(Some(Data {
        input_shape: to_usize(&fit.shape.input_shape),
        fit_samples: fit.shape.sample_count - selected + train.map_or(0, |train| train.shape.sample_count),
        file_bytes: by_id.values().sum(),
        datasets: found.into_iter().map(|(name, dataset)| (name, dataset.dataset_id)).collect(),
    }))
}

async fn find(conn: &mut PgConnection, name: &str) -> AppResult<Option<Dataset>> {
    match crate::app::datasets::find_dataset_with(conn, name).await {
        Ok(dataset) => Ok(Some(dataset)),
        Err(AppError::Refused { code: ProblemCode::DatasetNotFound, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// One loss judges all data of a job, and one network reads it.
fn check_dataset(
    network: Option<&dyn Network>,
    field: &str,
    dataset: &Dataset,
    fit: Option<&Dataset>,
    faults: &mut Faults,
) {
    let named = |dataset: &Dataset| format!("`{}` has `{}`", dataset.name, dataset.shape.kind.name());
    if let Some(fit) = fit.filter(|fit| fit.shape.kind.name() != dataset.shape.kind.name()) {
        faults.add(field, format!("dataset {}, the fit data {}", named(dataset), named(fit)));
        return;
    }
    let kind = match dataset.shape.kind {
        DatasetKind::Labels => data::DatasetKind::Labels,
        DatasetKind::Targets { count } => data::DatasetKind::Targets { count: count as usize },
        DatasetKind::Tokens => data::DatasetKind::Tokens,
    };
    let shape = to_usize(&dataset.shape.input_shape);
    if let Some(Err(error)) = network.map(|network| check_kind(network, kind, &shape)) {
        faults.add(field, format!("dataset `{}` does not fit the network: {error}", dataset.name));
    }
}

fn to_usize(shape: &[u64]) -> Vec<usize> {
    shape.iter().map(|extent| *extent as usize).collect()
}

fn takes_over(data: &DataSpec, name: &String) -> bool {
    *name == data.fit || data.train.as_ref() == Some(name)
}

/// Samples of two datasets are drawn into one batch.
fn check_train(fit: &Dataset, train: Option<&Dataset>, faults: &mut Faults) {
    const FIELD: &str = "data.train";
    let Some(train) = train else { return };
    faults.check(train.dataset_id != fit.dataset_id, FIELD, || "is the dataset of `data.fit`".into());
    let (a, b) = (&train.shape.input_shape, &fit.shape.input_shape);
    faults.check(a == b, FIELD, || format!("its inputs have shape {a:?}, those of the fit data {b:?}"));
}

/// Fills in the part of the fit data that is kept for selection; returns its number of samples.
fn resolve_split(spec: &mut JobSpec, sample_count: u64, faults: &mut Faults) -> u64 {
    const FIELD: &str = "data.select_fraction";
    if spec.data.select.is_some() {
        faults.check(spec.data.select_fraction.is_none(), FIELD, || "cannot stand beside `data.select`".into());
        return 0;
    }
    let default =
        if spec.data.train.is_some() { DEFAULT_SELECT_FRACTION_BESIDE_TRAIN } else { DEFAULT_SELECT_FRACTION };
    let fraction = *spec.data.select_fraction.get_or_insert(default);
    if !(fraction > 0.0 && fraction <= MAX_SELECT_FRACTION) {
        faults.add(FIELD, format!("must lie in (0, {MAX_SELECT_FRACTION}], not {fraction}"));
        return 0;
    }
    // As `barycenter_core::data::split` does it: rounded, but at least one.
    let selected = ((sample_count as f64 * fraction).round() as u64).max(1);
    let detail = || format!("leaves no sample to fit on: {selected} of {sample_count} would be kept for selection");
    faults.check(selected < sample_count, FIELD, detail);
    selected.min(sample_count)
}

fn check_augmentation(spec: &JobSpec, input_shape: &[u64], faults: &mut Faults) {
    const FIELD: &str = "data.augmentation";
    let Some(augmentation) = spec.data.augmentation else {
        return;
    };
    let [_, height, width] = input_shape else {
        faults.add(FIELD, format!("is for images; an input of the fit data has shape {input_shape:?}"));
        return;
    };
    let most = (*height).min(*width);
    let detail = || format!("must be at most {most}, the side of the images, not {}", augmentation.pad);
    faults.check(u64::from(augmentation.pad) <= most, "data.augmentation.pad", detail);
}

/// Fills in what the running statistics are recomputed on, where the network has any.
fn resolve_batch_norm(spec: &mut JobSpec, network: Option<&dyn Network>, faults: &mut Faults) {
    let augmented = spec.data.augmentation.is_some();
    let recomputed = tensors::recompute(spec);
    let batch_norm = &mut spec.batch_norm;
    faults.check(batch_norm.batches != Some(0), "batch_norm.batches", || "must be at least 1".into());
    let wanted = batch_norm.augment == Some(true);
    faults.check(augmented || !wanted, "batch_norm.augment", || "needs `data.augmentation`".into());
    if recomputed && network.is_some_and(Network::has_batch_norm) {
        batch_norm.dataset.get_or_insert_with(|| spec.data.train.clone().unwrap_or_else(|| spec.data.fit.clone()));
        batch_norm.augment.get_or_insert(augmented);
        batch_norm.batches.get_or_insert(DEFAULT_BATCHES);
    }
}
