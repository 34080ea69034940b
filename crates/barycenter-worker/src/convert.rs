//! From wire types to the core's, and back.

use barycenter_api as api;
use barycenter_core::{
    Result,
    average::{
        AverageOptions, Baselines, BatchNormOptions, BatchNormPolicy, Materialise, Method, Rule, Start, TensorPolicy,
        TensorRule, TwaOptions,
    },
    blocks::Granularity,
    checkpoint::Dtype,
    data::{Augmentation, DatasetKind, Normalisation},
    fit::{Basis, Constraint, Form, Optimiser, Pooling, Schedule, Sharding},
    merge::{MergePlan, weights::Curve},
    network::{ClipImageSizes, Gpt2Sizes, NetworkSpec, VitSizes},
    objective::Loss,
};

/// The network a spec names.
pub(crate) fn network(spec: &api::NetworkSpec) -> NetworkSpec {
    let size = |value: u64| value as usize;
    match spec {
        api::NetworkSpec::Mlp { features } => {
            NetworkSpec::Mlp { features: features.iter().map(|f| *f as usize).collect() }
        }
        api::NetworkSpec::ResnetCifar { depth, classes } => {
            NetworkSpec::ResnetCifar { depth: *depth as usize, classes: *classes as usize }
        }
        api::NetworkSpec::Resnet { depth, classes } => {
            NetworkSpec::Resnet { depth: *depth as usize, classes: *classes as usize }
        }
        api::NetworkSpec::VggBn { depth, classes } => {
            NetworkSpec::VggBn { depth: *depth as usize, classes: *classes as usize }
        }
        api::NetworkSpec::PreresnetCifar { depth, classes } => {
            NetworkSpec::PreresnetCifar { depth: *depth as usize, classes: *classes as usize }
        }
        api::NetworkSpec::WideResnet { depth, width, classes } => {
            NetworkSpec::WideResnet { depth: *depth as usize, width: *width as usize, classes: *classes as usize }
        }
        api::NetworkSpec::Vit { image_size, patch_size, width, depth, heads, mlp_width, classes } => {
            NetworkSpec::Vit(VitSizes {
                image_size: size(*image_size),
                patch_size: size(*patch_size),
                width: size(*width),
                depth: size(*depth),
                heads: size(*heads),
                mlp_width: size(*mlp_width),
                classes: size(*classes),
            })
        }
        api::NetworkSpec::ClipImage { image_size, patch_size, width, depth, heads, embedding, classes } => {
            NetworkSpec::ClipImage(ClipImageSizes {
                image_size: size(*image_size),
                patch_size: size(*patch_size),
                width: size(*width),
                depth: size(*depth),
                heads: size(*heads),
                embedding: size(*embedding),
                classes: size(*classes),
            })
        }
        api::NetworkSpec::Gpt2 { vocabulary, positions, width, depth, heads } => NetworkSpec::Gpt2(Gpt2Sizes {
            vocabulary: size(*vocabulary),
            positions: size(*positions),
            width: size(*width),
            depth: size(*depth),
            heads: size(*heads),
        }),
    }
}

/// Samples a batch of evaluation where the method has no batches of its own.
const BATCH_SIZE: usize = 128;

/// The options of a lease, whose spec has every default filled in, and whose fit data is of this kind.
///
/// Errors where a pattern of tensor names is none.
pub(crate) fn options(lease: &api::Lease, kind: DatasetKind) -> Result<AverageOptions> {
    let spec = &lease.spec;
    let batch_size = match &spec.method {
        api::MethodSpec::Twa(twa) => twa.batch_size as usize,
        _ => BATCH_SIZE,
    };
    Ok(AverageOptions {
        method: method(&spec.method, lease.start_coefficients.as_ref().map(|floats| floats.0.as_slice())),
        batch_size,
        augmentation: spec
            .data
            .augmentation
            .map(|a| Augmentation { pad: a.pad as usize, flip: a.flip })
            .unwrap_or_default(),
        loss: spec.objective.as_ref().map_or_else(|| Loss::of(kind), loss),
        batch_norm: batch_norm(&spec.batch_norm),
        tensors: spec.tensors.iter().map(tensor_rule).collect::<Result<_>>()?,
        baselines: match spec.baselines {
            api::Baselines::All => Baselines::All,
            api::Baselines::Uniform => Baselines::Uniform,
        },
        guard: spec.guard == api::Guard::On,
        materialise: match spec.materialise {
            api::Materialise::Exact => Materialise::Exact,
            api::Materialise::AsFitted => Materialise::AsFitted,
        },
        dtype: spec.output.dtype.map(dtype),
        seed: spec.seed,
    })
}

fn tensor_rule(rule: &api::TensorRule) -> Result<TensorRule> {
    let policy = match rule.policy {
        api::TensorPolicy::Average => TensorPolicy::Average,
        api::TensorPolicy::Copy => TensorPolicy::Copy,
        api::TensorPolicy::Recompute => TensorPolicy::Recompute,
        api::TensorPolicy::Reject => TensorPolicy::Reject,
    };
    TensorRule::new(&rule.pattern, policy)
}

fn dtype(dtype: api::FloatDtype) -> Dtype {
    match dtype {
        api::FloatDtype::F64 => Dtype::F64,
        api::FloatDtype::F32 => Dtype::F32,
        api::FloatDtype::F16 => Dtype::F16,
        api::FloatDtype::Bf16 => Dtype::Bf16,
        api::FloatDtype::F8E4m3 => Dtype::F8E4M3,
        api::FloatDtype::F8E5m2 => Dtype::F8E5M2,
    }
}

