//! How coefficients are found.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

/// How the coefficients are found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum MethodSpec {
    /// Trainable Weight Averaging (arXiv 2205.13104).
    Twa(Box<TwaSpec>),
    /// Every candidate alike (SWA, a uniform soup).
    Uniform {},
    /// Given weights.
    Fixed {
        /// One a candidate, in the set's order; divided by their sum.
        weights: Vec<f64>,
    },
    /// Exponential moving average over the candidates in order.
    Ema {
        /// What the average keeps at each candidate, in `[0, 1)`.
        decay: f64,
    },
    /// The weights that stand for a decay of the learning rate over the candidates (WSM, arXiv 2507.17634).
    Schedule {
        /// How the rate would have decayed.
        curve: Curve,
    },
    /// The last k candidates alike, with the k of the least select loss.
    BestSuffix {},
    /// Greedy soup (Wortsman et al. 2022) by select loss.
    Greedy {},
    /// The point of the least select loss on the line from the uniform average through that of the later half, up to
    /// three times as far.
    LineSearch {},
}

impl Default for MethodSpec {
    fn default() -> Self {
        Self::Twa(Box::default())
    }
}

/// How a learning rate would have decayed: from 1 at the first candidate (`x = 0`) to 0 after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Curve {
    /// `1 − x`; the same as `uniform`.
    Linear,
    /// `½ (1 + cos πx)`.
    Cosine,
    /// `1 − √x`.
    OneMinusSqrt,
}

/// Options of Trainable Weight Averaging.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TwaSpec {
    /// How the averaged tensors are cut into blocks: `model`, `layer`, `tensor` (default) or `elements:K`.
    pub granularity: Granularity,
    /// How blocks share their coefficients.
    pub pooling: PoolingSpec,
    /// What averages may be reached.
    pub constraint: Constraint,
    /// Directions of a block.
    pub basis: Basis,
    /// Bits of a stored direction: 1, 2, 4 (default), 8, or 32 for no quantisation.
    pub bits: u8,
    /// Optimiser on the trained variable.
    pub optimiser: OptimiserSpec,
    /// Learning-rate schedule.
    pub schedule: ScheduleSpec,
    /// Longest gradient on the trained variable, by Euclidean norm; longer ones are scaled down to it. None unless told.
    pub clip_norm: Option<f64>,
    /// Radius of Sharpness-Aware Minimisation (Foret et al. 2021), a distance between weights; 0 for none. Doubles the time of a step.
    pub sam_rho: f64,
    /// Passes over the fit data; unless told as many as come nearest to 200 steps, 1 to 20.
    pub epochs: Option<u32>,
    /// End the fit after so many passes in which no snapshot was the best on the select part. None unless told.
    pub patience: Option<u32>,
    /// Samples a step; 128 unless told.
    pub batch_size: u32,
    /// Where the fit starts.
    pub start: Start,
    /// The job whose projection this one's extends: it is revised by the candidates that come and go rather than built. Both jobs
    /// agree in project, network, tensors, bits, granularity and adapters, and share candidates. Built unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extends: Option<Extends>,
    /// Keep a snapshot of the coefficients every so many steps; 1 unless told.
    pub history_every: u32,
    /// Ranks that share the fit on a worker, each with its part of every batch; 1 unless told, at most 64 and `batch_size`. Batch
    /// norm then takes its statistics from the part, and the report says so.
    pub ranks: u32,
    /// What each rank holds of the projection.
    pub sharding: Sharding,
}

impl Default for TwaSpec {
    fn default() -> Self {
        Self {
            granularity: Granularity::Tensor,
            pooling: PoolingSpec::default(),
            constraint: Constraint::default(),
            basis: Basis::default(),
            bits: 4,
            optimiser: OptimiserSpec::default(),
            schedule: ScheduleSpec::default(),
            clip_norm: None,
            sam_rho: 0.0,
            epochs: None,
            patience: None,
            batch_size: 128,
            start: Start::default(),
            extends: None,
            history_every: 1,
            ranks: 1,
            sharding: Sharding::default(),
        }
    }
}

/// How blocks share their coefficients.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PoolingSpec {
    /// Every block has its own, and nothing holds them together.
    None {},
    /// All blocks share coefficients, and each has differences from them that cost something.
    Partial {
        /// What a difference costs: `½ strength · Σ (t / R)²`, in units of the loss, where `t / R` is about the difference of
        /// a coefficient. 8 unless told.
        #[serde(default = "default_strength")]
        strength: f64,
    },
}

fn default_strength() -> f64 {
    8.0
}

impl Default for PoolingSpec {
    fn default() -> Self {
        Self::Partial { strength: default_strength() }
    }
}

/// What averages may be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// Coefficients sum to 1 in every block and may be negative.
    #[default]
    Affine,
    /// They are also at least 0: a softmax, the learned soup.
    Convex,
    /// They sum to anything: the centre is one more direction.
    Linear,
}

/// Directions of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The deviations from the centre, each divided by its norm.
    #[default]
    Normalised,
    /// An orthonormal basis of what they span. Blocks cannot be pooled in it.
    Orthonormal,
}

