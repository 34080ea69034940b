//! Checks a job's spec and fills in its defaults, so that what is stored says all there is to say.
//!
//! Every fault is found before the spec is refused: whoever writes a spec corrects it once.

mod data;
mod extends;
mod lora;
mod method;
mod network;
mod objective;
mod scheduling;
mod tensors;

use barycenter_api::{Extends, JobSpec, JobTemplate, MemoryEstimate, MethodSpec, Start};
use barycenter_core::{average::Sizes, network::Network};
pub use extends::PinnedProjection;
pub(super) use scheduling::check_priority;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{AppError, AppResult, error::Fault, estimate, warm_start};
use crate::{
    db,
    domain::{
        candidate_set::Candidate,
        ids::{DatasetId, RunId},
        problem_code::ProblemCode,
    },
};

/// The field of the job that a fit starts from.
pub(super) const START_FIELD: &str = "method.start.job";
/// The field of the job whose projection is extended.
pub(super) const EXTENDS_FIELD: &str = "method.extends";

/// A spec that was checked.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The spec with every default filled in.
    pub spec: JobSpec,
    /// Memory of the job on a worker.
    pub estimate: MemoryEstimate,
    /// The run of the candidates.
    pub run_id: RunId,
    /// What its projection is called, and what it extends.
    pub projection: PinnedProjection,
    /// The datasets by the words that name them.
    pub datasets: Vec<(String, DatasetId)>,
}

/// What is wrong with a spec, field by field.
#[derive(Debug, Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.0.push(Fault { field: field.into(), detail: detail.into() });
    }

    /// Adds a fault unless `sound`.
    fn check(&mut self, sound: bool, field: &str, detail: impl FnOnce() -> String) {
        if !sound {
            self.add(field, detail());
        }
    }

    fn into_error(self) -> AppError {
        let fields: Vec<String> = self.0.iter().map(|fault| format!("{}: {}", fault.field, fault.detail)).collect();
        AppError::Refused { code: ProblemCode::InvalidField, detail: fields.join("; "), faults: self.0 }
    }
}

/// Checks a spec against what is stored and fills in its defaults; refuses it with every field at fault.
pub async fn resolve(conn: &mut PgConnection, mut spec: JobSpec) -> AppResult<Resolved> {
    let mut faults = Faults::default();
    let checked = check(conn, &mut spec, None, &mut faults).await?;
    let Some(Checked { candidates: Some(candidates), network, averaged, data }) = checked else {
        return Err(faults.into_error());
    };
    let tensors: Vec<usize> = averaged.iter().map(|(_, elements)| *elements).collect();
    let method = method::sizes(&mut spec.method, data.fit_samples);
    let blocks = network::block_names(&averaged, method.granularity);
    if let MethodSpec::Twa(twa) = &spec.method
        && let Start::Job(job) = twa.start
    {
        let found = warm_start::coefficients(conn, job.into(), &candidates.members, Some(&blocks)).await?;
        found.map_err(|why| AppError::invalid_field(START_FIELD, why))?;
    }
    let projection = extends::pin(conn, &spec, &candidates).await?;
    let projection = projection.map_err(|why| AppError::invalid_field(EXTENDS_FIELD, why))?;
    let estimate = estimate::estimate(&Sizes {
        candidates: candidates.members.len(),
        blocks: blocks.len(),
        tensors: &tensors,
        bits: method.bits,
        extends: !projection.links.is_empty(),
        ranks: method.ranks,
        activation_bytes: network.activation_bytes(&data.input_shape, method.batch_size.div_ceil(method.ranks)) as u64,
        dataset_bytes: data.file_bytes,
    });
    Ok(Resolved { spec, estimate, run_id: candidates.run_id, projection, datasets: data.datasets })
}

/// What is known of the candidates that a policy will choose.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    /// How many, at most.
    pub(super) count: usize,
    /// Layout of the run's latest checkpoint, where it has any.
    pub(super) layout_blake3: Option<String>,
    /// The run.
    pub(super) run_id: RunId,
}