fn method(spec: &api::MethodSpec, start_coefficients: Option<&[f64]>) -> Method {
    let rule = match spec {
        api::MethodSpec::Twa(twa) => return Method::Twa(twa_options(twa, start_coefficients)),
        api::MethodSpec::Uniform {} => Rule::Uniform,
        api::MethodSpec::Fixed { weights } => Rule::Fixed(weights.clone()),
        api::MethodSpec::Ema { decay } => Rule::Ema { decay: *decay },
        api::MethodSpec::Schedule { curve } => Rule::Schedule(match curve {
            api::Curve::Linear => Curve::Linear,
            api::Curve::Cosine => Curve::Cosine,
            api::Curve::OneMinusSqrt => Curve::OneMinusSqrt,
        }),
        api::MethodSpec::BestSuffix {} => Rule::BestSuffix,
        api::MethodSpec::Greedy {} => Rule::Greedy,
        api::MethodSpec::LineSearch {} => Rule::LineSearch,
    };
    Method::Rule(rule)
}

fn twa_options(twa: &api::TwaSpec, start_coefficients: Option<&[f64]>) -> TwaOptions {
    let (optimiser, learning_rate) = optimiser(&twa.optimiser);
    TwaOptions {
        granularity: match twa.granularity {
            api::Granularity::Model => Granularity::Model,
            api::Granularity::Layer => Granularity::Layer,
            api::Granularity::Tensor => Granularity::Tensor,
            api::Granularity::Elements(k) => Granularity::Elements(k),
        },
        bits: twa.bits,
        form: form(twa),
        optimiser,
        learning_rate,
        schedule: match twa.schedule {
            api::ScheduleSpec::Cosine { warm_up } => Schedule::Cosine { warm_up },
            api::ScheduleSpec::Linear { warm_up } => Schedule::Linear { warm_up },
            api::ScheduleSpec::Step => Schedule::Step,
            api::ScheduleSpec::Constant => Schedule::Constant,
        },
        clip_norm: twa.clip_norm,
        sam_rho: twa.sam_rho,
        epochs: twa.epochs.map_or(1, u64::from),
        patience: twa.patience.map(u64::from),
        start: match twa.start {
            api::Start::Uniform => Start::Uniform,
            api::Start::Best => Start::Best,
            api::Start::Job(_) => Start::Coefficients(start_coefficients.unwrap_or_default().to_vec()),
        },
        history_every: u64::from(twa.history_every),
        ranks: twa.ranks as usize,
        sharding: match twa.sharding {
            api::Sharding::Replicated => Sharding::Replicated,
            api::Sharding::Columns => Sharding::Columns,
        },
    }
}

fn form(twa: &api::TwaSpec) -> Form {
    Form {
        constraint: match twa.constraint {
            api::Constraint::Affine => Constraint::Affine,
            api::Constraint::Convex => Constraint::Convex,
            api::Constraint::Linear => Constraint::Linear,
        },
        basis: match twa.basis {
            api::Basis::Normalised => Basis::Normalised,
            api::Basis::Orthonormal => Basis::Orthonormal,
        },
        pooling: match twa.pooling {
            api::PoolingSpec::None {} => Pooling::None,
            api::PoolingSpec::Partial { strength } => Pooling::Partial { strength },
        },
    }
}

fn loss(objective: &api::ObjectiveSpec) -> Loss {
    match *objective {
        api::ObjectiveSpec::CrossEntropy { label_smoothing } => Loss::CrossEntropy { label_smoothing },
        api::ObjectiveSpec::SquaredError {} => Loss::SquaredError,
        api::ObjectiveSpec::NextToken { label_smoothing } => Loss::NextToken { label_smoothing },
    }
}

fn optimiser(spec: &api::OptimiserSpec) -> (Optimiser, Option<f64>) {
    match *spec {
        api::OptimiserSpec::Adamw { learning_rate, betas, epsilon, weight_decay } => {
            (Optimiser::AdamW { betas, epsilon, weight_decay }, learning_rate)
        }
        api::OptimiserSpec::Sgd { learning_rate, momentum, weight_decay } => {
            (Optimiser::Sgd { momentum, weight_decay }, learning_rate)
        }
    }
}

fn batch_norm(spec: &api::BatchNormSpec) -> BatchNormOptions {
    BatchNormOptions {
        policy: match spec.policy {
            api::BatchNormPolicy::Recompute => BatchNormPolicy::Recompute,
            api::BatchNormPolicy::Average => BatchNormPolicy::Average,
            api::BatchNormPolicy::Copy => BatchNormPolicy::Copy,
        },
        augment: spec.augment.unwrap_or(true),
        batches: spec.batches.map(|batches| batches as usize),
    }
}

/// How a merge is done again, in the words of the API.
pub(crate) fn merge_plan(plan: MergePlan) -> api::MergePlan {
    let averaged = plan.averaged.into_iter();
    api::MergePlan {
        rules: api::MergeRules::Merge1,
        averaged: averaged.map(|(tensor, block)| api::MergedTensor { tensor, block: block as u32 }).collect(),
        kept: plan.kept,
    }
}

/// How stored inputs become what the network sees.
pub(crate) fn normalisation(wire: &api::Normalisation) -> Normalisation {
    Normalisation { scale: wire.scale, mean: wire.mean.clone(), std: wire.std.clone() }
}
