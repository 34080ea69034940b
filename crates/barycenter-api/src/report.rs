//! What a job found: every number beside its honest baselines.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::ProjectionReport;

/// The outcome of an averaging job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// Which of `evaluations` was returned: a baseline where the guard found the method no better.
    pub chosen: String,
    /// Plain words: whether averaging gained, and over what.
    pub verdict: String,
    /// The baselines and the job's method, on the same data.
    pub evaluations: Vec<Evaluation>,
    /// What the fit came to; absent where the method needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<FitReport>,
    /// How the candidates lie to each other; absent where the method needs no projection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geometry: Option<Geometry>,
    /// What an average of adapters lost by its rank; absent where no adapter was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraReport>,
    /// Number of samples fitted on.
    pub fit_samples: u64,
    /// Number of samples selected on.
    pub select_samples: u64,
    /// True where the fit saw the samples it was selected on, because the spec names one dataset for both.
    pub select_overlaps_fit: bool,
    /// Tensors that were not averaged, with what happened to each.
    pub not_averaged: Vec<NotAveraged>,
    /// Where the time went.
    pub phases: Vec<PhaseTime>,
    /// Bytes of the packed projection; 0 where the method needs none.
    pub projection_bytes: u64,
    /// How the job came by it; absent where the method needs none, and from workers that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projection: Option<ProjectionReport>,
}

/// What a fit came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FitReport {
    /// Step of the snapshot with the least select loss.
    pub best_step: u64,
    /// Steps taken.
    pub steps: u64,
    /// Select loss of the fitted weights as they were fitted, on quantised directions; the row `twa` has that of the
    /// exact merge, so the difference is the cost of quantisation.
    pub as_fitted_select_loss: f64,
    /// Ranks that shared the fit.
    #[serde(default = "one_rank")]
    pub ranks: u32,
    /// What batch norm took its statistics from while fitting; absent where the network has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_norm_statistics: Option<BatchNormStatistics>,
}

/// Reports of fits from before ranks could share them.
fn one_rank() -> u32 {
    1
}

/// What batch norm takes its statistics from in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchNormStatistics {
    /// The whole batch.
    Batch,
    /// The part of it that each rank has.
    PartOfRank,
}

/// What an averaged adapter lost by its rank: the Frobenius norm of that over the norm of the whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LoraReport {
    /// Over all modules together.
    pub relative_error: f64,
    /// The module that lost most.
    pub worst_module: String,
    /// What it lost.
    pub worst_relative_error: f64,
}

/// How the candidates lie to each other, from the projection: lengths are exact, angles as good as its bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Geometry {
    /// Inner products of the candidates' deviations from their mean over all averaged tensors, in the set's order.
    pub gram: Vec<Vec<f64>>,
    /// Directions that the deviations spread over, at most n − 1: the exponential of the entropy of the Gram matrix's eigenvalues.
    pub effective_rank: f64,
    /// Pairs closer than a tenth of the median distance of a pair, closest first.
    pub near_duplicates: Vec<NearDuplicate>,
}

/// Two candidates that are all but one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NearDuplicate {
    /// Checkpoint of the earlier one.
    pub first: Uuid,
    /// Checkpoint of the later one.
    pub second: Uuid,
    /// Euclidean distance between their averaged weights.
    pub distance: f64,
}

/// A method's losses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Evaluation {
    /// `last`, `best_single`, `uniform`, `best_suffix`, `greedy`, or the job's own.
    pub method: String,
    /// The checkpoints it averages, where it weighs them equally.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<Uuid>>,
    /// On the select part.
    pub select: Evaluated,
    /// On the test data, where the spec names any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Evaluated>,
    /// 95 % paired bootstrap interval of (select loss of this method − select loss of uniform), over samples.
    pub select_difference_from_uniform: [f64; 2],
    /// The same of the test losses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_difference_from_uniform: Option<[f64; 2]>,
}

/// Loss and accuracy on one part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Evaluated {
    /// Mean loss, without label smoothing: nats a sample (`cross_entropy`) or a token (`next_token`, its exponential is the
    /// perplexity), or the mean squared error (`squared_error`).
    pub loss: f64,
    /// Share of samples, or of tokens, whose likeliest class is the label; absent for `squared_error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// A tensor that was not averaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotAveraged {
    /// Name in the state dict.
    pub tensor: String,
    /// `copy` (from the reference candidate), `recompute` or `average`.
    pub policy: String,
}

/// Seconds spent in one phase of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PhaseTime {
    /// Name of the phase, as in `progress.phase`.
    pub phase: String,
    /// Wall-clock seconds.
    pub seconds: f64,
}