/// Checks a spec whose candidates are not chosen yet, as far as they are known, and fills in its defaults; refuses it with every
/// field at fault, below `job`.
pub(super) async fn resolve_template(
    conn: &mut PgConnection,
    template: JobTemplate,
    expected: &Expected,
) -> AppResult<JobTemplate> {
    let mut faults = Faults::default();
    let mut spec = template.with_candidates(Uuid::nil());
    if let MethodSpec::Twa(twa) = &spec.method {
        let sound = !matches!(twa.start, Start::Job(_));
        faults.check(sound, START_FIELD, || "is the policy's: each refresh starts where the last one ended".into());
        let sound = !matches!(twa.extends, Some(Extends::Job(_)));
        faults
            .check(sound, EXTENDS_FIELD, || "is the policy's: each refresh extends the last one, or `nothing`".into());
    }
    let checked = check(conn, &mut spec, Some(expected), &mut faults).await?;
    let Some(Checked { data, .. }) = checked else {
        for fault in &mut faults.0 {
            fault.field = format!("job.{}", fault.field);
        }
        return Err(faults.into_error());
    };
    method::sizes(&mut spec.method, data.fit_samples);
    Ok(spec.into())
}

/// Whether a spec was refused because of this field, and of nothing else.
pub(super) fn is_refused_for(error: &AppError, field: &str) -> bool {
    matches!(error, AppError::Refused { faults, .. }
        if !faults.is_empty() && faults.iter().all(|fault| fault.field == field))
}

/// The parts of a sound spec.
struct Checked {
    candidates: Option<Candidates>,
    network: Box<dyn Network>,
    averaged: Vec<(String, usize)>,
    data: data::Data,
}

/// Checks a spec with its candidates, or with those `expected`; `None` where anything is at fault.
async fn check(
    conn: &mut PgConnection,
    spec: &mut JobSpec,
    expected: Option<&Expected>,
    faults: &mut Faults,
) -> AppResult<Option<Checked>> {
    objective::check(spec.objective.as_ref(), faults);
    scheduling::check(&spec.scheduling, faults);
    let candidates = match expected {
        Some(expected) => expect_candidates(conn, expected).await?,
        None => find_candidates(conn, spec, faults).await?,
    };
    let found = candidates.as_ref().map(|candidates| candidates.members.len());
    method::resolve(&mut spec.method, expected.map(|expected| expected.count).or(found), faults);
    let models = lora::models(conn, spec, candidates.as_ref(), faults).await?;
    let held = models.as_ref().map(|models| models.tensors.as_slice());
    let network = network::check(&spec.network, held, faults);
    let averaged = network.as_deref().and_then(|network| tensors::averaged(spec, network, held, faults));
    if let (Some(models), Some(averaged)) = (&models, &averaged) {
        lora::check_averaged(spec, models, averaged, faults);
    }
    let shard_size = spec.output.shard_size_bytes;
    faults.check(shard_size != Some(0), "output.shard_size_bytes", || "must be at least 1".into());
    let data = data::resolve(conn, spec, network.as_deref(), faults).await?;
    Ok(match (network, averaged, data, faults.0.is_empty()) {
        (Some(network), Some(averaged), Some(data), true) => Some(Checked { candidates, network, averaged, data }),
        _ => None,
    })
}

async fn expect_candidates(conn: &mut PgConnection, expected: &Expected) -> AppResult<Option<Candidates>> {
    let Some(layout) = &expected.layout_blake3 else { return Ok(None) };
    let tensors = db::layouts::find_layout(conn, layout).await?;
    let tensors = tensors.ok_or_else(|| AppError::internal(format!("there is no layout {layout}")))?;
    Ok(Some(Candidates { run_id: expected.run_id, members: Vec::new(), tensors }))
}

struct Candidates {
    run_id: RunId,
    members: Vec<Candidate>,
    tensors: Vec<crate::domain::layout::Tensor>,
}

async fn find_candidates(
    conn: &mut PgConnection,
    spec: &JobSpec,
    faults: &mut Faults,
) -> AppResult<Option<Candidates>> {
    let id = spec.candidate_set_id.into();
    let Some(set) = db::candidate_sets::find_candidate_set(conn, id).await? else {
        faults.add("candidate_set_id", format!("there is no candidate set {id}"));
        return Ok(None);
    };
    let tensors = db::layouts::find_layout(conn, &set.layout_blake3).await?;
    let tensors = tensors.ok_or_else(|| AppError::internal(format!("candidate set {id} has no layout")))?;
    Ok(Some(Candidates { run_id: set.run_id, members: set.members, tensors }))
}
