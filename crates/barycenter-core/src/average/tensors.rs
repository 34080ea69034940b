//! What becomes of every tensor of a job: by its role in the network, unless a rule names it (`docs/method.md`, "Tensors").

use globset::{Glob, GlobMatcher};

use super::BatchNormPolicy;
use crate::{
    Error, Result,
    network::{Network, Role, TensorSpec},
};

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorPolicy {
    /// Averaged: parameters with the coefficients of their block, running statistics with equal weights.
    Average,
    /// Copied from the reference candidate, the last one.
    Copy,
    /// Accumulated anew under the averaged weights; for running statistics.
    Recompute,
    /// Candidates that hold it are refused.
    Reject,
}

impl TensorPolicy {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Average => "average",
            Self::Copy => "copy",
            Self::Recompute => "recompute",
            Self::Reject => "reject",
        }
    }
}

/// A policy for the tensors whose names match a pattern.
#[derive(Clone, Debug)]
pub struct TensorRule {
    matcher: GlobMatcher,
    policy: TensorPolicy,
}

impl TensorRule {
    /// `pattern` is a glob over a whole name, in which `*` also stands for dots.
    ///
    /// # Errors
    /// [`Error::Input`] where it is no glob.
    pub fn new(pattern: &str, policy: TensorPolicy) -> Result<Self> {
        let glob = Glob::new(pattern).map_err(|e| Error::input(format!("pattern `{pattern}`: {}", e.kind())))?;
        Ok(Self { matcher: glob.compile_matcher(), policy })
    }

    /// Whether a tensor of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        self.matcher.is_match(name)
    }

    /// What becomes of it.
    pub fn policy(&self) -> TensorPolicy {
        self.policy
    }

    /// As it was written.
    pub fn pattern(&self) -> &str {
        self.matcher.glob().glob()
    }
}

/// What becomes of every tensor of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlan {
    /// One a tensor, in the order of [`Network::tensors`].
    policies: Vec<TensorPolicy>,
    /// Positions among the parameters of those that are averaged.
    averaged: Vec<usize>,
}

impl TensorPlan {
    /// The plan for candidates that `hold` these tensors. Of several rules that match a tensor the first counts, and where none
    /// does its role: parameters are averaged, running statistics go by `statistics`, everything else is copied. A tied
    /// tensor goes with the parameter that it repeats.
    ///
    /// # Errors
    /// [`Error::Input`] where a rule matches no tensor, asks of one what it cannot be, or rejects one that is held, and where
    /// nothing is left to average.
    pub fn new(
        network: &dyn Network,
        rules: &[TensorRule],
        statistics: BatchNormPolicy,
        holds: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let tensors = network.tensors();
        if let Some(rule) = rules.iter().find(|rule| !tensors.iter().any(|tensor| rule.matches(&tensor.name))) {
            return Err(Error::input(format!("pattern `{}` matches no tensor of the network", rule.pattern())));
        }
        let mut policies = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let rule = rules.iter().find(|rule| rule.matches(&tensor.name));
            if let Some(rule) = rule.filter(|_| holds(&tensor.name)) {
                check(tensor, rule)?;
            }
            let default = match tensor.role {
                Role::Parameter => TensorPolicy::Average,
                Role::RunningMean | Role::RunningVar => of_statistics(statistics),
                Role::BatchCount | Role::Tied(_) | Role::Carried => TensorPolicy::Copy,
            };
            policies.push(rule.map_or(default, TensorRule::policy));
        }
        let of_parameters = tensors.iter().zip(&policies).filter(|(tensor, _)| tensor.role == Role::Parameter);
        let of_parameters: Vec<TensorPolicy> = of_parameters.map(|(_, policy)| *policy).collect();
        for (tensor, policy) in tensors.iter().zip(&mut policies) {
            if let Role::Tied(twin) = tensor.role {
                *policy = of_parameters[twin];
            }
        }
        let is_averaged = |parameter: &usize| of_parameters[*parameter] == TensorPolicy::Average;
        let averaged: Vec<usize> = (0..of_parameters.len()).filter(is_averaged).collect();
        if averaged.is_empty() {
            return Err(Error::input("no parameter is left to average"));
        }
        Ok(Self { policies, averaged })
    }

    /// Positions among the network's parameters of those that are averaged, in order.
    pub fn averaged(&self) -> &[usize] {
        &self.averaged
    }

    /// Every tensor of the network with its policy.
    pub fn tensors<'n>(&'n self, network: &'n dyn Network) -> impl Iterator<Item = (&'n TensorSpec, TensorPolicy)> {
        network.tensors().iter().zip(self.policies.iter().copied())
    }

    /// The policies of the running statistics, in order.
    pub fn of_statistics(&self, network: &dyn Network) -> Vec<(String, TensorPolicy)> {
        let is_statistic = |role| matches!(role, Role::RunningMean | Role::RunningVar);
        let statistics = self.tensors(network).filter(|(tensor, _)| is_statistic(tensor.role));
        statistics.map(|(tensor, policy)| (tensor.name.clone(), policy)).collect()
    }
}

