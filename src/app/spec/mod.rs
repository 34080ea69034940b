//! Checks a job's spec and fills in its defaults, so that what is stored says all there is to say.
//!
//! Every fault is found before the spec is refused: whoever writes a spec corrects it once.

mod data;
mod lora;
mod method;
mod network;
mod objective;
mod scheduling;
mod tensors;

use barycenter_api::{JobSpec, MemoryEstimate, MethodSpec, Start};
use barycenter_core::average::Sizes;
pub(super) use scheduling::check_priority;
use sqlx::PgConnection;

use super::{AppError, AppResult, error::Fault, estimate, warm_start};
use crate::{
    db,
    domain::{
        candidate_set::Candidate,
        ids::{DatasetId, RunId},
        problem_code::ProblemCode,
    },
};

/// A spec that was checked.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The spec with every default filled in.
    pub spec: JobSpec,
    /// Memory of the job on a worker.
    pub estimate: MemoryEstimate,
    /// The run of the candidates.
    pub run_id: RunId,
    /// What its projection is called in the caches of workers; `None` where the method needs none.
    pub projection_key: Option<String>,
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
    objective::check(spec.objective.as_ref(), &mut faults);
    scheduling::check(&spec.scheduling, &mut faults);
    let candidates = find_candidates(conn, &spec, &mut faults).await?;
    method::resolve(&mut spec.method, candidates.as_ref().map(|candidates| candidates.members.len()), &mut faults);
    let models = lora::models(conn, &spec, candidates.as_ref(), &mut faults).await?;
    let held = models.as_ref().map(|models| models.tensors.as_slice());
    let network = network::check(&spec.network, held, &mut faults);
    let averaged = network.as_deref().and_then(|network| tensors::averaged(&spec, network, held, &mut faults));
    if let (Some(models), Some(averaged)) = (&models, &averaged) {
        lora::check_averaged(&spec, models, averaged, &mut faults);
    }
    let shard_size = spec.output.shard_size_bytes;
    faults.check(shard_size != Some(0), "output.shard_size_bytes", || "must be at least 1".into());
    let data = data::resolve(conn, &mut spec, network.as_deref(), &mut faults).await?;
    let (Some(candidates), Some(network), Some(averaged), Some(data), true) =
        (candidates, network, averaged, data, faults.0.is_empty())
    else {
        return Err(faults.into_error());
    };
    let tensors: Vec<usize> = averaged.iter().map(|(_, elements)| *elements).collect();
    let method = method::sizes(&mut spec.method, data.fit_samples);
    let blocks = network::block_names(&averaged, method.granularity);
    if let MethodSpec::Twa(twa) = &spec.method
        && let Start::Job(job) = twa.start
    {
        let found = warm_start::coefficients(conn, job.into(), &candidates.members, Some(&blocks)).await?;
        found.map_err(|why| AppError::invalid_field("method.start.job", why))?;
    }
    let estimate = estimate::estimate(&Sizes {
        candidates: candidates.members.len(),
        blocks: blocks.len(),
        tensors: &tensors,
        bits: method.bits,
        ranks: method.ranks,
        activation_bytes: network.activation_bytes(&data.input_shape, method.batch_size.div_ceil(method.ranks)) as u64,
        dataset_bytes: data.file_bytes,
    });
    let projection_key = scheduling::projection_key(&spec, &candidates.members)?;
    Ok(Resolved { spec, estimate, run_id: candidates.run_id, projection_key, datasets: data.datasets })
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
