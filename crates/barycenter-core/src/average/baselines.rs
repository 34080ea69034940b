//! The honest baselines: last, best single, uniform, best suffix, greedy (`docs/method.md`, "Selection").
//!
//! Every one of them, single candidates included, gets running statistics by the same policy as the fit, so that the
//! comparison is one of weights alone.

use super::{Averaging, Part, Phase, Progress};
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

/// The part that baselines are compared on, and how far they are.
struct Course<'a> {
    part: &'a Part,
    done: u64,
    total: u64,
}

impl Course<'_> {
    fn tick(&mut self, progress: &mut dyn Progress) -> Result<()> {
        progress.report(Phase::Baselines, self.done, self.total)?;
        self.done += 1;
        Ok(())
    }
}

impl Averaging<'_> {
    /// Evaluates every baseline on a part of the data: at most 3 n − 2 evaluations.
    pub(super) fn baselines(&self, part: &Part, progress: &mut dyn Progress) -> Result<Vec<Baseline>> {
        let n = self.candidates.len();
        let mut course = Course { part, done: 0, total: 3 * n as u64 - 2 };
        let mut losses = Vec::with_capacity(n);
        let mut singles: Option<(Baseline, Baseline)> = None;
        for candidate in 0..n {
            let single = self.equal_weights("last", vec![candidate], &mut course, progress)?;
            losses.push(single.select.mean_loss());
            let best = match singles {
                Some((_, best)) if best.select.mean_loss() <= single.select.mean_loss() => best,
                _ => Baseline { method: "best_single", ..single.clone() },
            };
            singles = Some((single, best));
        }
        let (last, best_single) = singles.expect("checked candidates are at least two");

        let uniform = self.equal_weights("uniform", (0..n).collect(), &mut course, progress)?;
        let best_suffix = self.best_suffix(&last, &uniform, &mut course, progress)?;
        let greedy = self.greedy(&best_single, &losses, &mut course, progress)?;
        progress.report(Phase::Baselines, course.total, course.total)?;
        Ok(vec![last, best_single, uniform, best_suffix, greedy])
    }

    /// The uniform average alone.
    pub(super) fn uniform(&self, part: &Part, progress: &mut dyn Progress) -> Result<Baseline> {
        let mut course = Course { part, done: 0, total: 1 };
        self.equal_weights("uniform", (0..self.candidates.len()).collect(), &mut course, progress)
    }

    /// Coefficients, (n, L), of the baseline with the least loss on a part of the data.
    pub(super) fn best_baseline(&self, part: &Part, progress: &mut dyn Progress) -> Result<Vec<f64>> {
        let baselines = self.baselines(part, progress)?;
        let best = baselines.iter().min_by(|a, b| a.select.mean_loss().total_cmp(&b.select.mean_loss()));
        Ok(self.equal_coefficients(&best.expect("uniform is always a baseline").members))
    }

    /// The average of the last k candidates, for the k of the least loss; of equal ones the longest.
    fn best_suffix(
        &self,
        last: &Baseline,
        uniform: &Baseline,
        course: &mut Course<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Baseline> {
        let n = self.candidates.len();
        let mut best = uniform.clone();
        for first in 1..n {
            let suffix = if first == n - 1 {
                last.clone()
            } else {
                self.equal_weights("best_suffix", (first..n).collect(), course, progress)?
            };
            if suffix.select.mean_loss() < best.select.mean_loss() {
                best = suffix;
            }
        }
        Ok(Baseline { method: "best_suffix", ..best })
    }

    /// Greedy soup (Wortsman et al. 2022, recipe 1): candidates by falling merit, kept where the average improves.
    fn greedy(
        &self,
        best_single: &Baseline,
        losses: &[f64],
        course: &mut Course<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Baseline> {
        let mut others: Vec<usize> = (0..losses.len()).filter(|i| *i != best_single.members[0]).collect();
        others.sort_by(|a, b| losses[*a].total_cmp(&losses[*b]));
        let mut soup = Baseline { method: "greedy", ..best_single.clone() };
        for candidate in others {
            let members = soup.members.iter().copied().chain([candidate]).collect();
            let richer = self.equal_weights("greedy", members, course, progress)?;
            if richer.select.mean_loss() < soup.select.mean_loss() {
                soup = richer;
            }
        }
        Ok(soup)
    }

    fn equal_weights(
        &self,
        method: &'static str,
        members: Vec<usize>,
        course: &mut Course<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Baseline> {
        course.tick(progress)?;
        let model = self.averaged_model(&self.equal_coefficients(&members), progress)?;
        let select = self.results(&model, course.part, progress)?;
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
