//! One job on the device: files in, outcome and merged file out. Blocking; runs on a thread of its own.

use std::{
    fs::File,
    io::BufWriter,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use barycenter_api::{Lease, LeasedDataset, LogLevel, ProjectionReport, ProjectionSource};
use barycenter_core::{
    Error, Result,
    average::{AverageData, Averaging, Outcome, Part, State},
    checkpoint::{self, OpenOptions, Written},
    data::{Dataset, split},
    network::Network,
    projection::Projection,
};
use rayon::{ThreadPool, ThreadPoolBuilder};
use tracing::{info, warn};

use crate::{
    cache::Cache,
    convert,
    failure::Failure,
    fetch::Model,
    fit_state,
    journal::{Journal, Reporter},
    lora::{self, Models},
    projection::{self, Search},
    tools::Tools,
};

/// The threads that a worker computes on.
pub(crate) fn thread_pool(threads: Option<NonZeroUsize>) -> anyhow::Result<Arc<ThreadPool>> {
    let builder = ThreadPoolBuilder::new().thread_name(|i| format!("compute-{i}"));
    let builder = threads.into_iter().fold(builder, |builder, threads| builder.num_threads(threads.get()));
    Ok(Arc::new(builder.build().context("cannot start the threads to compute on")?))
}

/// The fetched files of a lease, in its order.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub candidates: Vec<Model>,
    /// The base model, where the candidates are adapters.
    pub base: Option<Model>,
    pub datasets: Vec<PathBuf>,
}

/// What a job leaves behind on the worker.
#[derive(Debug)]
pub(crate) struct Product {
    /// The method the job asked for.
    pub method: &'static str,
    pub has_batch_norm: bool,
    pub outcome: Outcome,
    pub blocks: Vec<String>,
    pub not_averaged: Vec<barycenter_api::NotAveraged>,
    pub written: Written,
    /// How the candidates make the artifact again; none where they do not.
    pub merge: Option<barycenter_api::MergePlan>,
    pub lora: Option<barycenter_api::LoraReport>,
    pub fit_samples: u64,
    pub select_samples: u64,
    pub select_overlaps_fit: bool,
    pub projection_bytes: u64,
    pub projection: Option<ProjectionReport>,
}

/// Runs the job of a lease and writes the averaged model to `artifact`.
pub(crate) fn run(
    lease: &Lease,
    inputs: &Inputs,
    tools: &Tools,
    journal: &Journal,
    artifact: &Path,
) -> Result<Product, Failure> {
    let spec = &lease.spec;
    let network: Arc<dyn Network> = Arc::from(convert::network(&spec.network).build()?);
    let has_batch_norm = network.has_batch_norm();
    let stored: Vec<PathBuf> = inputs.candidates.iter().map(|model| model.path().to_owned()).collect();
    let models = models(lease, inputs, &stored, &tools.cache)?;
    let candidates =
        models.files.iter().map(|path| checkpoint::open(path, &OpenOptions::default())).collect::<Result<Vec<_>>>()?;
    let names: Vec<_> = lease.candidates.iter().map(|c| format!("step {} ({})", c.step, c.checkpoint_id)).collect();
    let datasets = Datasets::open(lease, inputs)?;
    let data = datasets.parts(lease)?;
    let (fit_samples, select_samples) = (data.fit_samples() as u64, data.select.indices.len() as u64);
    let mut reporter = Reporter(journal);
    let options = convert::options(lease, data.fit[0].dataset.kind())?;
    let (method, dtype) = (options.method.name(), options.dtype);
    let averaging = Averaging::new(network, &candidates, &names, data, options, &mut reporter)?;
    journal.name_blocks(averaging.blocks().names());

    let base = inputs.base.as_ref().map(Model::path);
    let search =
        Search { lease, averaging: &averaging, models: &models, candidates: &candidates, base, tools, journal };
    let found = projection::obtain(&search)?;
    let projection_key = found.as_ref().map(|found| found.report.projection_key.as_str()).unwrap_or_default();
    if let Some(found) = &found {
        journal.say(LogLevel::Info, told(&found.report));
    }
    journal.fit_along(projection_key);
    let state = saved_state(lease, projection_key, journal)?;
    let projection = found.as_ref().map(|found| found.projection.as_ref());
    let outcome = averaging.run(projection, state, &mut reporter)?;
    let projection_bytes = projection.map_or(0, Projection::packed_bytes);

    let of_adapters = match &spec.lora {
        Some(spec) => lora::write(spec, &stored, &names, (&averaging, &outcome), dtype, artifact)?,
        None => None,
    };
    let (written, lora) = if let Some((written, report)) = of_adapters {
        (written, Some(report))
    } else {
        let file = File::create(artifact).map_err(|e| Error::io(artifact, e))?;
        (averaging.materialise(&outcome, BufWriter::new(file), &mut reporter)?, None)
    };
    // The models that adapters make are not among the stored files.
    let merge = if spec.lora.is_none() { averaging.merge_plan(&outcome)?.map(convert::merge_plan) } else { None };
    Ok(Product {
        method,
        has_batch_norm,
        merge,
        blocks: averaging.blocks().names().to_vec(),
        not_averaged: averaging
            .not_averaged()
            .into_iter()
            .map(|t| barycenter_api::NotAveraged { tensor: t.tensor, policy: t.policy.to_owned() })
            .collect(),
        outcome,
        written,
        lora,
        fit_samples,
        select_samples,
        select_overlaps_fit: Datasets::overlap(lease),
        projection_bytes,
        projection: found.map(|found| found.keep(tools, journal)),
    })
}

