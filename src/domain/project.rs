//! Projects.

use chrono::{DateTime, Utc};

/// A project and how its jobs stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Name.
    pub project: String,
    /// Jobs of it that may run at a time.
    pub max_running_jobs: Option<u32>,
    /// Jobs that run.
    pub running_jobs: u64,
    /// Jobs that wait.
    pub queued_jobs: u64,
    /// When it was first named.
    pub created_at: DateTime<Utc>,
}
