//! What a spec says of single tensors.

use barycenter_api::{BatchNormPolicy, JobSpec, TensorPolicy, TensorRule};
use barycenter_core::{average, network::Network};

use super::Faults;
use crate::domain::layout::Tensor;

/// The averaged tensors in order, with their numbers of elements; `None` where a rule cannot be followed. The candidates'
/// tensors are `held`, where they are known.
pub(super) fn averaged(
    spec: &JobSpec,
    network: &dyn Network,
    held: Option<&[Tensor]>,
    faults: &mut Faults,
) -> Option<Vec<(String, usize)>> {
    let mut rules = Vec::with_capacity(spec.tensors.len());
    for (index, rule) in spec.tensors.iter().enumerate() {
        match to_core(rule) {
            Ok(rule) => rules.push(rule),
            Err(error) => faults.add(format!("tensors.{index}.pattern"), error.to_string()),
        }
    }
    if rules.len() < spec.tensors.len() {
        return None;
    }
    let statistics = match spec.batch_norm.policy {
        BatchNormPolicy::Recompute => average::BatchNormPolicy::Recompute,
        BatchNormPolicy::Average => average::BatchNormPolicy::Average,
        BatchNormPolicy::Copy => average::BatchNormPolicy::Copy,
    };
    let holds = |name: &str| held.is_some_and(|held| held.iter().any(|tensor| tensor.name == name));
    match average::TensorPlan::new(network, &rules, statistics, holds) {
        Ok(plan) => {
            let parameters = network.parameters();
            let averaged = plan.averaged().iter().map(|place| parameters[*place]);
            Some(averaged.map(|tensor| (tensor.name.clone(), tensor.len())).collect())
        }
        Err(error) => {
            faults.add("tensors", error.to_string());
            None
        }
    }
}

/// Whether any running statistic is recomputed.
pub(super) fn recompute(spec: &JobSpec) -> bool {
    spec.batch_norm.policy == BatchNormPolicy::Recompute
        || spec.tensors.iter().any(|rule| rule.policy == TensorPolicy::Recompute)
}

fn to_core(rule: &TensorRule) -> barycenter_core::Result<average::TensorRule> {
    let policy = match rule.policy {
        TensorPolicy::Average => average::TensorPolicy::Average,
        TensorPolicy::Copy => average::TensorPolicy::Copy,
        TensorPolicy::Recompute => average::TensorPolicy::Recompute,
        TensorPolicy::Reject => average::TensorPolicy::Reject,
    };
    average::TensorRule::new(&rule.pattern, policy)
}
