//! Policies: standing rules of runs that average again and again.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    Baselines, BatchNormSpec, DataSpec, Guard, JobSpec, LoraSpec, Materialise, MethodSpec, NetworkSpec, ObjectiveSpec,
    OutputSpec, SchedulingSpec, TensorRule,
};

/// Sets the policy of a run, in place of the one before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPolicy {
    /// A refresh begins once so many checkpoints were pushed since the last one began, 1 to 10000.
    pub every: u32,
    /// Which checkpoints a refresh averages.
    pub window: PolicyWindow,
    /// What a refresh computes: a job's spec without its candidates.
    pub job: JobTemplate,
    /// A refresh improves on the best one where its select loss is lower by at least this and the interval of the difference, where
    /// there is one, lies below 0. 0 unless told.
    #[serde(default)]
    pub improvement: f64,
    /// The alias that moves to the artifact of a refresh that improved; `best` unless told.
    #[serde(default = "best")]
    pub alias: String,
    /// A refresh that gets there raises `policy.target_reached`, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PolicyTarget>,
    /// So many refreshes in a row that did not improve raise `policy.stalled`. No refresh does unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u32>,
    /// Whether refreshes begin; true unless told. Checkpoints are counted all the same.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn best() -> String {
    "best".to_owned()
}

fn yes() -> bool {
    true
}

/// Which checkpoints a refresh averages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyWindow {
    /// Those of so many highest steps, 2 to 1024; all where the run has fewer.
    pub last: u32,
}

/// A loss that is to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyTarget {
    /// Which loss of the result.
    pub metric: PolicyMetric,
    /// It is reached by what is below this.
    pub below: f64,
}

/// A loss of a refresh's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyMetric {
    /// On the select part.
    SelectLoss,
    /// On the test data, which `job.data.test` then names.
    TestLoss,
}

/// A job's spec without its candidates. The fields are those of `JobSpec`; `method.start` cannot name a job, because the policy
/// does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobTemplate {
    /// The architecture the checkpoints belong to.
    pub network: NetworkSpec,
    /// How the coefficients are found.
    #[serde(default)]
    pub method: MethodSpec,
    /// What they are found, selected and reported on.
    pub data: DataSpec,
    /// The loss.
    #[serde(default)]
    pub objective: Option<ObjectiveSpec>,
    /// Running statistics of the averaged model.
    #[serde(default)]
    pub batch_norm: BatchNormSpec,
    /// Where the candidates are adapters: what they adapt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSpec>,
    /// What becomes of tensors that are not to go by their role in the network.
    #[serde(default)]
    pub tensors: Vec<TensorRule>,
    /// Which baselines stand beside the method.
    #[serde(default)]
    pub baselines: Baselines,
    /// Whether a baseline that beats the method on the select part is returned in its place.
    #[serde(default)]
    pub guard: Guard,
    /// Which weights of a fit are written.
    #[serde(default)]
    pub materialise: Materialise,
    /// How the averaged model is written.
    #[serde(default)]
    pub output: OutputSpec,
    /// Seed of the split, the shuffling and the augmentation.
    #[serde(default)]
    pub seed: u64,
    /// When and where the job runs.
    #[serde(default, skip_serializing_if = "SchedulingSpec::is_default")]
    pub scheduling: SchedulingSpec,
}

impl JobTemplate {
    /// The spec of a job with these candidates.
    pub fn with_candidates(self, candidate_set_id: Uuid) -> JobSpec {
        JobSpec {
            candidate_set_id,
            network: self.network,
            method: self.method,
            data: self.data,
            objective: self.objective,
            batch_norm: self.batch_norm,
            lora: self.lora,
            tensors: self.tensors,
            baselines: self.baselines,
            guard: self.guard,
            materialise: self.materialise,
            output: self.output,
            seed: self.seed,
            scheduling: self.scheduling,
        }
    }
}

impl From<JobSpec> for JobTemplate {
    fn from(spec: JobSpec) -> Self {
        Self {
            network: spec.network,
            method: spec.method,
            data: spec.data,
            objective: spec.objective,
            batch_norm: spec.batch_norm,
            lora: spec.lora,
            tensors: spec.tensors,
            baselines: spec.baselines,
            guard: spec.guard,
            materialise: spec.materialise,
            output: spec.output,
            seed: spec.seed,
            scheduling: spec.scheduling,
        }
    }
}

/// The policy of a run, and how it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Policy {
    /// The run.
    pub run_id: Uuid,
    /// A refresh begins once so many checkpoints were pushed since the last one began.
    pub every: u32,
    /// Which checkpoints a refresh averages.
    pub window: PolicyWindow,
    /// What a refresh computes, with every default filled in.
    pub job: JobTemplate,
    /// How much lower a select loss has to be to improve.
    pub improvement: f64,
    /// The alias that moves.
    pub alias: String,
    /// The loss that is to be reached.
    pub target: Option<PolicyTarget>,
    /// So many refreshes in a row without improvement raise `policy.stalled`.
    pub patience: Option<u32>,
    /// Whether refreshes begin.
    pub enabled: bool,
    /// Checkpoints that were pushed since the last refresh began.
    pub new_checkpoints: u64,
    /// Refreshes in a row, up to the last, that did not improve.
    pub without_improvement: u32,
    /// When the target was reached.
    pub target_reached_at: Option<DateTime<Utc>>,
    /// Number of the refresh that later ones are compared with.
    pub best_refresh: Option<u32>,
    /// Version, as in `ETag`; another with every change of what was set.
    pub revision_id: Uuid,
    /// When it was first set.
    pub created_at: DateTime<Utc>,
}

/// How a refresh stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefreshState {
    /// Its job is queued or computed.
    Running,
    /// Its result is better than the best before, or the first.
    Improved,
    /// Its result is not.
    NotImproved,
    /// It has no result.
    Failed,
    /// The policy was removed while its job ran; the job goes on.
    Abandoned,
}

/// One time that a policy averaged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PolicyRefresh {
    /// Identifier.
    pub refresh_id: Uuid,
    /// The run.
    pub run_id: Uuid,
    /// Counts the refreshes of the run, from 1 on.
    pub number: u32,
    /// How it stands.
    pub state: RefreshState,
    /// Checkpoints that were new when it began.
    pub new_checkpoints: u64,
    /// The candidates; none where it failed before there were any.
    pub candidate_set_id: Option<Uuid>,
    /// The job; none where it failed before there was one.
    pub job_id: Option<Uuid>,
    /// The job whose coefficients it started from; none for the uniform average.
    pub started_from: Option<Uuid>,
    /// The averaged model.
    pub artifact_id: Option<Uuid>,
    /// Which evaluation the job returned.
    pub chosen: Option<String>,
    /// Select loss of the result.
    pub select_loss: Option<f64>,
    /// Test loss of the result, where the job has test data.
    pub test_loss: Option<f64>,
    /// Number of the refresh it was compared with; none for the first, or where that was selected on other data.
    pub compared_with: Option<u32>,
    /// Its select loss minus that of the other.
    pub difference: Option<f64>,
    /// 95 % paired bootstrap interval of the difference over the samples of the select part; none where a worker told no losses of
    /// samples.
    pub interval: Option<[f64; 2]>,
    /// The alias that it moved to its artifact.
    pub moved_alias: Option<String>,
    /// Why it failed.
    pub error: Option<crate::JobFailure>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When its outcome was told.
    pub finished_at: Option<DateTime<Utc>>,
}
