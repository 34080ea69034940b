//! Artifacts: averaged models and where they come from.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{CandidateSet, CoefficientTable, JobSpec, Report};

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
    /// The candidate set.
    #[serde(default)]
    pub candidate_set_id: Uuid,
    /// The candidates with their digests, in the order of the coefficients.
    pub candidates: Vec<ManifestCandidate>,
    /// The base model that adapters were put into; absent where the candidates are models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<ManifestCandidate>,
    /// The datasets with their digests, by the words that the spec names them with.
    #[serde(default)]
    pub datasets: Vec<ManifestDataset>,
    /// The coefficients the model was merged with.
    pub coefficients: CoefficientTable,
    /// The job's settings, every default filled in.
    pub spec: JobSpec,
    /// Losses, baselines, phases.
    pub report: Report,
    /// Version of the worker that merged it.
    pub worker_version: String,
}

/// One dataset of a manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ManifestDataset {
    /// The word by which the spec names it.
    pub named: String,
    /// The dataset.
    pub dataset_id: Uuid,
    /// Digest of its file.
    pub digest_blake3: String,
}

/// Where an artifact comes from.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Lineage {
    /// The averaged model.
    pub artifact_id: Uuid,
    /// The job that made it.
    pub job_id: Uuid,
    /// The job whose coefficients that job started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_job_id: Option<Uuid>,
    /// The candidate set, with the rule that chose it and its members.
    pub candidate_set: CandidateSet,
    /// The base model that adapters were put into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<ManifestCandidate>,
    /// The datasets that the job fitted, selected and tested on.
    pub datasets: Vec<ManifestDataset>,
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
