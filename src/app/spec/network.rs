//! The network of a spec, and whether the candidates are checkpoints of it.

use std::collections::HashSet;

use barycenter_api::{Granularity, NetworkSpec};
use barycenter_core::{
    blocks::{self, Blocks},
    network::{self, Network, Role, check_layout},
};

use super::Faults;
use crate::domain::layout::Tensor;

/// Element types that can be averaged, as safetensors spells them.
const AVERAGEABLE: [&str; 6] = ["F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64"];

/// The network, where its sizes make sense; the candidates' tensors, where they are known, are checked against it.
pub(super) fn check(spec: &NetworkSpec, tensors: Option<&[Tensor]>, faults: &mut Faults) -> Option<Box<dyn Network>> {
    let network = match to_core(spec).build() {
        Ok(network) => network,
        Err(error) => {
            faults.add("network", error.to_string());
            return None;
        }
    };
    if let Some(tensors) = tensors {
        check_tensors(network.as_ref(), tensors, faults);
    }
    Some(network)
}

fn check_tensors(network: &dyn Network, tensors: &[Tensor], faults: &mut Faults) {
    let shapes: Vec<Vec<usize>> =
        tensors.iter().map(|tensor| tensor.shape.iter().map(|extent| *extent as usize).collect()).collect();
    let found = tensors.iter().zip(&shapes).map(|(tensor, shape)| (tensor.name.as_str(), shape.as_slice()));
    if let Err(error) = check_layout(network.tensors(), found) {
        faults.add("network", error.to_string());
        return;
    }
    let floating: HashSet<&str> = network
        .tensors()
        .iter()
        .filter(|spec| !matches!(spec.role, Role::BatchCount | Role::Carried))
        .map(|spec| spec.name.as_str())
        .collect();
    for tensor in tensors.iter().filter(|tensor| floating.contains(tensor.name.as_str())) {
        if !AVERAGEABLE.contains(&tensor.dtype.as_str()) {
            let detail = format!(
                "tensor `{}` has dtype {}, which cannot be averaged: it must be one of {}",
                tensor.name,
                tensor.dtype,
                AVERAGEABLE.join(", ")
            );
            faults.add("candidate_set_id", detail);
            return;
        }
    }
}

fn to_core(spec: &NetworkSpec) -> network::NetworkSpec {
    // A size beyond usize is beyond every bound of the network, which refuses it by name.
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    match spec {
        NetworkSpec::Mlp { features } => {
            network::NetworkSpec::Mlp { features: features.iter().copied().map(size).collect() }
        }
        NetworkSpec::ResnetCifar { depth, classes } => {
            network::NetworkSpec::ResnetCifar { depth: size(*depth), classes: size(*classes) }
        }
        NetworkSpec::Resnet { depth, classes } => {
            network::NetworkSpec::Resnet { depth: size(*depth), classes: size(*classes) }
        }
        NetworkSpec::VggBn { depth, classes } => {
            network::NetworkSpec::VggBn { depth: size(*depth), classes: size(*classes) }
        }
        NetworkSpec::PreresnetCifar { depth, classes } => {
            network::NetworkSpec::PreresnetCifar { depth: size(*depth), classes: size(*classes) }
        }
        NetworkSpec::WideResnet { depth, width, classes } => {
            network::NetworkSpec::WideResnet { depth: size(*depth), width: size(*width), classes: size(*classes) }
        }
        NetworkSpec::Vit { image_size, patch_size, width, depth, heads, mlp_width, classes } => {
            network::NetworkSpec::Vit(network::VitSizes {
                image_size: size(*image_size),
                patch_size: size(*patch_size),
                width: size(*width),
                depth: size(*depth),
                heads: size(*heads),
                mlp_width: size(*mlp_width),
                classes: size(*classes),
            })
        }
        NetworkSpec::ClipImage { image_size, patch_size, width, depth, heads, embedding, classes } => {
            network::NetworkSpec::ClipImage(network::ClipImageSizes {
                image_size: size(*image_size),
                patch_size: size(*patch_size),
                width: size(*width),
                depth: size(*depth),
                heads: size(*heads),
                embedding: size(*embedding),
                classes: size(*classes),
            })
        }
        NetworkSpec::Gpt2 { vocabulary, positions, width, depth, heads } => {
            network::NetworkSpec::Gpt2(network::Gpt2Sizes {
                vocabulary: size(*vocabulary),
                positions: size(*positions),
                width: size(*width),
                depth: size(*depth),
                heads: size(*heads),
            })
        }
    }
}

