//! Workers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{DeviceKind, ProjectionCounts};

/// Registers a worker, or takes up its place again after a restart: a worker is known by its name.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterWorker {
    /// Unique name, 1 to 200 characters.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// What it computes on.
    pub device: WorkerDevice,
    /// Memory that a job may take; jobs that are estimated to take more are not given to it. Absent for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Kinds of networks that it computes; empty for all.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Keys of the projections in its cache, as leases name them.
    #[serde(default)]
    pub projections: Vec<String>,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkerDevice {
    /// Its kind.
    pub kind: DeviceKind,
    /// Its name, for people.
    pub name: String,
}

/// Whether a worker is given jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It is.
    Active,
    /// Not until someone resumes it.
    Paused,
    /// No more: it ends after the job that it has.
    Draining,
    /// It was drained and has no job.
    Drained,
}

impl std::fmt::Display for WorkerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Drained => "drained",
        })
    }
}

/// A worker.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// Identifier.
    pub worker_id: Uuid,
    /// Unique name.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// What it computes on.
    pub device: WorkerDevice,
    /// Memory that a job may take.
    pub memory_bytes: Option<u64>,
    /// Kinds of networks that it computes; empty for all.
    pub networks: Vec<String>,
    /// Keys of the projections in its cache.
    pub projections: Vec<String>,
    /// Its jobs by where their projection came from.
    #[serde(default)]
    pub projection_counts: ProjectionCounts,
    /// Whether it is given jobs.
    pub state: WorkerState,
    /// Whether it was heard of lately or is at work.
    pub alive: bool,
    /// What it computes now.
    pub job_id: Option<Uuid>,
    /// When it first registered.
    pub registered_at: DateTime<Utc>,
    /// When it was last heard of.
    pub seen_at: DateTime<Utc>,
}

/// Changes to a worker.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditWorker {
    /// Whether it is kept from jobs; `false` also takes a drain back.
    pub paused: bool,
}

/// Tells that a worker is there, between and during jobs.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkerHeartbeat {
    /// Keys of the projections in its cache, where they have changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projections: Option<Vec<String>>,
}

/// Answer to a worker's heartbeat.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkerHeartbeatReply {
    /// Whether it is given jobs; a draining worker ends after the job that it has.
    pub state: WorkerState,
    /// Send the next heartbeat after so long.
    pub heartbeat_seconds: f64,
}
