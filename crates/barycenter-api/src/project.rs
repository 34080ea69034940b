//! Projects: groups of runs among which workers are shared fairly.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A project; it is there as soon as a run names it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// Name.
    pub project: String,
    /// Jobs of it that may run at a time; absent for as many as there are workers.
    pub max_running_jobs: Option<u32>,
    /// Jobs that run.
    pub running_jobs: u64,
    /// Jobs that wait.
    pub queued_jobs: u64,
    /// When it was first named.
    pub created_at: DateTime<Utc>,
}

/// Sets the bounds of a project.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetProject {
    /// Jobs of it that may run at a time; absent for as many as there are workers. 0 holds all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running_jobs: Option<u32>,
}
