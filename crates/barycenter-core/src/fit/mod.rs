//! The fit: gradient descent on `θ`, which stands for `X`.
//!
//! All that a fit is lies in its [`FitState`]: `θ`, the optimiser's moments, the step and the seed. A fit that is resumed
//! from a saved state makes the same steps, bit for bit, as one that was never stopped.

mod collective;
mod optimiser;
mod parametrisation;
mod rank;
mod schedule;
mod slope;
mod state;
mod whitening;

pub use collective::{Collective, ThreadRank};
pub use optimiser::Optimiser;
pub use parametrisation::{Basis, Constraint, Form, Point, Pooling};
pub use rank::Sharding;
pub use schedule::Schedule;
pub use state::FitState;

use self::{parametrisation::Parametrisation, rank::Rank, slope::Slope};
use crate::{Error, Result, objective::Objective, projection::Projection};

/// What a learning rate that nobody named moves a coefficient by in a step of length 1.
const SHARE_A_STEP: f64 = 0.01;

/// Options of a fit.
#[derive(Clone, Debug, PartialEq)]
pub struct FitOptions {
    /// What is trained.
    pub form: Form,
    /// Optimiser on `θ`.
    pub optimiser: Optimiser,
    /// How the learning rate goes over the steps.
    pub schedule: Schedule,
    /// Peak learning rate; where absent, what moves a coefficient by a hundredth in a step of length 1.
    pub learning_rate: Option<f64>,
    /// Longest gradient on `θ`, by Euclidean norm; a longer one is scaled down to it.
    pub clip_norm: Option<f64>,
    /// Distance in `X` at which the gradient is taken, uphill of the weights (Sharpness-Aware Minimisation, Foret et al. 2021);
    /// 0 for none. Doubles the time of a step.
    pub sam_rho: f64,
    /// Steps of the whole fit.
    pub steps: u64,
    /// Seed of the data's order; kept in the state, so that a state cannot be resumed under another seed.
    pub seed: u64,
}

impl FitOptions {
    /// AdamW with warm-up and cosine, in the plain affine form.
    pub fn plain(steps: u64, seed: u64) -> Self {
        Self {
            form: Form::default(),
            optimiser: Optimiser::default(),
            schedule: Schedule::Cosine { warm_up: 0.2 },
            learning_rate: None,
            clip_norm: None,
            sam_rho: 0.0,
            steps,
            seed,
        }
    }

    fn check(&self) -> Result<()> {
        self.optimiser.check()?;
        self.schedule.check()?;
        let positive = |name: &str, value: Option<f64>| match value {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(Error::input(format!("{name}: {value} is not a positive number")))
            }
            _ => Ok(()),
        };
        positive("learning_rate", self.learning_rate)?;
        positive("clip_norm", self.clip_norm)?;
        if self.sam_rho.is_finite() && self.sam_rho >= 0.0 {
            Ok(())
        } else {
            Err(Error::input(format!("sam_rho: {} is not a number of at least 0", self.sam_rho)))
        }
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The step, counted from 0.
    pub step: u64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Loss of the step's batch, before the update.
    pub loss: f64,
}

/// A fit in progress.
#[derive(Debug)]
pub struct Fit<'a> {
    projection: &'a Projection,
    options: FitOptions,
    parametrisation: Parametrisation,
    /// Peak learning rate of each number of `θ`.
    peak_rates: Vec<f64>,
    learning_rate: f64,
    state: FitState,
    /// `w(X)` of the step, kept so that a step allocates nothing of the model's size.
    weights: Vec<Vec<f32>>,
    /// Absent where the fit has one rank.
    rank: Option<Rank>,
}

impl<'a> Fit<'a> {
    /// A fit at its start: the uniform average, or the coefficients `start`, (n, L).
    ///
    /// # Errors
    /// [`Error::Input`] where an option makes no sense, naming it.
    pub fn new(projection: &'a Projection, options: FitOptions, start: Option<&[f64]>) -> Result<Self> {
        let parametrisation = Parametrisation::new(projection, options.form)?;
        let entries = projection.n() * projection.block_count();
        let theta = match start {
            None => vec![0.0; parametrisation.len()],
            Some(coefficients) if coefficients.len() == entries && coefficients.iter().all(|a| a.is_finite()) => {
                parametrisation.theta_of(coefficients)
            }
            Some(_) => return Err(Error::input(format!("start: not {entries} numbers, one a candidate and block"))),
        };
        let state = FitState::start(theta, &options);
        Self::assemble(projection, options, parametrisation, state)
    }

    /// A fit at a saved state.
    ///
    /// # Errors
    /// [`Error::Input`] where an option makes no sense or the state belongs to another fit.
    pub fn resume(projection: &'a Projection, options: FitOptions, state: FitState) -> Result<Self> {
        let parametrisation = Parametrisation::new(projection, options.form)?;
        Self::assemble(projection, options, parametrisation, state)
    }

