//! Artifacts: averaged models and where they come from.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{CoefficientTable, JobSpec, Report};

/// An averaged model.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Artifact {
    /// Identifier.
    pub artifact_id: Uuid,
    /// The job that made it.
    pub job_id: Uuid,
    /// The run of its candidates.
    pub run_id: Uuid,
    /// Size of the safetensors file.
    pub size_bytes: u64,
    /// BLAKE3 digest of the file; also its `ETag`.
    pub digest_blake3: String,
    /// When it was published.
    pub created_at: DateTime<Utc>,
    /// When it deletes itself, unless an alias names it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// Sets when an artifact deletes itself.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditArtifact {
    /// The time; `null` for never.
    #[serde(deserialize_with = "Option::deserialize")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// Everything needed to make the artifact again.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Manifest {
    /// The averaged model.
    pub artifact: Artifact,
    /// The candidates with their digests, in the order of the coefficients.
    pub candidates: Vec<ManifestCandidate>,
    /// The coefficients the model was merged with.
    pub coefficients: CoefficientTable,
    /// The job's settings, every default filled in.
    pub spec: JobSpec,
    /// Losses, baselines, phases.
    pub report: Report,
    /// Version of the worker that merged it.
    pub worker_version: String,
}

/// One candidate of a manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ManifestCandidate {
    /// The checkpoint.
    pub checkpoint_id: Uuid,
    /// Its step.
    pub step: i64,
    /// Digest of its file.
    pub digest_blake3: String,
}