fn of_statistics(policy: BatchNormPolicy) -> TensorPolicy {
    match policy {
        BatchNormPolicy::Recompute => TensorPolicy::Recompute,
        BatchNormPolicy::Average => TensorPolicy::Average,
        BatchNormPolicy::Copy => TensorPolicy::Copy,
    }
}

fn check(tensor: &TensorSpec, rule: &TensorRule) -> Result<()> {
    let (name, pattern) = (&tensor.name, rule.pattern());
    let is_sound = match (rule.policy, tensor.role) {
        (TensorPolicy::Reject, _) => {
            return Err(Error::input(format!("tensor `{name}` is rejected by the pattern `{pattern}`")));
        }
        (TensorPolicy::Copy, _) | (_, Role::RunningMean | Role::RunningVar | Role::Tied(_)) => true,
        (TensorPolicy::Average, role) => role == Role::Parameter,
        (TensorPolicy::Recompute, _) => false,
    };
    if is_sound {
        return Ok(());
    }
    let (policy, what) = (rule.policy.name(), role_name(tensor.role));
    Err(Error::input(format!("tensor `{name}` (pattern `{pattern}`): `{policy}` is not for {what}")))
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Parameter => "parameters",
        Role::RunningMean | Role::RunningVar => "running statistics",
        Role::BatchCount => "counts of batches",
        Role::Tied(_) => "tied tensors",
        Role::Carried => "tensors that the network does not compute with",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::NetworkSpec;

    fn plan(rules: &[(&str, TensorPolicy)], statistics: BatchNormPolicy) -> Result<Vec<(String, &'static str)>> {
        let network = NetworkSpec::ResnetCifar { depth: 8, classes: 10 }.build()?;
        let rules: Vec<_> =
            rules.iter().map(|(pattern, policy)| TensorRule::new(pattern, *policy)).collect::<Result<_>>()?;
        let plan = TensorPlan::new(&*network, &rules, statistics, |_| true)?;
        Ok(plan.tensors(&*network).map(|(tensor, policy)| (tensor.name.clone(), policy.name())).collect())
    }

    fn of(plan: &[(String, &'static str)], name: &str) -> &'static str {
        plan.iter().find(|(tensor, _)| tensor == name).expect("a tensor of the network").1
    }

    #[test]
    fn without_rules_a_tensor_goes_by_its_role() {
        let plan = plan(&[], BatchNormPolicy::Recompute).unwrap();
        assert_eq!(of(&plan, "conv1.weight"), "average");
        assert_eq!(of(&plan, "bn1.running_var"), "recompute");
        assert_eq!(of(&plan, "bn1.num_batches_tracked"), "copy");
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        use TensorPolicy::{Average, Copy};
        let rules = [("fc.bias", Average), ("fc.*", Copy), ("bn1.running_*", Copy)];
        let plan = plan(&rules, BatchNormPolicy::Recompute).unwrap();
        assert_eq!((of(&plan, "fc.bias"), of(&plan, "fc.weight")), ("average", "copy"));
        assert_eq!((of(&plan, "bn1.running_mean"), of(&plan, "conv1.weight")), ("copy", "average"));
    }

    #[test]
    fn a_rule_that_cannot_be_followed_is_refused_by_name() {
        use TensorPolicy::{Average, Copy, Recompute, Reject};
        for (pattern, policy, said) in [
            ("head.*", Copy, "pattern `head.*` matches no tensor"),
            ("fc.weight", Recompute, "tensor `fc.weight` (pattern `fc.weight`): `recompute` is not for parameters"),
            ("bn1.num_*", Average, "`average` is not for counts of batches"),
            ("bn*", Reject, "tensor `bn1.weight` is rejected by the pattern `bn*`"),
            ("*", Copy, "no parameter is left to average"),
            ("[", Copy, "pattern `[`"),
        ] {
            let error = plan(&[(pattern, policy)], BatchNormPolicy::Copy).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
