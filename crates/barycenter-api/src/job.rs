//! Averaging jobs.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{JobSpec, Report};

/// Where a job stands. The last three are terminal and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a worker.
    Queued,
    /// Leased by a worker.
    Running,
    /// Has an artifact.
    Succeeded,
    /// Ended without one; `error` says why.
    Failed,
    /// Ended because someone asked.
    Cancelled,
}

impl JobState {
    /// Whether the state never changes again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}

/// An averaging job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Identifier.
    pub job_id: Uuid,
    /// The run of its candidates.
    pub run_id: Uuid,
    /// State.
    pub state: JobState,
    /// Someone asked for it to end; the worker hears it at its next heartbeat.
    pub cancel_requested: bool,
    /// What it was asked to do, every default filled in.
    pub spec: JobSpec,
    /// Memory it will take on a worker.
    pub estimate: MemoryEstimate,
    /// How far it is, or where it ended; absent until a worker has reported and once the job has succeeded.
    pub progress: Option<Progress>,
    /// Every time a worker took it, oldest first.
    pub attempts: Vec<Attempt>,
    /// Why it failed.
    pub error: Option<JobFailure>,
    /// What it found.
    pub report: Option<Report>,
    /// What it made.
    pub artifact_id: Option<Uuid>,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// When a worker first took it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A job in a list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JobSummary {
    /// Identifier.
    pub job_id: Uuid,
    /// The run of its candidates.
    pub run_id: Uuid,
    /// The candidates.
    pub candidate_set_id: Uuid,
    /// State.
    pub state: JobState,
    /// How far it is, or where it ended; absent where it succeeded.
    pub progress: Option<Progress>,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Memory of a job on a worker, computed before it is queued (`docs/method.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryEstimate {
    /// Packed directions and their scales.
    pub projection_bytes: u64,
    /// Centre, weights, their copy on the device and gradient: four vectors of f32.
    pub vector_bytes: u64,
    /// Activations of one batch, forward and backward.
    pub activation_bytes: u64,
    /// Datasets held in memory.
    pub dataset_bytes: u64,
    /// The worker's process itself and what its allocator keeps.
    #[serde(default)]
    pub process_bytes: u64,
    /// The sum.
    pub total_bytes: u64,
}

/// A spec that was checked and not queued.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ValidatedJob {
    /// The spec with every default filled in.
    pub spec: JobSpec,
    /// Memory the job would take on a worker.
    pub estimate: MemoryEstimate,
}

/// Parts of a job, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Candidates and data are read into the worker's cache and checked.
    Fetch,
    /// The packed projection is built, or found in the cache.
    Projection,
    /// The coefficients are fitted.
    Fit,
    /// The baselines are evaluated.
    Baselines,
    /// The best snapshot is compared with them, the test figures made.
    Select,
    /// The artifact is merged from the candidates.
    Materialise,
    /// The artifact is uploaded.
    Upload,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fetch => "fetch",
            Self::Projection => "projection",
            Self::Fit => "fit",
            Self::Baselines => "baselines",
            Self::Select => "select",
            Self::Materialise => "materialise",
            Self::Upload => "upload",
        })
    }
}

/// How far a running job is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// What the worker does now.
    pub phase: Phase,
    /// Units of the phase done: steps of the fit, candidates of the fetch.
    pub done: u64,
    /// Units of the phase in all.
    pub total: u64,
    /// Loss of the last step, in phase `fit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit_loss: Option<f64>,
}

/// One time that a worker took a job.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// 1 for the first.
    pub attempt: u32,
    /// Name of the worker.
    pub worker: String,
    /// How it stands or ended.
    pub state: AttemptState,
    /// Why it ended, where it did not succeed.
    pub error: Option<JobFailure>,
    /// When it was leased.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// How an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptState {
    /// Holds the lease.
    Running,
    /// Published the artifact.
    Succeeded,
    /// Reported a failure.
    Failed,
    /// Stopped because the job was cancelled.
    Cancelled,
    /// Stopped sending heartbeats; another attempt took over.
    Expired,
}

/// Why a job or an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobFailure {
    /// Stable code: `invalid_input`, `corrupt_file`, `compute`, `io`, `too_many_attempts`.
    pub code: String,
    /// What happened, naming candidate, tensor or file.
    pub message: String,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListJobs {
    /// Only jobs in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// Only jobs of this run, by name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Items a page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u32>,
    /// The `next_page_token` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_token: Option<String>,
}

/// How a job is read.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobQuery {
    /// Answer when the job is terminal, or after so many seconds (at most 25).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<u32>,
}

/// How a job is submitted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SubmitQuery {
    /// Check the spec and answer with it and its memory estimate; nothing is queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate_only: Option<bool>,
}
