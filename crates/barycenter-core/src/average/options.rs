//! What a job is asked to do, and the data it does it on.

use super::TensorRule;
use crate::{
    blocks::Granularity,
    checkpoint::Dtype,
    data::{Augmentation, Part},
    fit::{FitOptions, Form, Optimiser, Schedule, Sharding},
    merge::weights::Curve,
    objective::Loss,
};

/// Options of an averaging job (`docs/method.md`).
#[derive(Clone, Debug)]
pub struct AverageOptions {
    /// How the coefficients are found.
    pub method: Method,
    /// Samples a step, and samples a batch of evaluation.
    pub batch_size: usize,
    /// Augmentation while fitting, of images.
    pub augmentation: Augmentation,
    /// What is made small; evaluations use no label smoothing.
    pub loss: Loss,
    /// Running statistics of averaged weights.
    pub batch_norm: BatchNormOptions,
    /// What becomes of tensors that are not to go by their role; the first rule that matches a name counts.
    pub tensors: Vec<TensorRule>,
    /// Which baselines stand beside the method.
    pub baselines: Baselines,
    /// Whether a baseline that beats the method on the select part is returned in its place.
    pub guard: bool,
    /// Which weights of a fit are written.
    pub materialise: Materialise,
    /// Element type of the result's floating-point tensors; that of the candidates where absent.
    pub dtype: Option<Dtype>,
    /// Seed of shuffling and augmentation.
    pub seed: u64,
}

/// Which weights of a fit are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Materialise {
    /// The candidates in full precision, merged with the coefficients.
    #[default]
    Exact,
    /// The weights that were fitted: the centre and the stored directions.
    AsFitted,
}

/// Which baselines stand beside a method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Baselines {
    /// Last, best single, uniform, best suffix, greedy: 3 n − 2 evaluations.
    #[default]
    All,
    /// Uniform alone: one evaluation.
    Uniform,
}

/// How the coefficients are found.
#[derive(Clone, Debug)]
pub enum Method {
    /// Trainable Weight Averaging.
    Twa(TwaOptions),
    /// A rule that needs no gradient; one coefficient a candidate.
    Rule(Rule),
}

impl Method {
    /// How the averaged tensors are cut into blocks.
    pub fn granularity(&self) -> Granularity {
        match self {
            Self::Twa(twa) => twa.granularity,
            Self::Rule(_) => Granularity::Model,
        }
    }

    /// The word for it in a report.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Twa(_) => "twa",
            Self::Rule(Rule::Uniform) => "uniform",
            Self::Rule(Rule::BestSuffix) => "best_suffix",
            Self::Rule(Rule::Greedy) => "greedy",
            Self::Rule(Rule::Fixed(_)) => "fixed",
            Self::Rule(Rule::Ema { .. }) => "ema",
            Self::Rule(Rule::Schedule(_)) => "schedule",
            Self::Rule(Rule::LineSearch) => "line_search",
        }
    }
}

/// Options of Trainable Weight Averaging.
#[derive(Clone, Debug)]
pub struct TwaOptions {
    /// How the averaged tensors are cut into blocks.
    pub granularity: Granularity,
    /// Bits of a stored direction: 1, 2, 4, 8 or 32.
    pub bits: u8,
    /// What is trained.
    pub form: Form,
    /// Optimiser on `θ`.
    pub optimiser: Optimiser,
    /// Peak learning rate; where absent, what moves a coefficient by a hundredth in a step of length 1.
    pub learning_rate: Option<f64>,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// Longest gradient on `θ`.
    pub clip_norm: Option<f64>,
    /// Radius of Sharpness-Aware Minimisation; 0 for none.
    pub sam_rho: f64,
    /// Passes over the fit data.
    pub epochs: u64,
    /// The fit ends after so many passes in which no snapshot was the best on the select part.
    pub patience: Option<u64>,
    /// Where the fit starts.
    pub start: Start,
    /// Keep a snapshot of the coefficients every so many steps.
    pub history_every: u64,
    /// Ranks that share the fit, each with its part of every batch, at least 1.
    pub ranks: usize,
    /// What each rank holds of the projection.
    pub sharding: Sharding,
}

impl TwaOptions {
    /// The paper's plain form: affine, every block on its own, AdamW with warm-up and cosine, from the uniform average.
    pub fn plain(granularity: Granularity, bits: u8, epochs: u64) -> Self {
        let FitOptions { form, optimiser, learning_rate, schedule, clip_norm, sam_rho, .. } = FitOptions::plain(0, 0);
        Self {
            granularity,
            bits,
            form,
            optimiser,
            learning_rate,
            schedule,
            clip_norm,
            sam_rho,
            epochs,
            patience: None,
            start: Start::Uniform,
            history_every: 1,
            ranks: 1,
            sharding: Sharding::default(),
        }
    }

    /// The options of a fit of so many steps.
    pub(super) fn fit(&self, steps: u64, seed: u64) -> FitOptions {
        FitOptions {
            form: self.form,
            optimiser: self.optimiser,
            schedule: self.schedule,
            learning_rate: self.learning_rate,
            clip_norm: self.clip_norm,
            sam_rho: self.sam_rho,
            steps,
            seed,
        }
    }
}

/// Where a fit starts.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Start {
    /// The uniform average.
    #[default]
    Uniform,
    /// The baseline with the least loss on the fit part.
    Best,
    /// These coefficients, candidate by candidate: n x L numbers, or n for the same in every block.
    Coefficients(Vec<f64>),
}

/// An average that needs no gradient.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Every candidate alike.
    Uniform,
    /// These weights, one a candidate, divided by their sum.
    Fixed(Vec<f64>),
    /// Exponential moving average over the candidates in order.
    Ema {
        /// What the average keeps at each candidate, in `[0, 1)`.
        decay: f64,
    },
    /// The weights that stand for a decay of the learning rate.
    Schedule(Curve),
    /// The last k alike, with the k of the least select loss.
    BestSuffix,
    /// Greedy soup.
    Greedy,
    /// The best point of the line from the uniform average through that of the later half.
    LineSearch,
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

/// The data of a job.
#[derive(Clone)]
pub struct AverageData {
    /// Fitted on, all parts mixed.
    pub fit: Vec<Part>,
    /// Snapshots and baselines are compared on this.
    pub select: Part,
    /// Final figures; never fitted, never selected on.
    pub test: Option<Part>,
    /// Running statistics are recomputed on this.
    pub batch_norm: Part,
}

impl AverageData {
    /// Samples that are fitted on.
    pub fn fit_samples(&self) -> usize {
        self.fit.iter().map(|part| part.indices.len()).sum()
    }
}
