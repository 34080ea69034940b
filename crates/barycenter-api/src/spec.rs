//! What a job is asked to do. The symbols are those of `docs/method.md`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

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
    /// Whether a baseline that beats the fit on the select part is returned in its place.
    #[serde(default)]
    pub guard: Guard,
    /// Seed of the split, the shuffling and the augmentation.
    #[serde(default)]
    pub seed: u64,
}

/// A built-in network, with `PyTorch` state-dict tensor names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NetworkSpec {
    /// `nn.Sequential` of linear layers with a ReLU between each two: tensors `0.weight`, `0.bias`, `2.weight`, ...
    Mlp {
        /// Width of the input, of each hidden layer and of the output, e.g. `[784, 512, 10]`.
        features: Vec<u64>,
    },
    /// CIFAR ResNet (He et al. 2015, section 4.2) with 1x1-convolution shortcuts.
    ResnetCifar {
        /// Depth, 6k + 2: 8, 14, 20, 32, 44, 56, 110.
        depth: u64,
        /// Classes.
        classes: u64,
    },
    /// ImageNet ResNet (He et al. 2015, table 1), as torchvision has it.
    Resnet {
        /// Depth: 18, 34 or 50.
        depth: u64,
        /// Classes.
        classes: u64,
    },
    /// VGG with batch norm for CIFAR images, as in the code of the SWA paper (arXiv 1803.05407): `features.N.*`, biased
    /// convolutions, three linear layers `classifier.1`, `.4` and `.6`. Dropout is left out.
    VggBn {
        /// Depth: 11, 13, 16 or 19.
        depth: u64,
        /// Classes.
        classes: u64,
    },
    /// Pre-activation ResNet for CIFAR images (He et al. 2016), as in the code of the SWA paper.
    PreresnetCifar {
        /// Depth: 6k + 2 below 44, from there on 9k + 2 with bottlenecks: 20, 32, 56, 110, 164.
        depth: u64,
        /// Classes.
        classes: u64,
    },
    /// Wide ResNet for CIFAR images (Zagoruyko and Komodakis 2016), as in the code of the SWA paper: biased convolutions.
    WideResnet {
        /// Depth, 6k + 4: 10, 16, 22, 28, 40.
        depth: u64,
        /// Width: times the channels of the plain network, 1 to 64.
        width: u64,
        /// Classes.
        classes: u64,
    },
    /// Vision Transformer (Dosovitskiy et al. 2021), torchvision's `VisionTransformer`: tensors `class_token`,
    /// `conv_proj.weight`, `encoder.layers.encoder_layer_0.ln_1.weight`, ...
    Vit {
        /// Height and width of an image, a multiple of the patch size.
        image_size: u64,
        /// Height and width of a patch.
        patch_size: u64,
        /// Width of a token.
        width: u64,
        /// Blocks.
        depth: u64,
        /// Heads of each attention; they divide the width.
        heads: u64,
        /// Width of the hidden layer of a block.
        mlp_width: u64,
        /// Classes.
        classes: u64,
    },
    /// CLIP's image tower (Radford et al. 2021) with a linear head, as in "Model soups": tensors
    /// `model.visual.class_embedding`, ..., `classification_head.weight`. What is left of the text tower is copied.
    ClipImage {
        /// Height and width of an image, a multiple of the patch size.
        image_size: u64,
        /// Height and width of a patch.
        patch_size: u64,
        /// Width of a token; the hidden layer of a block has four times as much.
        width: u64,
        /// Blocks.
        depth: u64,
        /// Heads of each attention; they divide the width.
        heads: u64,
        /// Width of the features that enter the head.
        embedding: u64,
        /// Classes.
        classes: u64,
    },
    /// GPT-2 (Radford et al. 2019), Hugging Face's `GPT2LMHeadModel`: tensors `transformer.wte.weight`,
    /// `transformer.h.0.attn.c_attn.weight`, ... The output layer is tied to the token embeddings and may be left out.
    Gpt2 {
        /// Tokens there are.
        vocabulary: u64,
        /// Most tokens of a sequence.
        positions: u64,
        /// Width of a token; the hidden layer of a block has four times as much.
        width: u64,
        /// Blocks.
        depth: u64,
        /// Heads of each attention; they divide the width.
        heads: u64,
    },
}

/// How the coefficients are found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum MethodSpec {
    /// Trainable Weight Averaging (arXiv 2205.13104), affine form.
    Twa(TwaSpec),
}

impl Default for MethodSpec {
    fn default() -> Self {
        Self::Twa(TwaSpec::default())
    }
}

