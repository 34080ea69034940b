//! The course of a job: fit with snapshots, baselines, choice.

use std::sync::Arc;

use super::{
    AverageData, AverageOptions, BatchNormPolicy, Part, Phase, Progress, Scores, Snapshot, State, baselines::Baseline,
    bootstrap::paired_interval, evaluation::Model, state::BestSnapshot,
};
use crate::{
    Error, Result,
    blocks::Blocks,
    checkpoint::{CheckpointFile, check_candidates, check_finite},
    fit::{Fit, FitOptions, StepReport},
    network::{Network, Role, Statistics, check_layout},
    objective::{DatasetLoss, DatasetLossOptions, Objective as _, SampleResults},
    projection::{self, Projection},
};

/// A job whose inputs were checked.
pub struct Averaging<'a> {
    pub(super) network: Arc<dyn Network>,
    pub(super) candidates: &'a [CheckpointFile],
    pub(super) averaged: Vec<String>,
    pub(super) blocks: Blocks,
    pub(super) data: AverageData,
    pub(super) options: AverageOptions,
}

/// What a job found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The method that was chosen: `twa`, or a baseline's name where the guard found the fit no better.
    pub chosen: &'static str,
    /// `a` of the chosen one, candidate by candidate: n x L numbers.
    pub coefficients: Vec<f64>,
    /// Running statistics of the chosen one.
    pub statistics: Statistics,
    /// Baselines in the order last, best single, uniform, greedy; then the fit.
    pub methods: Vec<MethodScores>,
    /// Step of the best snapshot.
    pub best_step: u64,
    /// Steps of the fit.
    pub steps: u64,
    /// Select loss of the best snapshot's weights on quantised directions.
    pub as_fitted_select_loss: f64,
}

/// A method beside the others.
#[derive(Clone, Debug)]
pub struct MethodScores {
    /// `last`, `best_single`, `uniform`, `greedy` or `twa`.
    pub method: &'static str,
    /// The candidates it averages with equal weights; absent for `twa`.
    pub members: Option<Vec<usize>>,
    /// On the select part.
    pub select: Scores,
    /// On the test data.
    pub test: Option<Scores>,
    /// 95 % interval of the difference of its select loss from uniform's, paired by sample.
    pub select_difference_from_uniform: [f64; 2],
}

/// A tensor that is not averaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAveraged {
    /// Its name.
    pub tensor: String,
    /// `copy`, `recompute` or `average`.
    pub policy: &'static str,
}

/// Errors where a candidate holds a second copy of a parameter that differs from it.
fn check_tied(network: &dyn Network, candidates: &[CheckpointFile], names: &[String]) -> Result<()> {
    let parameters = network.parameters();
    for tensor in network.tensors() {
        let Role::Tied(twin) = tensor.role else { continue };
        let twin = &parameters[twin].name;
        for (candidate, name) in candidates.iter().zip(names) {
            if candidate.tensor(&tensor.name).is_ok() && candidate.bytes(&tensor.name)? != candidate.bytes(twin)? {
                let held = &tensor.name;
                return Err(Error::input(format!(
                    "{name}: `{held}` is not equal to `{twin}`, which the network ties it to"
                )));
            }
        }
    }
    Ok(())
}

struct Contender {
    method: &'static str,
    members: Option<Vec<usize>>,
    coefficients: Vec<f64>,
    statistics: Statistics,
    select: SampleResults,
}

