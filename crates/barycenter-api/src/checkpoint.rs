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

/// Which checkpoints of a run to list, and in which order.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListCheckpoints {
    /// `created_at` (unless told), `step`, or the name of a metric; checkpoints without the metric are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sort: Option<String>,
    /// `asc` or `desc`; unless told, `created_at` and `step` go down and metrics go up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<SortOrder>,
    /// Comma-separated tags; a checkpoint has all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Least step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_step: Option<i64>,
    /// Greatest step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_step: Option<i64>,
    /// Comma-separated conditions on metrics with `<`, `<=`, `>`, `>=` or `=`, as `val_loss<0.5`; all hold.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub conditions: Option<String>,
    /// Stored at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_from: Option<DateTime<Utc>>,
    /// Stored before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_before: Option<DateTime<Utc>>,
    /// Set to true to list those that are deleted and can still be undeleted, which have no order but `created_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<bool>,
    /// Items a page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u32>,
    /// The `next_page_token` of the page before; it belongs to its sort and order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_token: Option<String>,
}

/// Which end of a list comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SortOrder {
    /// Smallest first.
    Asc,
    /// Greatest first.
    Desc,
}

/// What is reported about a checkpoint after it was pushed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditCheckpoint {
    /// Metrics to set; `null` removes one, those not named stay.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, Option<f64>>,
    /// All tags, in place of those before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
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
    /// Size of the file, of all files where it has several.
    pub size_bytes: u64,
    /// Number of files, where it was made of uploaded files: each is read at `/files/{name}`. Absent where it is one safetensors
    /// file, read at `/content`.
    #[serde(default)]
    pub file_count: Option<u64>,
    /// BLAKE3 digest of the file; of the list of its files where it was made of uploaded files.
    pub digest_blake3: String,
    /// BLAKE3 digest of names, dtypes and shapes: equal where two checkpoints can be averaged.
    pub layout_blake3: String,
    /// Number of tensors.
    pub tensor_count: u64,
    /// Whether it is kept whatever the retention rules say.
    #[serde(default)]
    pub pinned: bool,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
    /// When it was deleted; a list of deleted checkpoints tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<DateTime<Utc>>,
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

/// Which checkpoint to compare with.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CompareTensors {
    /// Id of the other checkpoint.
    pub with: Uuid,
}

/// Tensors that two checkpoints share byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EqualTensors {
    /// The checkpoint.
    pub checkpoint_id: Uuid,
    /// Its step.
    pub step: i64,
    /// The checkpoint that it was compared with.
    pub with: Uuid,
    /// The step of that.
    pub with_step: i64,
    /// Number of the checkpoint's tensors.
    pub tensor_count: u64,
    /// Their bytes.
    pub tensor_bytes: u64,
    /// Number of those that are equal in name, dtype, shape and every byte.
    pub equal_count: u64,
    /// Their bytes.
    pub equal_bytes: u64,
    /// Their names, sorted.
    pub equal: Vec<String>,
}
