//! Coefficients and their history.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// A candidate as tables of coefficients name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CandidateRef {
    /// The checkpoint.
    pub checkpoint_id: Uuid,
    /// Its step.
    pub step: i64,
}

/// Coefficients `a[i][l]` of candidate `i` in block `l`; each column sums to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CoefficientTable {
    /// The rows.
    pub candidates: Vec<CandidateRef>,
    /// The columns: names of the blocks.
    pub blocks: Vec<String>,
    /// One row a candidate, one number a block.
    pub values: Vec<Vec<f64>>,
}

/// A fit, snapshot by snapshot.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// The rows of every snapshot's coefficients.
    pub candidates: Vec<CandidateRef>,
    /// The columns of every snapshot's coefficients.
    pub blocks: Vec<String>,
    /// Snapshots in order of step.
    pub snapshots: Vec<HistorySnapshot>,
    /// Ask again with `after_step` set to this for more; absent when these are the last there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after_step: Option<u64>,
}

/// One snapshot of a fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistorySnapshot {
    /// Steps taken; 0 is the start.
    pub step: u64,
    /// Passes over the fit data, as a fraction.
    pub epoch: f64,
    /// Learning rate of the step that led here.
    pub learning_rate: f64,
    /// Loss of that step's batch before the update; absent at step 0.
    pub fit_loss: Option<f64>,
    /// Loss on the select part, where it was evaluated.
    pub select_loss: Option<f64>,
    /// `coefficients[i][l]`; absent where the caller asked for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coefficients: Option<Vec<Vec<f64>>>,
}

/// Which part of a history, and how it is written.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// `json` (default) or `csv`: one line for each snapshot, candidate and block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<TableFormat>,
    /// Only snapshots after this step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_step: Option<u64>,
    /// At most this many snapshots, 1 to 10000; 1000 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Set to false to leave the coefficients out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coefficients: Option<bool>,
}

/// How a table is written.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TableQuery {
    /// `json` (default) or `csv`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<TableFormat>,
}

/// Encodings of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TableFormat {
    /// `application/json`.
    #[default]
    Json,
    /// `text/csv`.
    Csv,
}
