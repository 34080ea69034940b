//! What a set of coefficients is worth: exact weights, their running statistics, their losses.

use rayon::prelude::*;

use super::{AverageOptions, Averaging, BatchNormPolicy, Part, Progress};
use crate::{
    Error, Result,
    checkpoint::CheckpointFile,
    data::Augmentation,
    memory::zeros,
    network::{Role, Statistics},
    objective::{Recomputation, SampleResults, evaluate, recompute_statistics},
};

/// Mean loss and accuracy on one part of the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Mean loss, without label smoothing: nats a sample or token, or mean squared error.
    pub loss: f64,
    /// Share of samples or tokens whose likeliest class is the label; `None` for targets.
    pub accuracy: Option<f64>,
}

impl From<&SampleResults> for Scores {
    fn from(results: &SampleResults) -> Self {
        Self { loss: results.mean_loss(), accuracy: results.accuracy() }
    }
}

/// Weights with their running statistics: all that evaluation needs.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub parameters: Vec<Vec<f32>>,
    pub statistics: Statistics,
}

impl Averaging<'_> {
    /// `Σ_i a[i,l] w_i[l]`, summed in f64: one flat vector a parameter, in the network's order.
    pub(super) fn parameters(&self, coefficients: &[f64]) -> Result<Vec<Vec<f32>>> {
        let (n, blocks) = (self.candidates.len(), self.blocks.len());
        self.averaged
            .par_iter()
            .enumerate()
            .map(|(tensor, name)| {
                let block = self.blocks.block_of(tensor);
                let weights = (0..n).map(|i| coefficients[i * blocks + block]);
                weighted_sum(self.candidates, name, weights)
            })
            .collect()
    }

    /// The model of these coefficients, with statistics by the job's policy.
    pub(super) fn averaged_model(&self, coefficients: &[f64], progress: &dyn Progress) -> Result<Model> {
        let parameters = self.parameters(coefficients)?;
        let statistics = self.averaged_statistics(&parameters, progress)?;
        Ok(Model { parameters, statistics })
    }

    /// Statistics for averaged weights, by the job's policy.
    pub(super) fn averaged_statistics(&self, parameters: &[Vec<f32>], progress: &dyn Progress) -> Result<Statistics> {
        match self.options.batch_norm.policy {
            BatchNormPolicy::Recompute if self.network.has_batch_norm() => {
                let Part { dataset, indices } = &self.data.batch_norm;
                let AverageOptions { augmentation, batch_size, batch_norm, seed, .. } = self.options;
                let recomputation = Recomputation {
                    batch_size,
                    augmentation: if batch_norm.augment { augmentation } else { Augmentation::default() },
                    batches: batch_norm.batches,
                    seed,
                };
                let stop = || progress.is_stopping();
                recompute_statistics(&*self.network, parameters, dataset, indices, &recomputation, &stop)
            }
            BatchNormPolicy::Average => {
                let share = 1.0 / self.candidates.len() as f64;
                self.statistics_by(|name| weighted_sum(self.candidates, name, self.candidates.iter().map(|_| share)))
            }
            BatchNormPolicy::Recompute | BatchNormPolicy::Copy => self.candidate_statistics(self.candidates.len() - 1),
        }
    }

    fn candidate_statistics(&self, candidate: usize) -> Result<Statistics> {
        self.statistics_by(|name| self.candidates[candidate].read_f32(name))
    }

    fn statistics_by(&self, read: impl Fn(&str) -> Result<Vec<f32>>) -> Result<Statistics> {
        let is_statistic = |role| matches!(role, Role::RunningMean | Role::RunningVar);
        let names = self.network.tensors().iter().filter(|tensor| is_statistic(tensor.role));
        let vectors = names.map(|tensor| read(&tensor.name)).collect::<Result<_>>()?;
        Statistics::new(&*self.network, vectors, 0)
    }

    /// Losses of a model on one part of the data.
    pub(super) fn results(&self, model: &Model, part: &Part, progress: &dyn Progress) -> Result<SampleResults> {
        let (Model { parameters, statistics }, Part { dataset, indices }) = (model, part);
        let stop = || progress.is_stopping();
        evaluate(&*self.network, parameters, statistics, dataset, indices, self.options.batch_size, &stop)
    }
}

/// Elements summed at a time by one thread.
const STRIP: usize = 1 << 14;

fn weighted_sum(candidates: &[CheckpointFile], name: &str, weights: impl Iterator<Item = f64>) -> Result<Vec<f32>> {
    let weights: Vec<f64> = weights.collect();
    let mut sum = zeros(candidates[0].tensor(name)?.elements());
    sum.par_chunks_mut(STRIP).enumerate().try_for_each(|(strip, sum)| {
        let (mut sums, mut values) = (vec![0.0; sum.len()], vec![0.0; sum.len()]);
        for (candidate, weight) in candidates.iter().zip(&weights) {
            candidate.fill_f32(name, strip * STRIP, &mut values)?;
            for (sum, value) in sums.iter_mut().zip(&values) {
                *sum += weight * f64::from(*value);
            }
        }
        for (rounded, sum) in sum.iter_mut().zip(sums) {
            *rounded = sum as f32;
        }
        Ok::<(), Error>(())
    })?;
    Ok(sum)
}
