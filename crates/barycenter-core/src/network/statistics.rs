//! Running statistics of batch norm, and what a forward pass does with them.

use super::{Network, Role};
use crate::ops::Moments;
use crate::{Error, Result};

/// What batch norm uses and leaves behind in a forward pass.
pub enum Mode<'a> {
    /// Statistics of the batch.
    Train,
    /// Running statistics.
    Evaluate(&'a Statistics),
    /// Statistics of the batch, which are also added up.
    Recompute(&'a mut StatisticsSum),
}

/// Running means and variances of a network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Running mean and running (unbiased) variance of each batch norm in turn, in the order of [`Network::tensors`].
    running: Vec<Vec<f32>>,
    /// Number of batches they were taken from: `num_batches_tracked`.
    pub batches: u64,
}

impl Statistics {
    /// From the tensors of a checkpoint with the roles `RunningMean` and `RunningVar`, in the order of
    /// [`Network::tensors`]. Errors where number or sizes differ, or a variance is negative or not finite.
    pub fn new(network: &dyn Network, running: Vec<Vec<f32>>, batches: u64) -> Result<Self> {
        let specs: Vec<_> =
            network.tensors().iter().filter(|spec| matches!(spec.role, Role::RunningMean | Role::RunningVar)).collect();
        if specs.len() != running.len() {
            let message = format!("{} running statistics given, the network has {}", running.len(), specs.len());
            return Err(Error::input(message));
        }
        for (spec, values) in specs.iter().zip(&running) {
            if values.len() != spec.len() {
                let message =
                    format!("`{}` has {} elements, the network's has {}", spec.name, values.len(), spec.len());
                return Err(Error::input(message));
            }
            if values.iter().any(|v| !v.is_finite() || (spec.role == Role::RunningVar && *v < 0.0)) {
                return Err(Error::input(format!("`{}` holds a value that is no mean or variance", spec.name)));
            }
        }
        Ok(Self { running, batches })
    }

    /// Running mean and variance of each batch norm in turn, in the order of [`Network::tensors`].
    pub fn running(&self) -> &[Vec<f32>] {
        &self.running
    }

    /// What batch norm number `layer` normalises with.
    pub(super) fn moments(&self, layer: usize) -> Moments {
        let widened = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect();
        let (mean, variance) = (&self.running[2 * layer], &self.running[2 * layer + 1]);
        Moments { mean: widened(mean), variance: widened(variance), count: 0 }
    }
}

/// Sums of batch statistics: every batch counts the same, as with `PyTorch`'s `momentum=None`.
#[derive(Debug)]
pub struct StatisticsSum {
    /// Sum of means and sum of unbiased variances of each batch norm in turn.
    sums: Vec<Vec<f64>>,
    batches: u64,
}

impl StatisticsSum {
    /// No batches yet.
    pub fn new(network: &dyn Network) -> Self {
        let specs = network.tensors().iter();
        let running = specs.filter(|spec| matches!(spec.role, Role::RunningMean | Role::RunningVar));
        Self { sums: running.map(|spec| vec![0.0; spec.len()]).collect(), batches: 0 }
    }

    pub(super) fn add(&mut self, layer: usize, moments: &Moments) {
        let unbiased = moments.count as f64 / (moments.count as f64 - 1.0);
        for (sum, mean) in self.sums[2 * layer].iter_mut().zip(&moments.mean) {
            *sum += mean;
        }
        for (sum, variance) in self.sums[2 * layer + 1].iter_mut().zip(&moments.variance) {
            *sum += variance * unbiased;
        }
    }

    /// Counts a batch whose forward pass is done.
    pub fn finish_batch(&mut self) {
        self.batches += 1;
    }

    /// Means over the batches. Errors where there was none, or where the weights gave values that are not finite.
    pub fn finish(self, network: &dyn Network) -> Result<Statistics> {
        if self.batches == 0 {
            return Err(Error::input("batch-norm statistics need at least one batch"));
        }
        let batches = self.batches as f64;
        let running = self.sums.into_iter().map(|sums| sums.into_iter().map(|sum| (sum / batches) as f32).collect());
        Statistics::new(network, running.collect(), self.batches)
    }
}
