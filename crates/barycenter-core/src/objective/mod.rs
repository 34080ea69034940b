//! What a fit makes small, and what a model is judged by.

mod check;
mod dataset_loss;
mod evaluation;
mod loss;
mod recomputation;

pub use check::check_kind;
pub use dataset_loss::{DatasetLoss, DatasetLossOptions};
pub use evaluation::{SampleResults, evaluate};
pub use loss::Loss;
pub use recomputation::{Recomputation, recompute_statistics};

use crate::Result;

/// A loss with a gradient, drawn batch by batch.
pub trait Objective {
    /// Batches until every sample was seen once.
    fn steps_per_epoch(&self) -> u64;

    /// Loss over the batch of this step, and its gradient.
    ///
    /// `weights` and the gradient are the network's parameters in order, each row-major. The batch is a function of the
    /// step (and of the objective's seed) alone, so a resumed fit sees the same data.
    fn loss_and_gradient(&mut self, weights: &[Vec<f32>], step: u64) -> Result<BatchLoss>;
}

/// Loss of a batch, or of one rank's part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchLoss {
    /// Mean over the rows.
    pub loss: f64,
    /// Rows that count: samples, or positions of tokens that are no padding. What a part weighs in the mean of the batch.
    pub rows: f64,
    /// Gradient of the mean, one flat vector per parameter.
    pub gradient: Vec<Vec<f32>>,
}

#[cfg(test)]
mod parity;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod token_tests;
