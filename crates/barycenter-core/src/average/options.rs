//! What a job is asked to do, and the data it does it on.

use std::sync::Arc;

use crate::{
    blocks::Granularity,
    data::{Augmentation, Dataset},
    fit::{Optimiser, Schedule},
    objective::Loss,
};

/// Options of an averaging job (`docs/method.md`).
#[derive(Clone, Debug)]
pub struct AverageOptions {
    /// How the averaged tensors are cut into blocks.
    pub granularity: Granularity,
    /// Bits of a stored direction: 1, 2, 4, 8 or 32.
    pub bits: u8,
    /// Optimiser on `X`.
    pub optimiser: Optimiser,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// Passes over the fit data.
    pub epochs: u64,
    /// Samples a step, and samples a batch of evaluation.
    pub batch_size: usize,
    /// Keep a snapshot of the coefficients every so many steps.
    pub history_every: u64,
    /// Augmentation while fitting, of images.
    pub augmentation: Augmentation,
    /// What is made small; evaluations use no label smoothing.
    pub loss: Loss,
    /// Running statistics of averaged weights.
    pub batch_norm: BatchNormOptions,
    /// Whether a baseline that beats the fit on the select part is returned in its place.
    pub guard: bool,
    /// Seed of shuffling and augmentation.
    pub seed: u64,
}

/// Running statistics of averaged weights.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormOptions {
    /// Where they come from.
    pub policy: BatchNormPolicy,
    /// Recompute on augmented inputs, with the augmentation of the fit.
    pub augment: bool,
    /// Batches to accumulate; all of the data where absent.
    pub batches: Option<usize>,
}

/// Where running statistics come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchNormPolicy {
    /// Accumulated under the averaged weights.
    Recompute,
    /// The mean of the candidates'.
    Average,
    /// The reference candidate's, the last one.
    Copy,
}

/// Some samples of a dataset.
#[derive(Clone)]
pub struct Part {
    /// The dataset.
    pub dataset: Arc<Dataset>,
    /// Indices of the samples, in the order they are read.
    pub indices: Vec<usize>,
}

impl Part {
    /// All samples of a dataset.
    pub fn all(dataset: Arc<Dataset>) -> Self {
        let indices = (0..dataset.len()).collect();
        Self { dataset, indices }
    }
}

/// The data of a job.
#[derive(Clone)]
pub struct AverageData {
    /// Fitted on.
    pub fit: Part,
    /// Snapshots and baselines are compared on this.
    pub select: Part,
    /// Final figures; never fitted, never selected on.
    pub test: Option<Part>,
    /// Running statistics are recomputed on this.
    pub batch_norm: Part,
}
