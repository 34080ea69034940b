//! The choice between a method and the baselines, on the select part.

use super::{
    Averaging, Part, Phase, Progress, Scores, baselines::Baseline, bootstrap::paired_interval, evaluation::Model,
};
use crate::{Result, network::Statistics, objective::SampleResults};

/// A method beside the others.
#[derive(Clone, Debug)]
pub struct MethodScores {
    /// `last`, `best_single`, `uniform`, `best_suffix`, `greedy`, or the job's own.
    pub method: &'static str,
    /// The candidates it averages with equal weights, where it does.
    pub members: Option<Vec<usize>>,
    /// On the select part.
    pub select: Scores,
    /// On the test data.
    pub test: Option<Scores>,
    /// 95 % interval of the difference of its select loss from uniform's, paired by sample.
    pub select_difference_from_uniform: [f64; 2],
    /// The same of its test loss.
    pub test_difference_from_uniform: Option<[f64; 2]>,
}

/// Coefficients with what they are worth.
pub(super) struct Contender {
    pub method: &'static str,
    pub members: Option<Vec<usize>>,
    /// (n, L).
    pub coefficients: Vec<f64>,
    pub statistics: Statistics,
    pub select: SampleResults,
}

/// The winner, and how all stood.
pub(super) struct Choice {
    pub winner: Contender,
    pub methods: Vec<MethodScores>,
}

impl Averaging<'_> {
    /// Takes the contender with the least select loss where the guard is on, else the one at `own`; of equal ones the one at
    /// `own`, then the simplest baseline.
    pub(super) fn choose(
        &self,
        mut contenders: Vec<Contender>,
        own: usize,
        progress: &mut dyn Progress,
    ) -> Result<Choice> {
        progress.report(Phase::Select, 1, 2)?;
        let methods = self.score(&contenders, progress)?;
        let rivals = if self.options.guard { 0..methods.len() } else { 0..0 };
        let winner =
            rivals.fold(
                own,
                |winner, rival| {
                    if methods[rival].select.loss < methods[winner].select.loss { rival } else { winner }
                },
            );
        progress.report(Phase::Select, 2, 2)?;
        Ok(Choice { winner: contenders.swap_remove(winner), methods })
    }

    pub(super) fn baseline_contender(&self, baseline: Baseline) -> Contender {
        let Baseline { method, members, statistics, select } = baseline;
        let coefficients = self.equal_coefficients(&members);
        Contender { method, members: Some(members), coefficients, statistics, select }
    }

    /// A contender with these coefficients, (n, L), evaluated on the select part.
    pub(super) fn contender(
        &self,
        method: &'static str,
        coefficients: Vec<f64>,
        progress: &dyn Progress,
    ) -> Result<Contender> {
        let model = self.averaged_model(&coefficients, progress)?;
        let select = self.results(&model, &self.data.select, progress)?;
        Ok(Contender { method, members: None, coefficients, statistics: model.statistics, select })
    }

    fn score(&self, contenders: &[Contender], progress: &dyn Progress) -> Result<Vec<MethodScores>> {
        let tested = |contender| self.data.test.as_ref().map(|part| self.test_results(contender, part, progress));
        let tests = contenders.iter().map(|c| tested(c).transpose()).collect::<Result<Vec<_>>>()?;
        let uniform = contenders.iter().position(|c| c.method == "uniform").expect("uniform is always a baseline");
        let interval = |results: &SampleResults, uniform: &SampleResults| {
            paired_interval(&results.losses, &uniform.losses, &uniform.weights, self.options.seed)
        };
        let score = |(contender, test): (&Contender, &Option<SampleResults>)| MethodScores {
            method: contender.method,
            members: contender.members.clone(),
            select: Scores::from(&contender.select),
            test: test.as_ref().map(Scores::from),
            select_difference_from_uniform: interval(&contender.select, &contenders[uniform].select),
            test_difference_from_uniform: test.as_ref().zip(tests[uniform].as_ref()).map(|(a, b)| interval(a, b)),
        };
        Ok(contenders.iter().zip(&tests).map(score).collect())
    }

    fn test_results(&self, contender: &Contender, part: &Part, progress: &dyn Progress) -> Result<SampleResults> {
        let parameters = self.parameters(&contender.coefficients)?;
        self.results(&Model { parameters, statistics: contender.statistics.clone() }, part, progress)
    }
}
