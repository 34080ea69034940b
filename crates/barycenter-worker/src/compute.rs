//! One job on the device: files in, outcome and merged file out. Blocking; runs on a thread of its own.

use std::{
    fs::File,
    io::BufWriter,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use barycenter_api::{Lease, LeasedDataset, LogLevel, Phase};
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
    fetch::Model,
    journal::{Journal, Reporter},
    lora::{self, Models},
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
    pub projection_cached: bool,
}

/// Runs the job of a lease and writes the averaged model to `artifact`.
pub(crate) fn run(
    lease: &Lease,
    inputs: &Inputs,
    cache: &Cache,
    journal: &Journal,
    artifact: &Path,
) -> Result<Product> {
    let spec = &lease.spec;
    let network: Arc<dyn Network> = Arc::from(convert::network(&spec.network).build()?);
    let has_batch_norm = network.has_batch_norm();
    let stored: Vec<PathBuf> = inputs.candidates.iter().map(|model| model.path().to_owned()).collect();
    let models = models(lease, inputs, &stored, cache)?;
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

    let (projection, projection_cached) = cached_projection(lease, &models.digests, cache, &averaging, journal)?;
    let state = lease.fit_state.as_ref().map(|bytes| State::from_bytes(&bytes.0)).transpose()?;
    if let Some(state) = &state {
        info!(job.id = %lease.job_id, step = state.fit.step, "resuming the fit");
        journal.say(LogLevel::Info, format!("the fit goes on after step {}", state.fit.step));
    }
    let outcome = averaging.run(projection.as_ref(), state, &mut reporter)?;

    let found = (&averaging, &outcome);
    let of_adapters = match &spec.lora {
        Some(spec) => lora::write(spec, &stored, &names, found, dtype, artifact)?,
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
        projection_bytes: projection.as_ref().map_or(0, Projection::packed_bytes),
        projection_cached,
    })
}

/// The candidates as models.
fn models(lease: &Lease, inputs: &Inputs, stored: &[PathBuf], cache: &Cache) -> Result<Models> {
    match (&lease.spec.lora, &inputs.base) {
        (Some(lora), Some(base)) => Models::adapted(lora, base.path(), stored, cache.scratch()),
        (Some(_), None) => Err(Error::input("the lease has no base model for its adapters")),
        (None, _) => {
            let digests = lease.candidates.iter().map(|candidate| candidate.digest_blake3.clone()).collect();
            Ok(Models::stored(stored.to_vec(), digests))
        }
    }
}

/// The projection from the cache, or built and put there; none where the method needs none. A damaged one is built anew.
fn cached_projection(
    lease: &Lease,
    digests: &[String],
    cache: &Cache,
    averaging: &Averaging<'_>,
    journal: &Journal,
) -> Result<(Option<Projection>, bool)> {
    journal.report(Phase::Projection, 0, 1)?;
    let Some(key) = averaging.projection_key(digests) else { return Ok((None, false)) };
    let path = cache.projection(&key);
    if path.exists() {
        match Projection::load(&path) {
            Ok(projection) => {
                name(lease, cache, &key);
                journal.say(LogLevel::Info, "the projection was in the cache");
                return Ok((Some(projection), true));
            }
            Err(error) => {
                warn!(%error, "a cached projection is damaged and is built anew");
                journal.say(LogLevel::Warn, format!("a cached projection is damaged and is built anew: {error}"));
            }
        }
    }
    let projection = averaging.build_projection(&mut Reporter(journal))?;
    if let Some(projection) = &projection {
        projection.save(&path)?;
        name(lease, cache, &key);
    }
    Ok((projection, false))
}

fn name(lease: &Lease, cache: &Cache, key: &str) {
    if let Some(name) = &lease.projection_key {
        cache.name_projection(name, key);
    }
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
