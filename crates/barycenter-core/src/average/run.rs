//! The course of a job: checks, fit or rule, baselines, choice.

use std::sync::Arc;

use super::{
    AverageData, AverageOptions, Baselines, Materialise, Method, MethodScores, Phase, Progress, Rule, State,
    TensorPlan, TensorPolicy, TwaOptions,
    choice::{Choice, Contender},
    evaluation::Model,
};
use crate::{
    Error, Result,
    blocks::Blocks,
    checkpoint::{CheckpointFile, check_candidates, check_finite},
    network::{Network, Role, Statistics, check_layout},
    objective::SampleResults,
    projection::{Geometry, Projection},
};

/// A job whose inputs were checked.
pub struct Averaging<'a> {
    pub(super) network: Arc<dyn Network>,
    pub(super) candidates: &'a [CheckpointFile],
    pub(super) plan: TensorPlan,
    pub(super) averaged: Vec<String>,
    pub(super) blocks: Blocks,
    pub(super) data: AverageData,
    pub(super) options: AverageOptions,
}

/// What a job found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was chosen: the job's method, or a baseline where the guard found the method no better.
    pub chosen: &'static str,
    /// `a` of the chosen one, candidate by candidate: n x L numbers.
    pub coefficients: Vec<f64>,
    /// Running statistics of the chosen one.
    pub statistics: Statistics,
    /// Select results of the chosen one, sample by sample.
    pub select: SampleResults,
    /// Baselines in the order last, best single, uniform, best suffix, greedy; then the job's method, where it is none of them.
    pub methods: Vec<MethodScores>,
    /// What a fit came to; absent where nothing was fitted.
    pub fit: Option<FitOutcome>,
    /// How the candidates lie to each other; absent where the method needs no projection.
    pub geometry: Option<Geometry>,
}

