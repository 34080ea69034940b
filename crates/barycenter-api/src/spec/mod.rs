//! What a job is asked to do. The symbols are those of `docs/method.md`.

mod method;
mod network;
mod output;
mod scheduling;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

pub use self::{
    method::{
        Basis, Constraint, Curve, Extends, Granularity, MethodSpec, OptimiserSpec, PoolingSpec, ScheduleSpec, Sharding,
        Start, TwaSpec,
    },
    network::NetworkSpec,
    output::{FloatDtype, LoraResult, LoraSpec, OutputSpec, TensorPolicy, TensorRule},
    scheduling::{DeviceKind, SchedulingSpec},
};

/// An averaging job. The server fills in every default and returns the spec so completed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// The candidates.
    pub candidate_set_id: Uuid,
    /// The architecture the checkpoints belong to.
    pub network: NetworkSpec,
    /// How the coefficients are found.
    #[serde(default)]
    pub method: MethodSpec,
    /// What they are found, selected and reported on.
    pub data: DataSpec,
    /// The loss; where absent the one of the fit data: `cross_entropy` for labels, `squared_error` for targets,
    /// `next_token` for tokens.
    #[serde(default)]
    pub objective: Option<ObjectiveSpec>,
    /// Running statistics of the averaged model.
    #[serde(default)]
    pub batch_norm: BatchNormSpec,
    /// Where the candidates are adapters: what they adapt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSpec>,
    /// What becomes of tensors that are not to go by their role in the network.
    #[serde(default)]
    pub tensors: Vec<TensorRule>,
    /// Which baselines stand beside the method.
    #[serde(default)]
    pub baselines: Baselines,
    /// Whether a baseline that beats the method on the select part is returned in its place.
    #[serde(default)]
    pub guard: Guard,
    /// Which weights of a fit are written.
    #[serde(default)]
    pub materialise: Materialise,
    /// How the averaged model is written.
    #[serde(default)]
    pub output: OutputSpec,
    /// Seed of the split, the shuffling and the augmentation.
    #[serde(default)]
    pub seed: u64,
    /// When and where the job runs.
    #[serde(default, skip_serializing_if = "SchedulingSpec::is_default")]
    pub scheduling: SchedulingSpec,
}

/// Which data a job reads; datasets are named by name or id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Held-out data makes this TWA-v, training data TWA-t.
    pub fit: String,
    /// Training data of the checkpoints, fitted on beside held-out data in `fit`; running statistics are recomputed on it.
    #[serde(default)]
    pub train: Option<String>,
    /// Data on which snapshots and baselines are compared; where absent, `select_fraction` of `fit` is kept for it.
    #[serde(default)]
    pub select: Option<String>,
    /// Part of `fit` that is kept out of the fit for selection when `select` is absent; 0.2 unless told, 0.5 beside `train`.
    #[serde(default)]
    pub select_fraction: Option<f64>,
    /// Data for final figures only: never fitted, never selected on.
    #[serde(default)]
    pub test: Option<String>,
    /// Augmentation while fitting.
    #[serde(default)]
    pub augmentation: Option<Augmentation>,
}

/// Random crop and flip of images, drawn from a generator keyed by (seed, epoch, sample).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Pixels of zero padding on each side, before a random crop to the original size.
    #[serde(default)]
    pub pad: u32,
    /// Mirror half of the images.
    #[serde(default)]
    pub flip: bool,
}

/// The loss that is minimised. Each goes with one kind of dataset; reported losses are without smoothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ObjectiveSpec {
    /// Softmax cross-entropy with the class of each sample; for datasets with `labels`.
    CrossEntropy {
        /// Probability taken from the label and spread over all classes, in `[0, 1)`.
        #[serde(default)]
        label_smoothing: f64,
    },
    /// Squared error, the mean over a sample's numbers; for datasets with `targets`.
    SquaredError {},
    /// Softmax cross-entropy with the token that follows, the mean over all tokens but padding; for datasets with `tokens`.
    NextToken {
        /// Probability taken from the token and spread over the vocabulary, in `[0, 1)`.
        #[serde(default)]
        label_smoothing: f64,
    },
}

/// Running statistics of the averaged model and of the baselines; without effect on networks that have none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BatchNormSpec {
    /// What happens to them.
    pub policy: BatchNormPolicy,
    /// Data they are recomputed on; unless told `data.train`, where there is none `data.fit`.
    pub dataset: Option<String>,
    /// Recompute on augmented inputs; true unless told, where the job has an augmentation.
    pub augment: Option<bool>,
    /// Batches to accumulate; 32 unless told.
    pub batches: Option<u32>,
}

/// What happens to running statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchNormPolicy {
    /// Accumulated anew under the averaged weights.
    #[default]
    Recompute,
    /// Averaged with equal weights.
    Average,
    /// Copied from the reference candidate, the last one.
    Copy,
}

/// Which baselines stand beside a method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Baselines {
    /// Last, best single, uniform, best suffix, greedy: 3 n − 2 evaluations on the select part.
    #[default]
    All,
    /// Uniform alone: one evaluation. A method that is itself a baseline has all.
    Uniform,
}

/// Which weights of a fit are written; baselines and rules are always exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Materialise {
    /// The candidates in full precision, merged with the coefficients.
    #[default]
    Exact,
    /// The weights that were fitted: the centre and the stored directions.
    AsFitted,
}

/// Whether the result may be a baseline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// The best of snapshots and baselines on the select part.
    #[default]
    On,
    /// The best snapshot, whatever the baselines do.
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"{"candidate_set_id":"0190f3a8-0000-7000-8000-000000000001",
        "network":{"kind":"resnet_cifar","depth":20,"classes":10},"data":{"fit":"validation"}"#;

    #[test]
    fn a_spec_needs_only_candidates_network_and_data() {
        let spec: JobSpec = serde_json::from_str(&format!("{MINIMAL}}}")).unwrap();
        assert_eq!(spec.method, MethodSpec::Twa(Box::default()));
    }

    #[test]
    fn an_objective_is_named_by_its_kind_alone() {
        for (text, objective) in [
            (r#"{"kind":"cross_entropy"}"#, ObjectiveSpec::CrossEntropy { label_smoothing: 0.0 }),
            (r#"{"kind":"squared_error"}"#, ObjectiveSpec::SquaredError {}),
            (r#"{"kind":"next_token"}"#, ObjectiveSpec::NextToken { label_smoothing: 0.0 }),
        ] {
            let spec: JobSpec = serde_json::from_str(&format!("{MINIMAL},\"objective\":{text}}}")).unwrap();
            assert_eq!(spec.objective, Some(objective));
        }
    }

    #[test]
    fn unknown_fields_are_refused_at_every_depth() {
        for extra in [
            r#""bits":4"#,
            r#""method":{"kind":"twa","bit":4}"#,
            r#""method":{"kind":"twa","optimiser":{"kind":"sgd","lr":0.1}}"#,
            r#""objective":{"kind":"cross_entropy","smoothing":0.1}"#,
            r#""objective":{"kind":"squared_error","label_smoothing":0.1}"#,
            r#""batch_norm":{"polcy":"copy"}"#,
            r#""tensors":[{"pattern":"fc.*","policy":"copy","dtype":"F32"}]"#,
            r#""output":{"shards":2}"#,
        ] {
            let error = serde_json::from_str::<JobSpec>(&format!("{MINIMAL},{extra}}}")).unwrap_err();
            assert!(error.to_string().contains("unknown field"), "{extra}: {error}");
        }
    }
}