/// How the averaged tensors are cut into blocks; written `model`, `layer`, `tensor` or `elements:K`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// One block.
    Model,
    /// Tensors sharing a module prefix.
    Layer,
    /// One block a tensor.
    Tensor,
    /// Tensors packed in order until a block holds more than so many elements.
    Elements(u64),
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model => f.write_str("model"),
            Self::Layer => f.write_str("layer"),
            Self::Tensor => f.write_str("tensor"),
            Self::Elements(k) => write!(f, "elements:{k}"),
        }
    }
}

impl FromStr for Granularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("elements:").map(str::parse)) {
            ("model", _) => Ok(Self::Model),
            ("layer", _) => Ok(Self::Layer),
            ("tensor", _) => Ok(Self::Tensor),
            (_, Some(Ok(k))) => Ok(Self::Elements(k)),
            _ => Err(format!("`{text}` is not one of `model`, `layer`, `tensor`, `elements:K`")),
        }
    }
}

impl Serialize for Granularity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Granularity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl PartialSchema for Granularity {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some("^(model|layer|tensor|elements:[0-9]+)$"))
            .description(Some("How the averaged tensors are cut into blocks."))
            .into()
    }
}

impl ToSchema for Granularity {}

/// Optimiser on `X`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimiserSpec {
    /// `AdamW` (Loshchilov and Hutter 2019).
    Adamw {
        /// Peak learning rate, a distance between weights a step; where absent, what moves a coefficient by a hundredth.
        #[serde(default)]
        learning_rate: Option<f64>,
        /// Decay of the two moments.
        #[serde(default = "default_betas")]
        betas: [f64; 2],
        /// Added to the root of the second moment.
        #[serde(default = "default_epsilon")]
        epsilon: f64,
        /// Decoupled weight decay.
        #[serde(default)]
        weight_decay: f64,
    },
    /// Stochastic gradient descent with momentum.
    Sgd {
        /// Peak learning rate; by default 0.1 at granularity `model` and 0.01 at the others.
        #[serde(default)]
        learning_rate: Option<f64>,
        /// Momentum.
        #[serde(default = "default_momentum")]
        momentum: f64,
        /// Weight decay added to the gradient.
        #[serde(default)]
        weight_decay: f64,
    },
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_epsilon() -> f64 {
    1e-8
}

fn default_momentum() -> f64 {
    0.9
}

impl Default for OptimiserSpec {
    fn default() -> Self {
        Self::Adamw { learning_rate: None, betas: default_betas(), epsilon: default_epsilon(), weight_decay: 0.0 }
    }
}

/// Learning-rate schedule over all steps of the fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleSpec {
    /// Linear warm-up, then cosine to 0.
    Cosine {
        /// Part of the steps that warm up; 0.2 unless told.
        #[serde(default = "default_warm_up")]
        warm_up: f64,
    },
    /// Linear warm-up, then a line to 0.
    Linear {
        /// Part of the steps that warm up; 0.2 unless told.
        #[serde(default = "default_warm_up")]
        warm_up: f64,
    },
    /// The peak rate, a tenth of it from half of the steps on, a hundredth from three quarters.
    Step,
    /// The peak rate throughout.
    Constant,
}

fn default_warm_up() -> f64 {
    0.2
}

impl Default for ScheduleSpec {
    fn default() -> Self {
        Self::Cosine { warm_up: default_warm_up() }
    }
}

/// What each rank of a fit holds of the projection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sharding {
    /// All of it: ranks exchange a number a candidate and block a step, and nothing of the model's size.
    #[default]
    Replicated,
    /// The same columns of all candidates: ranks also exchange gradients and weights, once each a step.
    Columns,
}

/// Where a fit starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// The uniform average.
    #[default]
    Uniform,
    /// The baseline with the least loss on the fit part.
    Best,
    /// The coefficients that an earlier job ended with. Candidates it had not get 0, and each block is divided by its sum. It has
    /// one block, or the same as this job.
    Job(Uuid),
}

/// What a projection extends; written as the id of a job, or `nothing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extends {
    /// Nothing: it is built, also where a policy would have it extend that of the refresh before.
    Nothing,
    /// That of this job.
    Job(Uuid),
}

impl fmt::Display for Extends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Job(job_id) => job_id.fmt(f),
        }
    }
}

impl FromStr for Extends {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "nothing" {
            return Ok(Self::Nothing);
        }
        text.parse().map(Self::Job).map_err(|_| format!("`{text}` is neither the id of a job nor `nothing`"))
    }
}

impl Serialize for Extends {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Extends {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl PartialSchema for Extends {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("The id of the job whose projection is extended, or `nothing`."))
            .into()
    }
}

impl ToSchema for Extends {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_extended_is_written_as_it_is_read() {
        for text in ["nothing", "0190f3a8-0000-7000-8000-000000000001"] {
            assert_eq!(text.parse::<Extends>().unwrap().to_string(), text);
        }
        assert!("last".parse::<Extends>().is_err());
    }

    #[test]
    fn granularity_is_written_as_it_is_read() {
        for text in ["model", "layer", "tensor", "elements:4096"] {
            assert_eq!(text.parse::<Granularity>().unwrap().to_string(), text);
        }
        assert!("elements:-1".parse::<Granularity>().is_err());
    }
}
