//! Artifacts: averaged models and where they come from.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{CandidateSet, CoefficientTable, JobSpec, MergePlan, Report};

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
    /// When it drops its bytes, unless an alias names it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drops_at: Option<DateTime<Utc>>,
    /// When its bytes were dropped; a rebuild brings them back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_at: Option<DateTime<Utc>>,
    /// What was kept of a dropped artifact: the tensors that no merge brings back, as a safetensors file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptTensors>,
    /// When it was deleted; a list of deleted artifacts tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<DateTime<Utc>>,
}

/// A file with what was kept of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptTensors {
    /// Its size.
    pub size_bytes: u64,
    /// Its BLAKE3 digest.
    pub digest_blake3: String,
}

/// What a drop came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DroppedArtifact {
    /// When the bytes were dropped.
    pub dropped_at: DateTime<Utc>,
    /// Bytes that are free now: none where something else has the same bytes.
    pub freed_bytes: u64,
    /// Bytes that were kept.
    pub kept_bytes: u64,
}

/// Sets when an artifact deletes itself or drops its bytes; what is absent stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditArtifact {
    /// When it deletes itself; `null` for never.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    pub expires_at: Option<Option<DateTime<Utc>>>,
    /// When it drops its bytes, which a merge of its candidates can make again; `null` for never.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    pub drops_at: Option<Option<DateTime<Utc>>>,
}

/// Which artifacts are listed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListArtifacts {
    /// Only artifacts of this run, by name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Set to true to list those that are deleted and can still be undeleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted: Option<bool>,
    /// Items a page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u32>,
    /// The `next_page_token` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_token: Option<String>,
}

/// Tells a field that is `null` from one that is absent.
#[expect(clippy::option_option, reason = "absent, `null` and a time are three things")]
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<DateTime<Utc>>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
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
    /// How a merge of the candidates makes the file again; absent where none does, or where the worker did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<MergePlan>,
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
