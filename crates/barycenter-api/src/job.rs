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
    /// Project of its run.
    #[serde(default)]
    pub project: String,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i32,
    /// It fails with `deadline_exceeded` where it has not ended by then.
    pub deadline_at: Option<DateTime<Utc>>,
    /// Its place and why it waits, while it is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
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

/// How a queued job waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Waiting {
    /// 1 for the job that is next.
    pub position: u64,
    /// Why it waits.
    pub reason: WaitReason,
    /// The reason in words.
    pub detail: String,
    /// Until when, where that is known.
    pub until: Option<DateTime<Utc>>,
}

/// Why a queued job waits: the first thing that must change before it can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// It failed before and is not tried again until `until`.
    BackOff,
    /// No worker is alive.
    NoWorker,
    /// No worker that is alive has the device that it asks for.
    NoWorkerWithDevice,
    /// None with the device has the memory that it is estimated to take.
    NoWorkerWithMemory,
    /// None with device and memory computes its network.
    NoWorkerWithNetwork,
    /// Every worker that could take it is paused or draining.
    WorkersPaused,
    /// Its project runs as many jobs as it may.
    ProjectAtCap,
    /// Every worker that could take it is at work.
    WorkersBusy,
    /// A worker is free and takes it, or one of those before it, at its next claim.
    Starting,
}

/// Changes to a queued job.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditJob {
    /// Higher goes first, -1000 to 1000. The job goes to the end of its project's jobs of the new priority.
    pub priority: i32,
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
    /// Stopped sending heartbeats; its error has code `worker_lost`.
    Expired,
}

/// Why a job or an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobFailure {
    /// Stable code; `docs/jobs.md` lists them.
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