impl<'a> Averaging<'a> {
    /// Checks that the candidates belong to the network, agree with each other and hold no NaN or Inf.
    ///
    /// `names` are how messages call the candidates.
    ///
    /// # Errors
    /// [`Error::Input`] naming the first candidate and tensor at fault.
    pub fn new(
        network: Arc<dyn Network>,
        candidates: &'a [CheckpointFile],
        names: &[String],
        data: AverageData,
        options: AverageOptions,
        progress: &mut dyn Progress,
    ) -> Result<Self> {
        progress.report(Phase::Check, 0, 1)?;
        check_candidates(candidates, names)?;
        let tensors = &candidates[0].layout().tensors;
        check_layout(network.tensors(), tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice())))?;
        check_finite(candidates, names)?;
        check_tied(network.as_ref(), candidates, names)?;
        if data.fit.indices.is_empty() || data.select.indices.is_empty() {
            return Err(Error::input("the fit part and the select part need at least one sample each"));
        }
        let parameters = network.tensors().iter().filter(|tensor| tensor.role == Role::Parameter);
        let sizes: Vec<_> = parameters.map(|t| (t.name.clone(), t.shape.iter().product::<usize>())).collect();
        let blocks = Blocks::new(&sizes, options.granularity);
        let averaged = sizes.into_iter().map(|(name, _)| name).collect();
        progress.report(Phase::Check, 1, 1)?;
        Ok(Self { network, candidates, averaged, blocks, data, options })
    }

    /// Names of the averaged tensors, in the network's order.
    pub fn averaged(&self) -> &[String] {
        &self.averaged
    }

    /// The blocks, columns of every table of coefficients.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// The tensors that are not averaged, with what happens to each.
    pub fn not_averaged(&self) -> Vec<NotAveraged> {
        let policy = |role| match (role, self.options.batch_norm.policy) {
            (Role::RunningMean | Role::RunningVar, BatchNormPolicy::Recompute) => "recompute",
            (Role::RunningMean | Role::RunningVar, BatchNormPolicy::Average) => "average",
            _ => "copy",
        };
        let held = |name: &str| self.candidates.iter().all(|candidate| candidate.tensor(name).is_ok());
        let others = self.network.tensors().iter().filter(|tensor| match tensor.role {
            Role::Parameter | Role::Tied(_) => false,
            Role::RunningMean | Role::RunningVar | Role::BatchCount => true,
            Role::Carried => held(&tensor.name),
        });
        others.map(|t| NotAveraged { tensor: t.name.clone(), policy: policy(t.role) }).collect()
    }

    /// Name of the projection in a cache; `digests` are those of the candidates' files, in order.
    pub fn projection_key(&self, digests: &[String]) -> String {
        projection::key(digests, self.options.bits, &self.averaged, self.options.granularity)
    }

    /// Builds the packed projection of the candidates: one pass over their bytes.
    pub fn build_projection(&self, progress: &mut dyn Progress) -> Result<Projection> {
        let mut report = |done: usize, total: usize| progress.report(Phase::Projection, done as u64, total as u64);
        Projection::build(self.candidates, &self.averaged, &self.blocks, self.options.bits, &mut report)
    }

    /// Fits, evaluates the baselines and chooses; resumes from `state` where there is one.
    pub fn run(&self, projection: &Projection, state: Option<State>, progress: &mut dyn Progress) -> Result<Outcome> {
        let best = self.fit(projection, state, progress)?;
        let baselines = self.baselines(progress)?;
        self.choose(projection, &best, baselines, progress)
    }

    fn fit(&self, projection: &Projection, state: Option<State>, progress: &mut dyn Progress) -> Result<BestSnapshot> {
        let AverageOptions { batch_size, augmentation, loss, seed, .. } = self.options;
        let mut objective = DatasetLoss::new(
            Arc::clone(&self.network),
            Arc::clone(&self.data.fit.dataset),
            self.data.fit.indices.clone(),
            DatasetLossOptions { batch_size, augmentation, loss, seed },
        )?;
        let steps_per_epoch = objective.steps_per_epoch();
        let steps = steps_per_epoch * self.options.epochs;
        let (mut fit, mut best) = self.start(projection, steps, state, progress)?;
        while !fit.is_done() {
            progress.report(Phase::Fit, fit.state().step, steps)?;
            let report = fit.step(&mut objective)?;
            let step = fit.state().step;
            let at_epoch_end = step % steps_per_epoch == 0 || step == steps;
            let select_loss =
                if at_epoch_end { Some(self.select_loss(projection, &fit.state().x, progress)?) } else { None };
            if let Some(select_loss) = select_loss.filter(|loss| *loss < best.select_loss) {
                best = BestSnapshot { step, select_loss, x: fit.state().x.clone() };
            }
            if at_epoch_end || step % self.options.history_every == 0 {
                progress.snapshot(snapshot(
                    projection,
                    &fit.state().x,
                    step,
                    steps_per_epoch,
                    Some(&report),
                    select_loss,
                ));
            }
            progress.resumable(&|| State { fit: fit.state().clone(), best: best.clone() }.to_bytes());
        }
        progress.report(Phase::Fit, steps, steps)?;
        Ok(best)
    }

    fn start<'p>(
        &self,
        projection: &'p Projection,
        steps: u64,
        state: Option<State>,
        progress: &mut dyn Progress,
    ) -> Result<(Fit<'p>, BestSnapshot)> {
        let options = FitOptions {
            optimiser: self.options.optimiser,
            schedule: self.options.schedule,
            learning_rate: self.options.learning_rate,
            steps,
            seed: self.options.seed,
        };
        if let Some(State { fit, best }) = state {
            return Ok((Fit::resume(projection, options, fit)?, best));
        }
        let fit = Fit::new(projection, options)?;
        let select_loss = self.select_loss(projection, &fit.state().x, progress)?;
        progress.snapshot(snapshot(projection, &fit.state().x, 0, 1, None, Some(select_loss)));
        let best = BestSnapshot { step: 0, select_loss, x: fit.state().x.clone() };
        Ok((fit, best))
    }

    /// Select loss of the exact merge at `X`.
    fn select_loss(&self, projection: &Projection, x: &[f64], progress: &dyn Progress) -> Result<f64> {
        let model = self.averaged_model(&projection.coefficients(x), progress)?;
        Ok(self.results(&model, &self.data.select, progress)?.mean_loss())
    }

    fn as_fitted_select_loss(&self, projection: &Projection, x: &[f64], progress: &dyn Progress) -> Result<f64> {
        let mut parameters = projection.centre();
        projection.reconstruct(x, &mut parameters);
        let statistics = self.averaged_statistics(&parameters, progress)?;
        Ok(self.results(&Model { parameters, statistics }, &self.data.select, progress)?.mean_loss())
    }

    fn choose(
        &self,
        projection: &Projection,
        best: &BestSnapshot,
        baselines: Vec<Baseline>,
        progress: &mut dyn Progress,
    ) -> Result<Outcome> {
        progress.report(Phase::Select, 0, 2)?;
        let coefficients = projection.coefficients(&best.x);
        let model = self.averaged_model(&coefficients, progress)?;
        let select = self.results(&model, &self.data.select, progress)?;
        let statistics = model.statistics;
        let as_fitted_select_loss = self.as_fitted_select_loss(projection, &best.x, progress)?;
        let mut contenders: Vec<Contender> = baselines.into_iter().map(|b| self.contender(b)).collect();
        contenders.push(Contender { method: "twa", members: None, coefficients, statistics, select });

        progress.report(Phase::Select, 1, 2)?;
        let methods = self.score(&contenders, progress)?;
        let chosen = self.winner(&methods);
        progress.report(Phase::Select, 2, 2)?;
        let Contender { method, coefficients, statistics, .. } = contenders.swap_remove(chosen);
        Ok(Outcome {
            chosen: method,
            coefficients,
            statistics,
            methods,
            best_step: best.step,
            steps: self.steps(),
            as_fitted_select_loss,
        })
    }

    fn contender(&self, baseline: Baseline) -> Contender {
        let Baseline { method, members, statistics, select } = baseline;
        let coefficients = self.equal_coefficients(&members);
        Contender { method, members: Some(members), coefficients, statistics, select }
    }

    fn score(&self, contenders: &[Contender], progress: &dyn Progress) -> Result<Vec<MethodScores>> {
        let uniform = contenders.iter().find(|c| c.method == "uniform").expect("uniform is always a baseline");
        let score = |contender: &Contender| {
            let test = self.data.test.as_ref().map(|part| self.test_results(contender, part, progress)).transpose()?;
            Ok(MethodScores {
                method: contender.method,
                members: contender.members.clone(),
                select: Scores::from(&contender.select),
                test: test.as_ref().map(Scores::from),
                select_difference_from_uniform: paired_interval(
                    &contender.select.losses,
                    &uniform.select.losses,
                    &uniform.select.weights,
                    self.options.seed,
                ),
            })
        };
        contenders.iter().map(score).collect()
    }

    fn test_results(&self, contender: &Contender, part: &Part, progress: &dyn Progress) -> Result<SampleResults> {
        let parameters = self.parameters(&contender.coefficients)?;
        self.results(&Model { parameters, statistics: contender.statistics.clone() }, part, progress)
    }

    /// The least select loss; of equal ones the fit, then the simplest baseline.
    fn winner(&self, methods: &[MethodScores]) -> usize {
        let fit = methods.len() - 1;
        let baselines = if self.options.guard { 0..fit } else { 0..0 };
        baselines.fold(fit, |winner, candidate| {
            if methods[candidate].select.loss < methods[winner].select.loss { candidate } else { winner }
        })
    }

    fn steps(&self) -> u64 {
        self.options.epochs * self.data.fit.indices.len().div_ceil(self.options.batch_size) as u64
    }
}

fn snapshot(
    projection: &Projection,
    x: &[f64],
    step: u64,
    steps_per_epoch: u64,
    report: Option<&StepReport>,
    select_loss: Option<f64>,
) -> Snapshot {
    Snapshot {
        step,
        epoch: step as f64 / steps_per_epoch as f64,
        learning_rate: report.map_or(0.0, |r| r.learning_rate),
        fit_loss: report.map(|r| r.loss),
        select_loss,
        coefficients: projection.coefficients(x),
    }
}
