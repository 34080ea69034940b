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
    let floating: HashSet<&str> =
        network.tensors().iter().filter(|spec| spec.role != Role::BatchCount).map(|spec| spec.name.as_str()).collect();
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
    }
}

/// The averaged tensors in order, with their numbers of elements.
pub(super) fn averaged(network: &dyn Network) -> Vec<(String, usize)> {
    network.parameters().into_iter().map(|spec| (spec.name.clone(), spec.len())).collect()
}

/// L.
pub(super) fn block_count(averaged: &[(String, usize)], granularity: Granularity) -> usize {
    let granularity = match granularity {
        Granularity::Model => blocks::Granularity::Model,
        Granularity::Layer => blocks::Granularity::Layer,
        Granularity::Tensor => blocks::Granularity::Tensor,
        Granularity::Elements(k) => blocks::Granularity::Elements(k),
    };
    Blocks::new(averaged, granularity).len()
}
