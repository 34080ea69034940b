//! The worker protocol: claim, heartbeat, upload, finish or fail.
//!
//! A lease id is also the fencing token of an attempt: once another worker has taken the job, every call under the old
//! id answers `lost` or 409, and nothing that it uploaded is ever seen.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Bytes64, Floats, JobSpec, LeasedProjection, MergePlan, NewLogLine, Normalisation, Progress, Report};

/// Asks for a job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Who asks, by the id that its registration was answered with.
    pub worker_id: Uuid,
    /// Wait so many seconds for a job (at most 25) before answering 204.
    #[serde(default)]
    pub wait_seconds: u32,
}

/// A job to run, and everything needed for it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    /// Identifier and fencing token.
    pub lease_id: Uuid,
    /// The job.
    pub job_id: Uuid,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The lease lapses then, unless a heartbeat renews it.
    pub expires_at: DateTime<Utc>,
    /// Send a heartbeat at least this often.
    pub heartbeat_seconds: f64,
    /// What to do; every default is filled in.
    pub spec: JobSpec,
    /// The candidates, in order.
    pub candidates: Vec<LeasedCandidate>,
    /// The base model, where the candidates are adapters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<LeasedCandidate>,
    /// Every dataset the spec names.
    pub datasets: Vec<LeasedDataset>,
    /// The coefficients to start from, candidate by candidate, where the spec's `start` is an earlier job: one a candidate, or
    /// one a candidate and block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub start_coefficients: Option<Floats>,
    /// Its projection; absent where the method needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projection: Option<LeasedProjection>,
    /// The last fit state that an earlier attempt saved.
    #[schema(value_type = Option<String>)]
    pub fit_state: Option<Bytes64>,
}

/// A candidate to fetch from `/v1/checkpoints/{checkpoint_id}/content`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeasedCandidate {
    /// The checkpoint.
    pub checkpoint_id: Uuid,
    /// Its step.
    pub step: i64,
    /// Size of its file.
    pub size_bytes: u64,
    /// Digest of its file.
    pub digest_blake3: String,
}

/// A dataset to fetch from `/v1/datasets/{dataset_id}/content`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LeasedDataset {
    /// The dataset.
    pub dataset_id: Uuid,
    /// The word by which the spec names it.
    pub named: String,
    /// Size of its file.
    pub size_bytes: u64,
    /// Digest of its file.
    pub digest_blake3: String,
    /// How stored inputs become what the network sees.
    pub normalisation: Normalisation,
}

/// Renews a lease and reports. Snapshots already stored are stored once.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// How far the job is.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// State to resume the fit from; replaces the one before.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub fit_state: Option<Bytes64>,
    /// Names of the blocks; sent with the first snapshots.
    #[serde(default)]
    pub blocks: Option<Vec<String>>,
    /// Snapshots since the last heartbeat that was answered.
    #[serde(default)]
    pub snapshots: Vec<Snapshot>,
    /// Log lines since the last heartbeat that was answered, at most 1000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<NewLogLine>,
}

/// One snapshot of a fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Steps taken; 0 is the start.
    pub step: u64,
    /// Passes over the fit data, as a fraction.
    pub epoch: f64,
    /// Learning rate of the step that led here.
    pub learning_rate: f64,
    /// Loss of that step's batch; absent at step 0.
    pub fit_loss: Option<f64>,
    /// Loss on the select part, where it was evaluated.
    pub select_loss: Option<f64>,
    /// `a`, candidate by candidate: n x L numbers.
    #[schema(value_type = String)]
    pub coefficients: Floats,
}

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Directive {
    /// Go on.
    Continue,
    /// The job was cancelled: stop and report `fail` with code `cancelled`.
    Stop,
    /// Another attempt holds the job: stop, discard everything, say nothing.
    Lost,
}

/// Answer to a heartbeat.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatReply {
    /// What to do next.
    pub directive: Directive,
    /// The lease lapses then.
    pub expires_at: DateTime<Utc>,
}

/// An artifact's bytes as the server received them; not visible until `finish`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoredArtifact {
    /// Size received.
    pub size_bytes: u64,
    /// Digest received.
    pub digest_blake3: String,
}

/// Publishes the artifact and ends the job as succeeded.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Finish {
    /// Digest of the artifact uploaded under this lease.
    pub artifact_digest_blake3: String,
    /// Names of the blocks.
    pub blocks: Vec<String>,
    /// `a`, candidate by candidate: n x L numbers.
    #[schema(value_type = String)]
    pub coefficients: Floats,
    /// What was found.
    pub report: Report,
    /// How a merge of the candidates makes the artifact again; only then its bytes can be dropped and rebuilt. A worker that
    /// does not merge by these rules to the last bit leaves it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<MergePlan>,
    /// Select losses of what was returned, sample by sample: what a policy compares its refreshes by. At most 100000; a worker that
    /// has more, or none, leaves them out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select_losses: Option<SelectLosses>,
}

/// Losses of the samples of the select part, in the order of the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectLosses {
    /// One a sample.
    #[schema(value_type = String)]
    pub losses: Floats,
    /// What each weighs in the mean: its tokens that count; absent where all weigh the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Vec<u32>>,
}

/// The most losses that a `Finish` holds.
pub const MAX_SELECT_LOSSES: usize = 100_000;

/// Ends an attempt without an artifact.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Fail {
    /// Stable code; `cancelled` after a `stop`, `worker_stopped` where the worker is shut down and hands the job back.
    pub code: String,
    /// What happened, naming candidate, tensor or file.
    pub message: String,
    /// Whether another attempt may fare better. `invalid_input`, `corrupt_file`, `missing_tensor`, `not_finite` and `unsupported`
    /// are final whatever it says.
    pub retry: bool,
}