/// How a job came by its projection, in words.
fn told(found: &ProjectionReport) -> String {
    let seconds = found.seconds;
    let how = match found.source {
        ProjectionSource::Built => "was built".to_owned(),
        ProjectionSource::Extended => format!("was extended, {} times since it was built", found.revisions),
        ProjectionSource::Cached => "was in the cache".to_owned(),
        ProjectionSource::Fetched => "came from the server's cache".to_owned(),
    };
    format!("the projection {how}, {seconds:.1} s")
}

/// The candidates as models.
fn models(lease: &Lease, inputs: &Inputs, stored: &[PathBuf], cache: &Cache) -> Result<Models> {
    match (&lease.spec.lora, &inputs.base) {
        (Some(lora), Some(base)) => Models::adapted(lora, base.path(), stored, cache.scratch()),
        (Some(_), None) => Err(Error::input("the lease has no base model for its adapters")),
        (None, _) => Ok(Models::stored(stored.to_vec())),
    }
}

/// The state that an earlier attempt saved, where it belongs to this projection.
fn saved_state(lease: &Lease, projection_key: &str, journal: &Journal) -> Result<Option<State>> {
    let Some(saved) = &lease.fit_state else { return Ok(None) };
    let Some(bytes) = fit_state::of_projection(projection_key, &saved.0) else {
        warn!(job.id = %lease.job_id, "the saved state of the fit belongs to another projection");
        journal.say(LogLevel::Warn, "the fit starts anew: its saved state belongs to another projection");
        return Ok(None);
    };
    let state = State::from_bytes(bytes)?;
    info!(job.id = %lease.job_id, step = state.fit.step, "resuming the fit");
    journal.say(LogLevel::Info, format!("the fit goes on after step {}", state.fit.step));
    Ok(Some(state))
}

/// The datasets of a lease, opened.
struct Datasets(Vec<Arc<Dataset>>);

impl Datasets {
    fn open(lease: &Lease, inputs: &Inputs) -> Result<Self> {
        let open = |(leased, path): (&LeasedDataset, &PathBuf)| {
            Dataset::open(path, Some(convert::normalisation(&leased.normalisation))).map(Arc::new)
        };
        lease.datasets.iter().zip(&inputs.datasets).map(open).collect::<Result<_>>().map(Self)
    }

    fn index(lease: &Lease, name: &str) -> Result<usize> {
        let position = lease.datasets.iter().position(|dataset| dataset.named == name);
        position.ok_or_else(|| Error::input(format!("the lease names no dataset `{name}`")))
    }

    fn named(&self, lease: &Lease, name: &str) -> Result<Arc<Dataset>> {
        Ok(Arc::clone(&self.0[Self::index(lease, name)?]))
    }

    /// The parts that a spec asks for.
    fn parts(&self, lease: &Lease) -> Result<AverageData> {
        let spec = &lease.spec;
        let fit = self.named(lease, &spec.data.fit)?;
        let (fit, select) = if let Some(name) = &spec.data.select {
            (Part::all(fit), Part::all(self.named(lease, name)?))
        } else {
            let fraction = spec.data.select_fraction.unwrap_or(0.2);
            let (kept, held_out) = split(fit.len(), fraction, spec.seed)?;
            (Part { dataset: Arc::clone(&fit), indices: kept }, Part { dataset: fit, indices: held_out })
        };
        let batch_norm = match &spec.batch_norm.dataset {
            Some(name) if *name != spec.data.fit => Part::all(self.named(lease, name)?),
            _ => fit.clone(),
        };
        let train = spec.data.train.as_ref().map(|name| self.named(lease, name)).transpose()?.map(Part::all);
        let fit = [fit].into_iter().chain(train).collect();
        let test = spec.data.test.as_ref().map(|name| self.named(lease, name)).transpose()?.map(Part::all);
        Ok(AverageData { fit, select, test, batch_norm })
    }

    /// Whether the select dataset is one that is fitted on, under whatever name.
    fn overlap(lease: &Lease) -> bool {
        let data = &lease.spec.data;
        let id = |name: &str| Self::index(lease, name).ok().map(|index| lease.datasets[index].dataset_id);
        let is = |select: &String, fitted: &String| id(select) == id(fitted);
        data.select
            .as_ref()
            .is_some_and(|select| is(select, &data.fit) || data.train.as_ref().is_some_and(|t| is(select, t)))
    }
}
