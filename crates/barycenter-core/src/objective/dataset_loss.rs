//! The loss of a network on a dataset.

use std::sync::Arc;

use super::loss::{BatchLosses, Loss};
use super::{BatchLoss, Objective, check};
use crate::Result;
use crate::data::part::{self, Sample};
use crate::data::{Augmentation, Epoch, Part, shuffled};
use crate::network::{Mode, Network, Weights};

/// How batches are drawn and judged.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetLossOptions {
    /// Samples a batch; the last batch of an epoch holds what is left.
    pub batch_size: usize,
    /// Random crop and flip, for images.
    pub augmentation: Augmentation,
    /// What a batch is judged by.
    pub loss: Loss,
    /// Seed of order and augmentation.
    pub seed: u64,
}

/// Mean loss over batches of samples, out of one dataset or several, with batch norm in training mode.
pub struct DatasetLoss {
    network: Arc<dyn Network>,
    parts: Vec<Part>,
    samples: Vec<Sample>,
    options: DatasetLossOptions,
    /// The order of the epoch that was asked for last.
    order: Option<(u64, Vec<Sample>)>,
    rank: usize,
    ranks: usize,
}

impl DatasetLoss {
    /// Every sample of every part is drawn once an epoch, all parts mixed.
    ///
    /// # Errors
    /// [`crate::Error::Input`] where samples are no input of the network or not of one kind and shape, the loss is none of
    /// theirs, a label is no class, an index is no sample, or an option is out of bounds.
    pub fn new(network: Arc<dyn Network>, parts: Vec<Part>, options: DatasetLossOptions) -> Result<Self> {
        part::check_alike(&parts)?;
        for Part { dataset, indices } in &parts {
            check::samples(&*network, dataset, indices, options.batch_size)?;
            check::augmentation(options.augmentation, dataset)?;
            options.loss.check(dataset.kind())?;
        }
        let samples = part::samples(&parts);
        Ok(Self { network, parts, samples, options, order: None, rank: 0, ranks: 1 })
    }

    /// The same, on one rank's part of every batch: batches are cut into `ranks` parts that are as alike as can be.
    ///
    /// # Panics
    /// Where there is no such rank.
    #[must_use]
    pub fn of_rank(self, rank: usize, ranks: usize) -> Self {
        assert!(rank < ranks, "rank {rank} is one of {ranks}");
        Self { rank, ranks, ..self }
    }

    /// Samples of this rank in a step.
    pub(super) fn batch_samples(&mut self, epoch: u64, batch: u64) -> &[Sample] {
        if self.order.as_ref().is_none_or(|(number, _)| *number != epoch) {
            self.order = Some((epoch, shuffled(&self.samples, self.options.seed, epoch)));
        }
        let (_, order) = self.order.as_ref().expect("set just above");
        let start = batch as usize * self.options.batch_size;
        let batch = &order[start..(start + self.options.batch_size).min(order.len())];
        let cut = |rank: usize| rank * batch.len() / self.ranks;
        &batch[cut(self.rank)..cut(self.rank + 1)]
    }
}

impl Objective for DatasetLoss {
    fn steps_per_epoch(&self) -> u64 {
        self.samples.len().div_ceil(self.options.batch_size) as u64
    }

    fn loss_and_gradient(&mut self, weights: &[Vec<f32>], step: u64) -> Result<BatchLoss> {
        let (epoch, batch) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let DatasetLossOptions { augmentation, loss, seed, .. } = self.options;
        let samples = self.batch_samples(epoch, batch).to_vec();
        if samples.is_empty() {
            let gradient = weights.iter().map(|weights| vec![0.0; weights.len()]).collect();
            return Ok(BatchLoss { loss: 0.0, rows: 0.0, gradient });
        }
        let batch = part::batch(&self.parts, &samples, augmentation, Epoch { seed, number: epoch })?;
        let weights = Weights::trained(&*self.network, weights)?;
        let outputs = self.network.forward(&weights, &batch.inputs, &mut Mode::Train)?;
        let losses = BatchLosses::of(weights.graph(), &outputs, &batch.labels, loss.label_smoothing())?;
        let gradient = weights.gradients(&losses.rows, losses.gradient_of_mean())?;
        Ok(BatchLoss { loss: losses.mean()?, rows: losses.rows_that_count(), gradient })
    }
}
