//! Cross-entropy of a network on a dataset.

use std::sync::Arc;

use super::Objective;
use crate::data::{Augmentation, Dataset, Epoch, shuffled};
use crate::network::{Mode, Network, Weights};
use crate::{Error, Result, ops};

/// How batches are drawn and judged.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassificationOptions {
    /// Samples a batch; the last batch of an epoch holds what is left.
    pub batch_size: usize,
    /// Random crop and flip.
    pub augmentation: Augmentation,
    /// Probability taken from the label and spread over all classes, in [0, 1).
    pub label_smoothing: f64,
    /// Seed of order and augmentation.
    pub seed: u64,
}

/// Mean softmax cross-entropy over batches of some samples of a dataset, with batch norm in training mode.
pub struct Classification {
    network: Arc<dyn Network>,
    dataset: Arc<Dataset>,
    indices: Vec<usize>,
    options: ClassificationOptions,
    /// The order of the epoch that was asked for last.
    order: Option<(u64, Vec<usize>)>,
}

impl Classification {
    /// Errors where samples are no input of the network, a label is no class, an index is no sample, or an option is out
    /// of bounds.
    pub fn new(
        network: Arc<dyn Network>,
        dataset: Arc<Dataset>,
        indices: Vec<usize>,
        options: ClassificationOptions,
    ) -> Result<Self> {
        check_data(&*network, &dataset, &indices, options.batch_size)?;
        if !(0.0..1.0).contains(&options.label_smoothing) {
            let message = format!("label smoothing is {}, it must lie in [0, 1)", options.label_smoothing);
            return Err(Error::input(message));
        }
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

impl Objective for Classification {
    fn steps_per_epoch(&self) -> u64 {
        self.indices.len().div_ceil(self.options.batch_size) as u64
    }

    fn loss_and_gradient(&mut self, weights: &[Vec<f32>], step: u64) -> Result<(f64, Vec<Vec<f32>>)> {
        let (epoch, batch) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let dataset = self.dataset.clone();
        let (augmentation, seed, smoothing) =
            (self.options.augmentation, self.options.seed, self.options.label_smoothing);
        let batch = dataset.batch(self.batch_indices(epoch, batch), augmentation, Epoch { seed, number: epoch })?;
        let weights = Weights::trained(&*self.network, weights)?;
        let logits = self.network.forward(&weights, &batch.inputs, &mut Mode::Train)?;
        let losses = ops::cross_entropy(weights.graph(), &logits, batch.labels, smoothing)?;
        let samples = losses.elem_count();
        let gradients = weights.gradients(&losses, vec![1.0 / samples as f32; samples])?;
        Ok((ops::read(&losses, mean)?, gradients))
    }
}

/// Mean in `f64`.
fn mean(losses: &[f32]) -> f64 {
    losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64
}

/// Errors where samples are no input of the network, a label is no class, an index is no sample, or a batch is empty.
pub(super) fn check_data(network: &dyn Network, dataset: &Dataset, indices: &[usize], batch_size: usize) -> Result<()> {
    network.check_input(dataset.sample_shape())?;
    dataset.check_labels(network.classes())?;
    if batch_size == 0 {
        return Err(Error::input("batch size is 0"));
    }
    if indices.is_empty() {
        return Err(Error::input("no samples to draw batches from"));
    }
    match indices.iter().find(|index| **index >= dataset.len()) {
        Some(index) => Err(Error::input(format!("sample {index} of a dataset of {}", dataset.len()))),
        None => Ok(()),
    }
}
