//! Loss and accuracy of a model on samples, sample by sample.

use super::classification::check_data;
use crate::data::{Augmentation, Dataset, Epoch};
use crate::network::{Mode, Network, Statistics, Weights};
use crate::{Error, Result, ops};

/// What a model made of each sample, in the order of the samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleResults {
    /// Cross-entropy of each sample, without label smoothing.
    pub losses: Vec<f32>,
    /// Whether the largest logit (the first of equal ones) was the label's.
    pub correct: Vec<bool>,
}

impl SampleResults {
    /// Mean loss; NaN where there are no samples.
    pub fn mean_loss(&self) -> f64 {
        self.losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / self.losses.len() as f64
    }

    /// Part of the samples that were right, in [0, 1]; NaN where there are no samples.
    pub fn accuracy(&self) -> f64 {
        self.correct.iter().filter(|correct| **correct).count() as f64 / self.correct.len() as f64
    }
}

/// Runs the model, with running statistics, over these samples as they are stored.
///
/// `stop` is asked before every batch; true ends in [`Error::Stopped`].
pub fn evaluate(
    network: &dyn Network,
    parameters: &[Vec<f32>],
    statistics: &Statistics,
    dataset: &Dataset,
    indices: &[usize],
    batch_size: usize,
    stop: &dyn Fn() -> bool,
) -> Result<SampleResults> {
    check_data(network, dataset, indices, batch_size)?;
    let weights = Weights::frozen(network, parameters)?;
    let mut results = SampleResults::default();
    for indices in indices.chunks(batch_size) {
        if stop() {
            return Err(Error::Stopped);
        }
        let batch = dataset.batch(indices, Augmentation::default(), Epoch::default())?;
        let logits = network.forward(&weights, &batch.inputs, &mut Mode::Evaluate(statistics))?;
        ops::read(&logits, |logits| {
            let rows = logits.chunks_exact(network.classes());
            results.correct.extend(rows.zip(&*batch.labels).map(|(row, label)| largest(row) == *label as usize));
        })?;
        let losses = ops::cross_entropy(weights.graph(), &logits, batch.labels, 0.0)?;
        ops::read(&losses, |losses| results.losses.extend_from_slice(losses))?;
    }
    Ok(results)
}

/// Position of the first largest value.
fn largest(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (position, value)| if *value > row[best] { position } else { best })
}
