//! The averaged model as a file, merged from the candidates (`docs/method.md`, "Result").

use std::{collections::BTreeMap, io::Write};

use super::{Averaging, Outcome, Phase, Progress, evaluation::Model};
use crate::{
    Result,
    checkpoint::{CheckpointFile, Written},
    merge::{MergePlan, Policy, merge, policies},
    network::Role,
};

impl Averaging<'_> {
    /// Merges the candidates with the outcome's coefficients, tensor by tensor; the running statistics are those the
    /// outcome was evaluated with, everything else is copied from the reference candidate, the last one. Tied tensors stay tied.
    /// Where a fit was chosen and is to be written as it was fitted, its weights take the place of the sums.
    pub fn materialise(
        &self,
        outcome: &Outcome,
        output: impl Write + Send,
        progress: &mut dyn Progress,
    ) -> Result<Written> {
        let policies = self.policies(outcome)?;
        let mut on_tensor = |done: usize, total: usize| progress.report(Phase::Materialise, done as u64, total as u64);
        let dtype = self.options.dtype;
        merge(self.candidates, &outcome.coefficients, &policies, dtype, output, &mut on_tensor)
    }

    /// How a merge of the candidates makes the file that [`Averaging::materialise`] writes again, to the bit; `None` where it
    /// holds weights as they were fitted, which no merge makes.
    ///
    /// # Errors
    /// [`crate::Error::Input`] where an averaged tensor is not in the reference.
    pub fn merge_plan(&self, outcome: &Outcome) -> Result<Option<MergePlan>> {
        if outcome.as_fitted().is_some() {
            return Ok(None);
        }
        Ok(Some(MergePlan::of(self.reference(), &self.policies(outcome)?)))
    }

    fn reference(&self) -> &CheckpointFile {
        &self.candidates[self.candidates.len() - 1]
    }

    fn policies(&self, outcome: &Outcome) -> Result<BTreeMap<String, Policy>> {
        let mut policies = policies(self.reference(), &self.averaged, &self.blocks)?;
        let as_fitted = outcome.as_fitted();
        if let Some(model) = as_fitted {
            for (name, place) in self.averaged.iter().zip(self.plan.averaged()) {
                policies.insert(name.clone(), provided(&model.parameters[*place]));
            }
        }
        let parameters = self.network.parameters();
        for tensor in self.network.tensors() {
            // A second copy of a parameter stays equal to it.
            if let Role::Tied(twin) = tensor.role
                && policies.contains_key(&tensor.name)
            {
                let policy = policies[&parameters[twin].name].clone();
                policies.insert(tensor.name.clone(), policy);
            }
        }
        let is_statistic = |role| matches!(role, Role::RunningMean | Role::RunningVar);
        let statistics = self.network.tensors().iter().filter(|tensor| is_statistic(tensor.role));
        let running = as_fitted.map_or(&outcome.statistics, |model| &model.statistics);
        for (tensor, values) in statistics.zip(running.running()) {
            policies.insert(tensor.name.clone(), provided(values));
        }
        Ok(policies)
    }
}

impl Averaging<'_> {
    /// The candidates' weights in an averaged tensor; `None` where it is not averaged.
    pub fn weights_of(&self, outcome: &Outcome, tensor: &str) -> Option<Vec<f64>> {
        let place = self.averaged.iter().position(|name| name == tensor)?;
        let column = outcome.coefficients.iter().skip(self.blocks.block_of(place));
        Some(column.step_by(self.blocks.len()).copied().collect())
    }
}

impl Outcome {
    /// The weights to write in place of the sums.
    fn as_fitted(&self) -> Option<&Model> {
        self.fit.as_ref().filter(|_| self.chosen == "twa")?.weights.as_ref()
    }
}

fn provided(values: &[f32]) -> Policy {
    Policy::Provided(values.iter().map(|value| f64::from(*value)).collect())
}