/// Options of Trainable Weight Averaging.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TwaSpec {
    /// How the averaged tensors are cut into blocks: `model` (default), `layer`, `tensor` or `elements:K`.
    pub granularity: Granularity,
    /// Bits of a stored direction: 1, 2, 4 (default), 8, or 32 for no quantisation.
    pub bits: u8,
    /// Optimiser on `X`.
    pub optimiser: OptimiserSpec,
    /// Learning-rate schedule.
    pub schedule: ScheduleSpec,
    /// Passes over the fit data; 5 unless told.
    pub epochs: u32,
    /// Samples a step; 128 unless told.
    pub batch_size: u32,
    /// Where the fit starts.
    pub start: Start,
    /// Keep a snapshot of the coefficients every so many steps; 1 unless told.
    pub history_every: u32,
}

impl Default for TwaSpec {
    fn default() -> Self {
        Self {
            granularity: Granularity::Model,
            bits: 4,
            optimiser: OptimiserSpec::default(),
            schedule: ScheduleSpec::default(),
            epochs: 5,
            batch_size: 128,
            start: Start::default(),
            history_every: 1,
        }
    }
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
        /// Peak learning rate; by default 0.1 at granularity `model` and 0.01 at the others.
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

/// Where a fit starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// `X = 0`: the uniform average.
    #[default]
    Uniform,
}

/// Which data a job reads; datasets are named by name or id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Held-out data makes this TWA-v, training data TWA-t.
    pub fit: String,
    /// Data on which snapshots and baselines are compared; where absent, `select_fraction` of `fit` is kept for it.
    #[serde(default)]
    pub select: Option<String>,
    /// Part of `fit` that is kept out of the fit for selection when `select` is absent; 0.2 unless told.
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
    /// Data they are recomputed on; the fit data unless told.
    pub dataset: Option<String>,
    /// Recompute on augmented inputs; true unless told, where the job has an augmentation.
    pub augment: Option<bool>,
    /// Batches to accumulate; all of the data unless told.
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
        assert_eq!(spec.method, MethodSpec::Twa(TwaSpec::default()));
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
        ] {
            let error = serde_json::from_str::<JobSpec>(&format!("{MINIMAL},{extra}}}")).unwrap_err();
            assert!(error.to_string().contains("unknown field"), "{extra}: {error}");
        }
    }

    #[test]
    fn every_convolutional_network_is_written_as_it_is_read() {
        for text in [
            r#"{"kind":"resnet_cifar","depth":20,"classes":10}"#,
            r#"{"kind":"resnet","depth":50,"classes":1000}"#,
            r#"{"kind":"vgg_bn","depth":16,"classes":100}"#,
            r#"{"kind":"preresnet_cifar","depth":164,"classes":100}"#,
            r#"{"kind":"wide_resnet","depth":28,"width":10,"classes":100}"#,
        ] {
            let network: NetworkSpec = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&network).unwrap(), text);
        }
        let error = serde_json::from_str::<NetworkSpec>(r#"{"kind":"resnet","depth":50,"width":2,"classes":10}"#);
        assert!(error.unwrap_err().to_string().contains("width"));
    }

    #[test]
    fn granularity_is_written_as_it_is_read() {
        for text in ["model", "layer", "tensor", "elements:4096"] {
            assert_eq!(text.parse::<Granularity>().unwrap().to_string(), text);
        }
        assert!("elements:-1".parse::<Granularity>().is_err());
    }
    #[test]
    fn transformers_are_networks() {
        let parse = |text: &str| serde_json::from_str::<NetworkSpec>(text);
        let vit = r#"{"kind":"vit","image_size":32,"patch_size":4,"width":192,"depth":6,"heads":3,"mlp_width":768,"classes":10}"#;
        assert!(matches!(parse(vit).unwrap(), NetworkSpec::Vit { mlp_width: 768, .. }));
        let clip = r#"{"kind":"clip_image","image_size":224,"patch_size":32,"width":768,"depth":12,"heads":12,"embedding":512,"classes":1000}"#;
        assert!(matches!(parse(clip).unwrap(), NetworkSpec::ClipImage { embedding: 512, .. }));
        let gpt2 = r#"{"kind":"gpt2","vocabulary":50257,"positions":1024,"width":768,"depth":12,"heads":12}"#;
        assert!(matches!(parse(gpt2).unwrap(), NetworkSpec::Gpt2 { positions: 1024, .. }));
        for text in [vit, clip, gpt2] {
            assert_eq!(serde_json::to_string(&parse(text).unwrap()).unwrap(), text);
            let lacking = text.replace(r#","depth":"#, r#","deep":"#);
            assert!(parse(&lacking).unwrap_err().to_string().contains("deep"));
        }
    }
}
