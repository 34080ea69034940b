//! From wire types to the core's, and back.

use barycenter_api as api;
use barycenter_core::{
    average::{AverageOptions, BatchNormOptions, BatchNormPolicy},
    blocks::Granularity,
    data::{Augmentation, DatasetKind, Normalisation},
    fit::{Optimiser, Schedule},
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

/// The options of a spec whose defaults the server has filled in, and whose fit data is of this kind.
pub(crate) fn options(spec: &api::JobSpec, kind: DatasetKind) -> AverageOptions {
    let api::MethodSpec::Twa(twa) = &spec.method;
    let (optimiser, learning_rate) = optimiser(&twa.optimiser, twa.granularity);
    AverageOptions {
        granularity: match twa.granularity {
            api::Granularity::Model => Granularity::Model,
            api::Granularity::Layer => Granularity::Layer,
            api::Granularity::Tensor => Granularity::Tensor,
            api::Granularity::Elements(k) => Granularity::Elements(k),
        },
        bits: twa.bits,
        optimiser,
        learning_rate,
        schedule: match twa.schedule {
            api::ScheduleSpec::Cosine { warm_up } => Schedule::Cosine { warm_up },
            api::ScheduleSpec::Constant => Schedule::Constant,
        },
        epochs: u64::from(twa.epochs),
        batch_size: twa.batch_size as usize,
        history_every: u64::from(twa.history_every),
        augmentation: spec
            .data
            .augmentation
            .map(|a| Augmentation { pad: a.pad as usize, flip: a.flip })
            .unwrap_or_default(),
        loss: spec.objective.as_ref().map_or_else(|| Loss::of(kind), loss),
        batch_norm: batch_norm(&spec.batch_norm),
        guard: spec.guard == api::Guard::On,
        seed: spec.seed,
    }
}

fn loss(objective: &api::ObjectiveSpec) -> Loss {
    match *objective {
        api::ObjectiveSpec::CrossEntropy { label_smoothing } => Loss::CrossEntropy { label_smoothing },
        api::ObjectiveSpec::SquaredError {} => Loss::SquaredError,
        api::ObjectiveSpec::NextToken { label_smoothing } => Loss::NextToken { label_smoothing },
    }
}

fn optimiser(spec: &api::OptimiserSpec, granularity: api::Granularity) -> (Optimiser, f64) {
    let default_rate = if granularity == api::Granularity::Model { 0.1 } else { 0.01 };
    match *spec {
        api::OptimiserSpec::Adamw { learning_rate, betas, epsilon, weight_decay } => {
            (Optimiser::AdamW { betas, epsilon, weight_decay }, learning_rate.unwrap_or(default_rate))
        }
        api::OptimiserSpec::Sgd { learning_rate, momentum, weight_decay } => {
            (Optimiser::Sgd { momentum, weight_decay }, learning_rate.unwrap_or(default_rate))
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

/// How stored inputs become what the network sees.
pub(crate) fn normalisation(wire: &api::Normalisation) -> Normalisation {
    Normalisation { scale: wire.scale, mean: wire.mean.clone(), std: wire.std.clone() }
}
