//! What becomes of single tensors, and how the averaged model is written.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A policy for the tensors whose names match a pattern. Of several rules that match a name the first counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TensorRule {
    /// A glob over the whole name, in which `*` also stands for dots: `classifier.*`, `*.running_mean`.
    pub pattern: String,
    /// What becomes of them.
    pub policy: TensorPolicy,
}

/// What becomes of a tensor. Tied tensors go with the parameter that they repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TensorPolicy {
    /// Averaged: parameters with learned coefficients, running statistics with equal weights.
    Average,
    /// Copied from the reference candidate, the last one.
    Copy,
    /// Accumulated anew under the averaged weights; for running statistics.
    Recompute,
    /// Candidates that hold such a tensor are refused.
    Reject,
}

/// How the averaged model is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutputSpec {
    /// Element type of its floating-point tensors; that of the candidates unless told.
    pub dtype: Option<FloatDtype>,
    /// Most bytes of tensors in a file when it is pulled: `barycenter artifact pull` then writes a folder of files with their
    /// index. The service keeps one file.
    pub shard_size_bytes: Option<u64>,
}

/// The candidates are low-rank adapters (`LoRA`, Hu et al. 2021) in PEFT's names, of factors alone: what is averaged are their
/// products, exactly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraSpec {
    /// Checkpoint of the network that the adapters were trained on.
    pub base_checkpoint_id: Uuid,
    /// What `B A` is multiplied by: `lora_alpha / r`, or `lora_alpha / √r` for rank-stabilised adapters.
    pub scale: f64,
    /// Whether the network's weights have their inputs along the rows (PEFT's `fan_in_fan_out`; GPT-2 has).
    #[serde(default)]
    pub transposed: bool,
    /// What is written.
    #[serde(default)]
    pub result: LoraResult,
}

/// What an average of adapters becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LoraResult {
    /// The base model with the averaged products in it.
    #[default]
    Model,
    /// The averaged products alone: one matrix a module, to add to the base model's weights.
    Delta {},
    /// An adapter of this rank with scale 1, by a truncated singular value decomposition; the report tells what it lost.
    Adapter {
        /// Columns of `B`, 1 to 65,535.
        rank: u16,
    },
}

/// Floating-point element types, as safetensors spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum FloatDtype {
    /// IEEE binary64.
    #[serde(rename = "F64")]
    F64,
    /// IEEE binary32.
    #[serde(rename = "F32")]
    F32,
    /// IEEE binary16.
    #[serde(rename = "F16")]
    F16,
    /// bfloat16.
    #[serde(rename = "BF16")]
    Bf16,
    /// 8 bits, 4 of them exponent.
    #[serde(rename = "F8_E4M3")]
    F8E4m3,
    /// 8 bits, 5 of them exponent.
    #[serde(rename = "F8_E5M2")]
    F8E5m2,
}
