//! What a set of coefficients is worth: exact weights, their running statistics, their losses.

use rayon::prelude::*;

use super::{AverageOptions, Averaging, Part, Progress, TensorPolicy};
use crate::{
    Error, Result,
    checkpoint::CheckpointFile,
    data::Augmentation,
    memory::zeros,
    network::{Statistics, TensorSpec},
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
    /// `Σ_i a[i,l] w_i[l]`, summed in f64: one flat vector a parameter, in the network's order. Those that are not averaged are
    /// the reference's.
    pub(super) fn parameters(&self, coefficients: &[f64]) -> Result<Vec<Vec<f32>>> {
        let (n, blocks) = (self.candidates.len(), self.blocks.len());
        let sum = |(tensor, name): (usize, &String)| {
            let block = self.blocks.block_of(tensor);
            let weights = (0..n).map(|i| coefficients[i * blocks + block]);
            weighted_sum(self.candidates, name, weights)
        };
        self.with_copied(self.averaged.par_iter().enumerate().map(sum).collect::<Result<_>>()?)
    }

    /// All parameters, from those that are averaged.
    pub(super) fn with_copied(&self, averaged: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>> {
        let parameters = self.network.parameters();
        if averaged.len() == parameters.len() {
            return Ok(averaged);
        }
        let mut averaged = self.plan.averaged().iter().zip(averaged).peekable();
        let reference = &self.candidates[self.candidates.len() - 1];
        let parameter = |(position, spec): (usize, &&TensorSpec)| match averaged.next_if(|(p, _)| **p == position) {
            Some((_, values)) => Ok(values),
            None => reference.read_f32(&spec.name),
        };
        parameters.iter().enumerate().map(parameter).collect()
    }

    /// The model of these coefficients, with statistics by the job's policy.
    pub(super) fn averaged_model(&self, coefficients: &[f64], progress: &dyn Progress) -> Result<Model> {
        let parameters = self.parameters(coefficients)?;
        let statistics = self.averaged_statistics(&parameters, progress)?;
        Ok(Model { parameters, statistics })
    }

    /// Statistics for averaged weights, by the job's policy.
    pub(super) fn averaged_statistics(&self, parameters: &[Vec<f32>], progress: &dyn Progress) -> Result<Statistics> {
        let policies = self.plan.of_statistics(self.network.as_ref());
        let is_recomputed = policies.iter().any(|(_, policy)| *policy == TensorPolicy::Recompute);
        let recomputed = is_recomputed.then(|| self.recomputed(parameters, progress)).transpose()?;
        let n = self.candidates.len();
        let statistic = |(k, (name, policy)): (usize, &(String, TensorPolicy))| match (policy, &recomputed) {
            (TensorPolicy::Recompute, Some(recomputed)) => Ok(recomputed.running()[k].clone()),
            (TensorPolicy::Average, _) => weighted_sum(self.candidates, name, std::iter::repeat_n(1.0 / n as f64, n)),
            _ => self.candidates[n - 1].read_f32(name),
        };
        let running = policies.iter().enumerate().map(statistic).collect::<Result<_>>()?;
        Statistics::new(&*self.network, running, recomputed.map_or(0, |recomputed| recomputed.batches))
    }

    fn recomputed(&self, parameters: &[Vec<f32>], progress: &dyn Progress) -> Result<Statistics> {
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
