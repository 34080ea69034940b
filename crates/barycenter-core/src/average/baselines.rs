//! The honest baselines: last, best single, uniform, greedy (`docs/method.md`, "Selection").
//!
//! Every one of them, single candidates included, gets running statistics by the same policy as the fit, so that the
//! comparison is one of weights alone.

use super::{Averaging, Phase, Progress};
use crate::{Result, network::Statistics, objective::SampleResults};

/// A baseline: equal weights on some candidates. Its weights are not kept: they are summed again where they are needed.
#[derive(Clone)]
pub(super) struct Baseline {
    pub method: &'static str,
    /// Candidates averaged, in the order they were taken.
    pub members: Vec<usize>,
    pub statistics: Statistics,
    pub select: SampleResults,
}

impl Averaging<'_> {
    /// Evaluates every baseline on the select part: 2 n evaluations.
    pub(super) fn baselines(&self, progress: &mut dyn Progress) -> Result<Vec<Baseline>> {
        let n = self.candidates.len();
        let mut losses = Vec::with_capacity(n);
        let mut singles: Option<(Baseline, Baseline)> = None;
        for candidate in 0..n {
            progress.report(Phase::Baselines, candidate as u64, 2 * n as u64)?;
            let single = self.equal_weights("last", vec![candidate], progress)?;
            losses.push(single.select.mean_loss());
            let best = match singles {
                Some((_, best)) if best.select.mean_loss() <= single.select.mean_loss() => best,
                _ => Baseline { method: "best_single", ..single.clone() },
            };
            singles = Some((single, best));
        }
        let (last, best_single) = singles.expect("checked candidates are at least two");

        progress.report(Phase::Baselines, n as u64, 2 * n as u64)?;
        let uniform = self.equal_weights("uniform", (0..n).collect(), progress)?;
        let greedy = self.greedy(&best_single, &losses, progress)?;
        progress.report(Phase::Baselines, 2 * n as u64, 2 * n as u64)?;
        Ok(vec![last, best_single, uniform, greedy])
    }

    /// Greedy soup (Wortsman et al. 2022, recipe 1): candidates by falling merit, kept where the average improves.
    fn greedy(&self, best_single: &Baseline, losses: &[f64], progress: &mut dyn Progress) -> Result<Baseline> {
        let n = losses.len();
        let mut others: Vec<usize> = (0..n).filter(|candidate| *candidate != best_single.members[0]).collect();
        others.sort_by(|a, b| losses[*a].total_cmp(&losses[*b]));
        let mut soup = Baseline { method: "greedy", ..best_single.clone() };
        for (tried, candidate) in others.into_iter().enumerate() {
            progress.report(Phase::Baselines, (n + 1 + tried) as u64, 2 * n as u64)?;
            let members = soup.members.iter().copied().chain([candidate]).collect();
            let richer = self.equal_weights("greedy", members, progress)?;
            if richer.select.mean_loss() < soup.select.mean_loss() {
                soup = richer;
            }
        }
        Ok(soup)
    }

    fn equal_weights(&self, method: &'static str, members: Vec<usize>, progress: &dyn Progress) -> Result<Baseline> {
        let model = self.averaged_model(&self.equal_coefficients(&members), progress)?;
        let select = self.results(&model, &self.data.select, progress)?;
        Ok(Baseline { method, members, statistics: model.statistics, select })
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