/// L.
pub(super) fn block_names(averaged: &[(String, usize)], granularity: Granularity) -> Vec<String> {
    let granularity = match granularity {
        Granularity::Model => blocks::Granularity::Model,
        Granularity::Layer => blocks::Granularity::Layer,
        Granularity::Tensor => blocks::Granularity::Tensor,
        Granularity::Elements(k) => blocks::Granularity::Elements(k),
    };
    Blocks::new(averaged, granularity).names().to_vec()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_network_out_of_bounds_is_refused_with_its_field() {
        for (spec, named) in [
            (NetworkSpec::ResnetCifar { depth: 21, classes: 10 }, "resnet_cifar depth"),
            (NetworkSpec::Resnet { depth: 101, classes: 10 }, "resnet depth"),
            (NetworkSpec::Resnet { depth: 18, classes: u64::MAX }, "resnet classes"),
            (NetworkSpec::VggBn { depth: 15, classes: 10 }, "vgg_bn depth"),
            (NetworkSpec::PreresnetCifar { depth: 165, classes: 10 }, "preresnet_cifar depth"),
            (NetworkSpec::WideResnet { depth: 28, width: 1000, classes: 10 }, "wide_resnet width"),
        ] {
            let mut faults = Faults::default();
            assert!(check(&spec, None, &mut faults).is_none(), "{spec:?}");
            let [fault] = faults.0.try_into().expect("one fault");
            assert_eq!(fault.field, "network");
            assert!(fault.detail.contains(named), "{}", fault.detail);
        }
    }

    #[test]
    fn every_convolutional_network_is_taken() {
        for spec in [
            NetworkSpec::Resnet { depth: 18, classes: 10 },
            NetworkSpec::VggBn { depth: 16, classes: 10 },
            NetworkSpec::PreresnetCifar { depth: 164, classes: 10 },
            NetworkSpec::WideResnet { depth: 28, width: 10, classes: 10 },
        ] {
            assert!(check(&spec, None, &mut Faults::default()).is_some(), "{spec:?}");
        }
    }

    fn fault(network: Value) -> Option<String> {
        let spec: NetworkSpec = serde_json::from_value(network).unwrap();
        let mut faults = Faults::default();
        check(&spec, None, &mut faults);
        faults.0.first().map(|error| {
            assert_eq!(error.field, "network");
            error.detail.clone()
        })
    }

    #[test]
    fn transformers_out_of_bounds_are_refused_by_name() {
        let vit = json!({"kind": "vit", "image_size": 32, "patch_size": 4, "width": 192, "depth": 6, "heads": 3,
            "mlp_width": 768, "classes": 10});
        let clip = json!({"kind": "clip_image", "image_size": 224, "patch_size": 32, "width": 768, "depth": 12,
            "heads": 12, "embedding": 512, "classes": 1000});
        let gpt2 =
            json!({"kind": "gpt2", "vocabulary": 50257, "positions": 1024, "width": 768, "depth": 12, "heads": 12});
        for network in [vit, clip, gpt2] {
            assert_eq!(fault(network.clone()), None);
            let sizes: Vec<String> = network.as_object().unwrap().keys().filter(|k| *k != "kind").cloned().collect();
            for size in sizes {
                for value in [0, u64::MAX] {
                    let mut network = network.clone();
                    network[&size] = value.into();
                    let detail = fault(network).unwrap();
                    assert!(detail.contains(&size), "{detail}");
                }
            }
        }
    }
}
