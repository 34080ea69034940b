//! Artifacts: averaged models.

use chrono::{DateTime, Utc};

use super::ids::{ArtifactId, JobId, LeaseId, RunId};

/// A published artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Identifier.
    pub artifact_id: ArtifactId,
    /// The job that made it.
    pub job_id: JobId,
    /// The run of its candidates.
    pub run_id: RunId,
    /// The lease it was uploaded and published under.
    pub lease_id: LeaseId,
    /// Digest of the file.
    pub digest_blake3: String,
    /// Size of the file.
    pub size_bytes: u64,
    /// Version of the worker that merged it.
    pub worker_version: String,
    /// When it was published.
    pub created_at: DateTime<Utc>,
    /// When it deletes itself, unless an alias names it then.
    pub expires_at: Option<DateTime<Utc>>,
    /// How a merge of its candidates makes the file again, as its worker told it.
    pub merge_plan: Option<serde_json::Value>,
    /// When it drops its bytes, unless an alias names it then.
    pub drops_at: Option<DateTime<Utc>>,
    /// When its bytes were dropped.
    pub dropped_at: Option<DateTime<Utc>>,
    /// What was kept of them.
    pub kept: Option<Kept>,
    /// When it was deleted.
    pub deleted_at: Option<DateTime<Utc>>,
}

/// A file with the tensors that no merge brings back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its digest.
    pub digest_blake3: String,
    /// Its size.
    pub size_bytes: u64,
}
