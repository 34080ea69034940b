//! Loss and accuracy of a model on samples, sample by sample.

use super::check;
use super::loss::{BatchLosses, correct_rows};
use crate::data::{Augmentation, Dataset, Epoch};
use crate::network::{Mode, Network, Statistics, Weights};
use crate::{Error, Result};

/// What a model made of each sample, in the order of the samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleResults {
    /// Loss of each sample, without label smoothing; for tokens the mean over those that count.
    pub losses: Vec<f32>,
    /// What each sample weighs in a mean: its tokens that count, 1 where samples are no tokens.
    pub weights: Vec<u32>,
    /// How much of that weight was right: the largest output (the first of equal ones) was the label's. `None` for targets.
    pub correct: Option<Vec<u32>>,
}

impl SampleResults {
    /// Mean loss, each sample with its weight: of tokens, every one that is no padding counts the same. NaN where there
    /// are no samples.
    pub fn mean_loss(&self) -> f64 {
        let losses = self.losses.iter().zip(&self.weights);
        losses.map(|(loss, weight)| f64::from(*loss) * f64::from(*weight)).sum::<f64>() / total(&self.weights)
    }

    /// Part of the samples, or of their tokens, that were right, in [0, 1]; `None` for targets.
    pub fn accuracy(&self) -> Option<f64> {
        self.correct.as_deref().map(|correct| total(correct) / total(&self.weights))
    }
}

fn total(counts: &[u32]) -> f64 {
    counts.iter().map(|count| f64::from(*count)).sum()
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
    check::samples(network, dataset, indices, batch_size)?;
    let weights = Weights::frozen(network, parameters)?;
    let mut results = SampleResults::default();
    for indices in indices.chunks(batch_size) {
        if stop() {
            return Err(Error::Stopped);
        }
        let batch = dataset.batch(indices, Augmentation::default(), Epoch::default())?;
        let outputs = network.forward(&weights, &batch.inputs, &mut Mode::Evaluate(statistics))?;
        if let Some(correct) = correct_rows(&outputs, &batch.labels)? {
            results.correct.get_or_insert_default().extend(correct);
        }
        let losses = BatchLosses::of(weights.graph(), &outputs, &batch.labels, 0.0)?;
        let (losses, weights) = losses.by_sample()?;
        results.losses.extend(losses);
        results.weights.extend(weights);
    }
    Ok(results)
}
