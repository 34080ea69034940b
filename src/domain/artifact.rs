//! Artifacts: averaged models.

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// A published artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Identifier.
    pub artifact_id: Uuid,
    /// The job that made it.
    pub job_id: Uuid,
    /// The run of its candidates.
    pub run_id: Uuid,
    /// The lease it was uploaded and published under.
    pub lease_id: Uuid,
    /// Digest of the file.
    pub digest_blake3: String,
    /// Size of the file.
    pub size_bytes: u64,
    /// Version of the worker that merged it.
    pub worker_version: String,
    /// When it was published.
    pub created_at: DateTime<Utc>,
}
