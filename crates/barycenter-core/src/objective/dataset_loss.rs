//! The loss of a network on a dataset.

use std::sync::Arc;

use super::loss::{BatchLosses, Loss};
use super::{Objective, check};
use crate::Result;
use crate::data::{Augmentation, Dataset, Epoch, shuffled};
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

/// Mean loss over batches of some samples of a dataset, with batch norm in training mode.
pub struct DatasetLoss {
    network: Arc<dyn Network>,
    dataset: Arc<Dataset>,
    indices: Vec<usize>,
    options: DatasetLossOptions,
    /// The order of the epoch that was asked for last.
    order: Option<(u64, Vec<usize>)>,
}

impl DatasetLoss {
    /// Errors where samples are no input of the network, the loss is none of the dataset's, a label is no class, an index
    /// is no sample, or an option is out of bounds.
    pub fn new(
        network: Arc<dyn Network>,
        dataset: Arc<Dataset>,
        indices: Vec<usize>,
        options: DatasetLossOptions,
    ) -> Result<Self> {
        check::samples(&*network, &dataset, &indices, options.batch_size)?;
        check::augmentation(options.augmentation, &dataset)?;
        options.loss.check(dataset.kind())?;
        Ok(Self { network, dataset, indices, options, order: None })
    }

    /// Sample indices of a step.
    pub(super) fn batch_indices(&mut self, epoch: u64, batch: u64) -> &[usize] {
        if self.order.as_ref().is_none_or(|(number, _)| *number != epoch) {
            self.order = Some((epoch, shuffled(&self.indices, self.options.seed, epoch)));
        }
        let (_, order) = self.order.as_ref().expect("set just above");
        let start = batch as usize * self.options.batch_size;
        &order[start..(start + self.options.batch_size).min(order.len())]
    }
}

impl Objective for DatasetLoss {
    fn steps_per_epoch(&self) -> u64 {
        self.indices.len().div_ceil(self.options.batch_size) as u64
    }

    fn loss_and_gradient(&mut self, weights: &[Vec<f32>], step: u64) -> Result<(f64, Vec<Vec<f32>>)> {
        let (epoch, batch) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let dataset = self.dataset.clone();
        let DatasetLossOptions { augmentation, loss, seed, .. } = self.options;
        let batch = dataset.batch(self.batch_indices(epoch, batch), augmentation, Epoch { seed, number: epoch })?;
        let weights = Weights::trained(&*self.network, weights)?;
        let outputs = self.network.forward(&weights, &batch.inputs, &mut Mode::Train)?;
        let losses = BatchLosses::of(weights.graph(), &outputs, &batch.labels, loss.label_smoothing())?;
        let gradients = weights.gradients(&losses.rows, losses.gradient_of_mean())?;
        Ok((losses.mean()?, gradients))
    }
}
