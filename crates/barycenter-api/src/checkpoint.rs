//! Checkpoints: safetensors files of a run.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// What stands beside a pushed checkpoint, given as query parameters of the PUT.
///
/// `metrics` and `tags` are comma-separated: `metrics=val_loss:0.53,val_accuracy:0.81&tags=warm,a100`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PushCheckpoint {
    /// Epoch of the training run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<f64>,
    /// Comma-separated `name:value` pairs; values are finite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// Comma-separated tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<String>,
    /// BLAKE3 digest of the whole file; the upload is refused where the bytes differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest_blake3: Option<String>,
}

/// A stored checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Checkpoint {
    /// Identifier.
    pub checkpoint_id: Uuid,
    /// The run it belongs to.
    pub run_id: Uuid,
    /// Training step, unique in the run.
    pub step: i64,
    /// Epoch, where it was told.
    pub epoch: Option<f64>,
    /// Reported metrics.
    pub metrics: BTreeMap<String, f64>,
    /// Tags.
    pub tags: Vec<String>,
    /// Size of the file.
    pub size_bytes: u64,
    /// BLAKE3 digest of the file; also its `ETag`.
    pub digest_blake3: String,
    /// BLAKE3 digest of names, dtypes and shapes: equal where two checkpoints can be averaged.
    pub layout_blake3: String,
    /// Number of tensors.
    pub tensor_count: u64,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
}

/// One tensor of a checkpoint's layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TensorInfo {
    /// Name in the state dict.
    pub name: String,
    /// Element type as safetensors spells it: `F32`, `BF16`, `I64`, ...
    pub dtype: String,
    /// Shape, row-major.
    pub shape: Vec<u64>,
}