    fn assemble(
        projection: &'a Projection,
        options: FitOptions,
        parametrisation: Parametrisation,
        state: FitState,
    ) -> Result<Self> {
        options.check()?;
        state.check(parametrisation.len(), &options)?;
        let learning_rate = options.learning_rate.unwrap_or_else(|| parametrisation.rate_of(SHARE_A_STEP));
        let peak_rates = parametrisation.rate_factors().into_iter().map(|factor| learning_rate * factor).collect();
        let weights = projection.tensors().map(|(_, elements)| vec![0.0; elements]).collect();
        Ok(Self { projection, options, parametrisation, peak_rates, learning_rate, state, weights, rank: None })
    }

    /// Makes this one rank of a fit that several share: each has the same state and an objective on its own part of every
    /// batch, and all make their steps together. They stay equal bit for bit.
    #[must_use]
    pub fn as_rank(self, collective: Box<dyn Collective>, sharding: Sharding) -> Self {
        let rank = Some(Rank::new(collective, sharding, self.projection));
        Self { rank, ..self }
    }

    /// Makes one step: weights of `θ`, loss and gradient there, gradient of `θ`, update.
    ///
    /// # Errors
    /// [`Error::Input`] where all steps are made, or the loss or its gradient is not finite, naming the step; what the
    /// objective returns. The state is then unchanged.
    pub fn step(&mut self, objective: &mut dyn Objective) -> Result<StepReport> {
        let step = self.state.step;
        if self.is_done() {
            return Err(Error::input(format!("all {step} steps of the fit are made")));
        }
        let point = self.point();
        let (loss, mut slope) = self.loss_and_slope(objective, &point)?;
        if let Some(uphill) = slope.uphill(&point, self.options.sam_rho) {
            (_, slope) = self.loss_and_slope(objective, &uphill)?;
        }
        let mut gradient = self.parametrisation.gradient(&self.state.theta, &slope.of_x, &slope.of_gain);
        if let Some(longest) = self.options.clip_norm {
            clip(&mut gradient, longest);
        }
        let factor = self.options.schedule.factor(step, self.options.steps);
        let rates: Vec<f64> = self.peak_rates.iter().map(|rate| rate * factor).collect();
        self.options.optimiser.update(&mut self.state, &gradient, &rates);
        self.state.step += 1;
        Ok(StepReport { step, learning_rate: self.learning_rate * factor, loss })
    }

    fn loss_and_slope(&mut self, objective: &mut dyn Objective, point: &Point) -> Result<(f64, Slope)> {
        let step = self.state.step;
        match &mut self.rank {
            None => self.projection.weights(point, &mut self.weights),
            Some(rank) => rank.weights(self.projection, point, &mut self.weights)?,
        }
        let batch = objective.loss_and_gradient(&self.weights, step)?;
        self.check_shape(&batch.gradient)?;
        let has_gain = !point.gain.is_empty();
        let (loss, slope) = match &mut self.rank {
            None => (batch.loss, Slope::on(self.projection, &batch.gradient, has_gain)),
            Some(rank) => rank.slope(self.projection, batch, has_gain)?,
        };
        if !loss.is_finite() {
            return Err(Error::input(format!("step {step}: the loss is {loss}; a lower learning rate may help")));
        }
        if !slope.is_finite() {
            let what = format!("step {step}: the gradient is not finite; a lower learning rate may help");
            return Err(Error::input(what));
        }
        Ok((loss, slope))
    }

    /// Whether all steps are made.
    pub fn is_done(&self) -> bool {
        self.state.step >= self.options.steps
    }

    /// Everything that has to be saved to resume.
    pub fn state(&self) -> &FitState {
        &self.state
    }

    /// Where the fit stands.
    pub fn point(&self) -> Point {
        self.parametrisation.point(&self.state.theta)
    }

    /// Coefficients now, (n, L).
    pub fn coefficients(&self) -> Vec<f64> {
        self.projection.coefficients_at(&self.point())
    }

    fn check_shape(&self, gradient: &[Vec<f32>]) -> Result<()> {
        let same =
            gradient.len() == self.weights.len() && gradient.iter().zip(&self.weights).all(|(g, w)| g.len() == w.len());
        if same {
            Ok(())
        } else {
            Err(Error::input("the objective's gradient has not the shape of the averaged tensors"))
        }
    }
}

impl Projection {
    /// The weights of a point, into one flat vector per averaged tensor.
    ///
    /// # Panics
    /// Where the point or `into` have not the shape of the projection.
    pub fn weights(&self, point: &Point, into: &mut [Vec<f32>]) {
        self.reconstruct(&point.x, into);
        if !point.gain.is_empty() {
            self.add_centre(&point.gain, into);
        }
    }

    /// Coefficients of a point, (n, L); every block sums to 1, and what its centre gains.
    ///
    /// # Panics
    /// Where the point has not the shape of the projection.
    pub fn coefficients_at(&self, point: &Point) -> Vec<f64> {
        let mut a = self.coefficients(&point.x);
        for (a, gain) in a.iter_mut().zip(point.gain.iter().cycle()) {
            *a += gain / self.n() as f64;
        }
        a
    }
}

fn clip(gradient: &mut [f64], longest: f64) {
    let length = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
    if length > longest {
        for g in gradient {
            *g *= longest / length;
        }
    }
}
