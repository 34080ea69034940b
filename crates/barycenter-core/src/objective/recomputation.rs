//! Batch-norm statistics of averaged weights, taken anew.

use super::check;
use crate::data::{Augmentation, Dataset, Epoch, shuffled};
use crate::network::{Mode, Network, Statistics, StatisticsSum, Weights};
use crate::{Error, Result};

/// Which batches statistics are taken from.
#[derive(Clone, Debug, PartialEq)]
pub struct Recomputation {
    /// Samples a batch.
    pub batch_size: usize,
    /// Random crop and flip; the statistics should be those of the inputs the checkpoints were trained on.
    pub augmentation: Augmentation,
    /// Batches to take; `None` for one pass over all samples. More than a pass starts another.
    pub batches: Option<usize>,
    /// Seed of order and augmentation.
    pub seed: u64,
}

/// Runs the model in training mode over batches of these samples and returns the mean of the batches' statistics, each
/// batch counting the same (`PyTorch`'s `momentum=None`). A network without batch norm has none, at no cost.
///
/// `stop` is asked before every batch; true ends in [`Error::Stopped`].
pub fn recompute_statistics(
    network: &dyn Network,
    parameters: &[Vec<f32>],
    dataset: &Dataset,
    indices: &[usize],
    recomputation: &Recomputation,
    stop: &dyn Fn() -> bool,
) -> Result<Statistics> {
    if !network.has_batch_norm() {
        return Statistics::new(network, Vec::new(), 0);
    }
    let Recomputation { batch_size, augmentation, batches, seed } = *recomputation;
    check::samples(network, dataset, indices, batch_size)?;
    check::augmentation(augmentation, dataset)?;
    let weights = Weights::frozen(network, parameters)?;
    let mut sum = StatisticsSum::new(network);
    let mut left = batches.unwrap_or(indices.len().div_ceil(batch_size));
    for number in 0.. {
        let order = shuffled(indices, seed, number);
        for indices in order.chunks(batch_size).take(left) {
            if stop() {
                return Err(Error::Stopped);
            }
            let batch = dataset.batch(indices, augmentation, Epoch { seed, number })?;
            network.forward(&weights, &batch.inputs, &mut Mode::Recompute(&mut sum))?;
            sum.finish_batch();
            left -= 1;
        }
        if left == 0 {
            break;
        }
    }
    sum.finish(network)
}
