//! The honest baselines: last, best single, uniform, greedy (`docs/method.md`, "Selection").

use super::{
    Averaging, Phase, Progress,
    evaluation::{Model, Scores},
};
use crate::{Result, objective::SampleResults};

/// A baseline: equal weights on some candidates.
pub(super) struct Baseline {
    pub method: &'static str,
    /// Candidates averaged, in the order they were taken.
    pub members: Vec<usize>,
    pub model: Model,
    pub select: SampleResults,
}

impl Averaging<'_> {
    /// Evaluates every baseline on the select part: 2 n + 1 evaluations at most.
    pub(super) fn baselines(&self, progress: &mut dyn Progress) -> Result<Vec<Baseline>> {
        let n = self.candidates.len();
        let total = 2 * n as u64 + 1;
        let mut losses = Vec::with_capacity(n);
        for candidate in 0..n {
            progress.report(Phase::Baselines, candidate as u64, total)?;
            let model = self.single_model(candidate)?;
            losses.push(Scores::from(&self.results(&model, &self.data.select, progress)?).loss);
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| losses[*a].total_cmp(&losses[*b]));

        progress.report(Phase::Baselines, n as u64, total)?;
        let uniform = self.equal_weights("uniform", (0..n).collect(), progress)?;
        let greedy = self.greedy(&order, progress)?;
        progress.report(Phase::Baselines, total, total)?;
        let last = self.single("last", n - 1, progress)?;
        let best_single = self.single("best_single", order[0], progress)?;
        Ok(vec![last, best_single, uniform, greedy])
    }

    /// Greedy soup (Wortsman et al. 2022, recipe 1): candidates by falling merit, kept where the average improves.
    fn greedy(&self, order: &[usize], progress: &mut dyn Progress) -> Result<Baseline> {
        let n = order.len();
        let mut soup = self.single("greedy", order[0], progress)?;
        for (taken, candidate) in order.iter().enumerate().skip(1) {
            progress.report(Phase::Baselines, (n + taken) as u64, 2 * n as u64 + 1)?;
            let members = soup.members.iter().copied().chain([*candidate]).collect();
            let richer = self.equal_weights("greedy", members, progress)?;
            if richer.select.mean_loss() < soup.select.mean_loss() {
                soup = richer;
            }
        }
        Ok(soup)
    }

    fn single(&self, method: &'static str, candidate: usize, progress: &dyn Progress) -> Result<Baseline> {
        let model = self.single_model(candidate)?;
        let select = self.results(&model, &self.data.select, progress)?;
        Ok(Baseline { method, members: vec![candidate], model, select })
    }

    fn equal_weights(&self, method: &'static str, members: Vec<usize>, progress: &dyn Progress) -> Result<Baseline> {
        let model = self.averaged_model(&self.equal_coefficients(&members), progress)?;
        let select = self.results(&model, &self.data.select, progress)?;
        Ok(Baseline { method, members, model, select })
    }

    /// `a[i,l] = 1/k` for the k members, 0 elsewhere.
    pub(super) fn equal_coefficients(&self, members: &[usize]) -> Vec<f64> {
        let blocks = self.blocks.len();
        let mut coefficients = vec![0.0; self.candidates.len() * blocks];
        for member in members {
            coefficients[member * blocks..][..blocks].fill(1.0 / members.len() as f64);
        }
        coefficients
    }
}
