//! What a merge did with every tensor, so that it can be done again.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a merge of the candidates makes an artifact again, bit for bit. A tensor that is neither averaged nor kept is copied from the
/// last candidate; floating-point tensors are written as `output.dtype` of the spec, where it names one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MergePlan {
    /// How the numbers are summed and rounded.
    pub rules: MergeRules,
    /// The averaged tensors.
    pub averaged: Vec<MergedTensor>,
    /// Tensors that no merge brings back, as recomputed running statistics: they are kept when the artifact's bytes are dropped.
    pub kept: Vec<String>,
}

/// How a merge sums and rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum MergeRules {
    /// The first rules, those of `docs/method.md`, "Result": in f64 from the first candidate to the last, products rounded before they
    /// are added, the sum rounded once to the type that is written.
    #[serde(rename = "merge_1")]
    Merge1,
}

/// An averaged tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MergedTensor {
    /// Its name.
    pub tensor: String,
    /// Its column of the coefficients, 0 for the first.
    pub block: u32,
}
