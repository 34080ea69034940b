//! The averaged model as a file, merged from the candidates (`docs/method.md`, "Result").

use std::io::Write;

use super::{Averaging, Outcome, Phase, Progress};
use crate::{
    Result,
    checkpoint::Written,
    merge::{Policy, merge, policies},
    network::Role,
};

impl Averaging<'_> {
    /// Merges the candidates with the outcome's coefficients, tensor by tensor; the running statistics are those the
    /// outcome was evaluated with, everything else is copied from the reference candidate, the last one. Tied tensors stay tied.
    pub fn materialise(
        &self,
        outcome: &Outcome,
        output: impl Write + Send,
        progress: &mut dyn Progress,
    ) -> Result<Written> {
        let reference = &self.candidates[self.candidates.len() - 1];
        let mut policies = policies(reference, &self.averaged, &self.blocks)?;
        for tensor in self.network.tensors() {
            // A second copy of a parameter stays equal to it.
            if let Role::Tied(twin) = tensor.role
                && policies.contains_key(&tensor.name)
            {
                policies.insert(tensor.name.clone(), Policy::Average { block: self.blocks.block_of(twin) });
            }
        }
        let is_statistic = |role| matches!(role, Role::RunningMean | Role::RunningVar);
        let statistics = self.network.tensors().iter().filter(|tensor| is_statistic(tensor.role));
        for (tensor, values) in statistics.zip(outcome.statistics.running()) {
            let values = values.iter().map(|value| f64::from(*value)).collect();
            policies.insert(tensor.name.clone(), Policy::Provided(values));
        }
        let mut on_tensor = |done: usize, total: usize| progress.report(Phase::Materialise, done as u64, total as u64);
        merge(self.candidates, &outcome.coefficients, &policies, output, &mut on_tensor)
    }
}
