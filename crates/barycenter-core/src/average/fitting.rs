//! The fit of a job: steps, snapshots, the best of them on the select part.

use std::sync::Arc;

use super::{
    Averaging, Phase, Progress, Snapshot, Start, State, TwaOptions, evaluation::Model, ranks::Leader,
    state::BestSnapshot,
};
use crate::{
    Result,
    fit::{Fit, FitOptions, Point, StepReport},
    merge::weights::in_every_block,
    objective::{BatchLoss, DatasetLoss, DatasetLossOptions, Objective},
    projection::Projection,
};

/// What a fit came to.
pub(super) struct Fitted {
    pub best: BestSnapshot,
    /// Steps that were made.
    pub steps: u64,
}

/// What a fit is to do.
struct Course<'a> {
    projection: &'a Projection,
    steps: u64,
    steps_per_epoch: u64,
    twa: &'a TwaOptions,
}

/// The loss as a function of the averaged parameters alone.
pub(super) struct AveragedLoss {
    whole: DatasetLoss,
    /// Positions of the averaged parameters among all.
    places: Vec<usize>,
    /// All parameters, where not all are averaged: the others keep their values.
    parameters: Option<Vec<Vec<f32>>>,
}

impl Objective for AveragedLoss {
    fn steps_per_epoch(&self) -> u64 {
        self.whole.steps_per_epoch()
    }

    fn loss_and_gradient(&mut self, weights: &[Vec<f32>], step: u64) -> Result<BatchLoss> {
        let Some(parameters) = &mut self.parameters else {
            return self.whole.loss_and_gradient(weights, step);
        };
        for (place, weights) in self.places.iter().zip(weights) {
            parameters[*place].copy_from_slice(weights);
        }
        let mut batch = self.whole.loss_and_gradient(parameters, step)?;
        let gradient = self.places.iter().map(|place| std::mem::take(&mut batch.gradient[*place])).collect();
        Ok(BatchLoss { gradient, ..batch })
    }
}

impl Averaging<'_> {
    /// Fits, or goes on from `state`.
    pub(super) fn fit(
        &self,
        twa: &TwaOptions,
        projection: &Projection,
        state: Option<State>,
        progress: &mut dyn Progress,
    ) -> Result<Fitted> {
        let steps_per_epoch = self.objective(0, 1)?.steps_per_epoch();
        let steps = steps_per_epoch * twa.epochs;
        let options = twa.fit(steps, self.options.seed);
        let (fit, best) = self.start(twa, projection, &options, state, progress)?;
        let course = Course { projection, steps, steps_per_epoch, twa };
        self.with_ranks(twa, (projection, options), fit, |leader| self.lead(&course, leader, best, progress))
    }

    /// Makes the steps, keeps the best snapshot and tells of it.
    fn lead(
        &self,
        course: &Course<'_>,
        mut leader: Leader<'_>,
        mut best: BestSnapshot,
        progress: &mut dyn Progress,
    ) -> Result<Fitted> {
        let Course { projection, steps, steps_per_epoch, twa } = *course;
        let patience = twa.patience.map(|epochs| epochs * steps_per_epoch);
        // A resumed fit may have run out of patience just before it was stopped.
        let has_patience = |step: u64, best: u64| patience.is_none_or(|patience| step - best < patience);
        while !leader.fit.is_done() && has_patience(leader.fit.state().step, best.step) {
            progress.report(Phase::Fit, leader.fit.state().step, steps)?;
            let report = leader.step()?;
            let (step, point) = (leader.fit.state().step, leader.fit.point());
            let at_epoch_end = step % steps_per_epoch == 0 || step == steps;
            let select_loss = if at_epoch_end { Some(self.select_loss(projection, &point, progress)?) } else { None };
            if let Some(select_loss) = select_loss.filter(|loss| *loss < best.select_loss) {
                best = BestSnapshot { step, select_loss, point: point.clone() };
            }
            if at_epoch_end || step % twa.history_every == 0 {
                progress.snapshot(snapshot(projection, &point, step, steps_per_epoch, Some(&report), select_loss));
            }
            progress.resumable(&|| State { fit: leader.fit.state().clone(), best: best.clone() }.to_bytes());
        }
        progress.report(Phase::Fit, steps, steps)?;
        Ok(Fitted { best, steps: leader.fit.state().step })
    }

    /// The loss on one rank's part of every batch.
    pub(super) fn objective(&self, rank: usize, ranks: usize) -> Result<AveragedLoss> {
        let options = DatasetLossOptions {
            batch_size: self.options.batch_size,
            augmentation: self.options.augmentation,
            loss: self.options.loss,
            seed: self.options.seed,
        };
        let whole = DatasetLoss::new(Arc::clone(&self.network), self.data.fit.clone(), options)?.of_rank(rank, ranks);
        let copied = self.averaged.len() < self.network.parameters().len();
        let parameters = copied.then(|| self.parameters(&self.equal_coefficients(&[0]))).transpose()?;
        Ok(AveragedLoss { whole, places: self.plan.averaged().to_vec(), parameters })
    }

    fn start<'p>(
        &self,
        twa: &TwaOptions,
        projection: &'p Projection,
        options: &FitOptions,
        state: Option<State>,
        progress: &mut dyn Progress,
    ) -> Result<(Fit<'p>, BestSnapshot)> {
        if let Some(State { fit, best }) = state {
            return Ok((Fit::resume(projection, options.clone(), fit)?, best));
        }
        let start = match &twa.start {
            Start::Uniform => None,
            Start::Best => Some(self.best_baseline(&self.data.fit[0], progress)?),
            Start::Coefficients(weights) if weights.len() == self.candidates.len() => {
                Some(in_every_block(weights, self.blocks.len()))
            }
            Start::Coefficients(coefficients) => Some(coefficients.clone()),
        };
        let fit = Fit::new(projection, options.clone(), start.as_deref())?;
        let point = fit.point();
        let select_loss = self.select_loss(projection, &point, progress)?;
        progress.snapshot(snapshot(projection, &point, 0, 1, None, Some(select_loss)));
        Ok((fit, BestSnapshot { step: 0, select_loss, point }))
    }

    /// Select loss of the exact merge at a point.
    fn select_loss(&self, projection: &Projection, point: &Point, progress: &dyn Progress) -> Result<f64> {
        let model = self.averaged_model(&projection.coefficients_at(point), progress)?;
        Ok(self.results(&model, &self.data.select, progress)?.mean_loss())
    }

    /// The weights that were fitted, on quantised directions, with their statistics.
    pub(super) fn as_fitted(&self, projection: &Projection, point: &Point, progress: &dyn Progress) -> Result<Model> {
        let mut averaged = projection.centre();
        projection.weights(point, &mut averaged);
        let parameters = self.with_copied(averaged)?;
        let statistics = self.averaged_statistics(&parameters, progress)?;
        Ok(Model { parameters, statistics })
    }
}

fn snapshot(
    projection: &Projection,
    point: &Point,
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
        coefficients: projection.coefficients_at(point),
    }
}