/// What a fit came to.
#[derive(Clone, Debug)]
pub struct FitOutcome {
    /// Step of the best snapshot.
    pub best_step: u64,
    /// Steps that were made.
    pub steps: u64,
    /// Ranks that shared them. Where the network has batch norm, each took its statistics from its own part of a batch.
    pub ranks: usize,
    /// Select loss of the best snapshot's weights on quantised directions.
    pub as_fitted_select_loss: f64,
    /// Those weights, where they are to be written.
    pub(super) weights: Option<Model>,
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
        if data.fit_samples() == 0 || data.select.indices.is_empty() {
            return Err(Error::input("the fit part and the select part need at least one sample each"));
        }
        let holds = |name: &str| candidates.iter().any(|candidate| candidate.tensor(name).is_ok());
        let plan = TensorPlan::new(network.as_ref(), &options.tensors, options.batch_norm.policy, holds)?;
        let parameters = network.parameters();
        let sizes: Vec<_> =
            plan.averaged().iter().map(|p| (parameters[*p].name.clone(), parameters[*p].len())).collect();
        let blocks = Blocks::new(&sizes, options.method.granularity());
        let averaged = sizes.into_iter().map(|(name, _)| name).collect();
        progress.report(Phase::Check, 1, 1)?;
        Ok(Self { network, candidates, plan, averaged, blocks, data, options })
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
        let held = |name: &str| self.candidates.iter().all(|candidate| candidate.tensor(name).is_ok());
        let others = self.plan.tensors(self.network.as_ref()).filter(|(tensor, policy)| match tensor.role {
            Role::Parameter => *policy != TensorPolicy::Average,
            Role::Tied(_) => *policy != TensorPolicy::Average && held(&tensor.name),
            Role::RunningMean | Role::RunningVar | Role::BatchCount => true,
            Role::Carried => held(&tensor.name),
        });
        others.map(|(t, policy)| NotAveraged { tensor: t.name.clone(), policy: policy.name() }).collect()
    }

    /// Whether the method needs a projection.
    pub fn needs_projection(&self) -> bool {
        self.twa().is_some()
    }

    /// Builds the packed projection of the candidates, where the method needs one: one pass over their bytes.
    pub fn build_projection(&self, progress: &mut dyn Progress) -> Result<Option<Projection>> {
        self.build_projection_of(self.candidates, progress)
    }

    /// Builds that of other candidates of the same layout: of a set that this one's projection extends.
    pub fn build_projection_of(
        &self,
        candidates: &[CheckpointFile],
        progress: &mut dyn Progress,
    ) -> Result<Option<Projection>> {
        let Some(twa) = self.twa() else { return Ok(None) };
        let mut report = |done: usize, total: usize| progress.report(Phase::Projection, done as u64, total as u64);
        Projection::build(candidates, &self.averaged, &self.blocks, twa.bits, &mut report).map(Some)
    }

    /// Whether a projection is one of so many candidates with the averaged tensors, blocks and bits of this job.
    pub fn fits(&self, projection: &Projection, candidates: usize) -> bool {
        let parameters = self.network.parameters();
        let sizes =
            self.plan.averaged().iter().map(|place| (parameters[*place].name.as_str(), parameters[*place].len()));
        let bits = self.twa().map(|twa| twa.bits);
        projection.n() == candidates
            && bits == Some(projection.bits())
            && projection.block_count() == self.blocks.len()
            && projection.tensors().eq(sizes)
    }

    fn twa(&self) -> Option<&TwaOptions> {
        match &self.options.method {
            Method::Twa(twa) => Some(twa),
            Method::Rule(_) => None,
        }
    }

    /// Finds the method's coefficients, evaluates the baselines and chooses; a fit resumes from `state` where there is one.
    ///
    /// # Errors
    /// [`Error::Input`] where the method needs a projection and there is none; what the network and `progress` return.
    pub fn run(
        &self,
        projection: Option<&Projection>,
        state: Option<State>,
        progress: &mut dyn Progress,
    ) -> Result<Outcome> {
        let (choice, fit) = match &self.options.method {
            Method::Twa(twa) => {
                let projection = projection.ok_or_else(|| Error::input("a fit needs the candidates' projection"))?;
                self.run_fit(twa, projection, state, progress)?
            }
            Method::Rule(rule) => {
                let contenders = self.baseline_contenders(progress)?;
                let (contenders, own) = self.with_rule(rule, contenders, progress)?;
                (self.choose(contenders, own, progress)?, None)
            }
        };
        let Choice { winner: Contender { method, coefficients, statistics, select, .. }, methods } = choice;
        let geometry = projection.map(Projection::geometry);
        Ok(Outcome { chosen: method, coefficients, statistics, select, methods, fit, geometry })
    }

    fn run_fit(
        &self,
        twa: &TwaOptions,
        projection: &Projection,
        state: Option<State>,
        progress: &mut dyn Progress,
    ) -> Result<(Choice, Option<FitOutcome>)> {
        let fitted = self.fit(twa, projection, state, progress)?;
        let mut contenders = self.baseline_contenders(progress)?;
        progress.report(Phase::Select, 0, 2)?;
        let point = fitted.best.point;
        let as_fitted = self.as_fitted(projection, &point, progress)?;
        let as_fitted_select_loss = self.results(&as_fitted, &self.data.select, progress)?.mean_loss();
        let weights = (self.options.materialise == Materialise::AsFitted).then_some(as_fitted);
        contenders.push(self.contender("twa", projection.coefficients_at(&point), progress)?);
        let own = contenders.len() - 1;
        let choice = self.choose(contenders, own, progress)?;
        let (best_step, steps) = (fitted.best.step, fitted.steps);
        Ok((choice, Some(FitOutcome { best_step, steps, ranks: twa.ranks, as_fitted_select_loss, weights })))
    }

    fn baseline_contenders(&self, progress: &mut dyn Progress) -> Result<Vec<Contender>> {
        // A rule that is itself a baseline stands beside all of them.
        let is_baseline = matches!(self.options.method, Method::Rule(Rule::Uniform | Rule::BestSuffix | Rule::Greedy));
        let all = self.options.baselines == Baselines::All || is_baseline;
        let baselines = if all {
            self.baselines(&self.data.select, progress)?
        } else {
            vec![self.uniform(&self.data.select, progress)?]
        };
        Ok(baselines.into_iter().map(|baseline| self.baseline_contender(baseline)).collect())
    }
}
