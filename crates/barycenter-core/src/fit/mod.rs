//! The fit: gradient descent on `X`.
//!
//! All that a fit is lies in its [`FitState`]: `X`, the optimiser's moments, the step and the seed. A fit that is resumed
//! from a saved state makes the same steps, bit for bit, as one that was never stopped.

mod optimiser;
mod schedule;
mod state;

pub use optimiser::Optimiser;
pub use schedule::Schedule;
pub use state::FitState;

use crate::{Error, Result, objective::Objective, projection::Projection};

/// Options of a fit.
#[derive(Clone, Debug, PartialEq)]
pub struct FitOptions {
    /// Optimiser on `X`.
    pub optimiser: Optimiser,
    /// How the learning rate goes over the steps.
    pub schedule: Schedule,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of the whole fit.
    pub steps: u64,
    /// Seed of the data's order; kept in the state, so that a state cannot be resumed under another seed.
    pub seed: u64,
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

/// A fit in progress. It starts from `X = 0`, the uniform average.
#[derive(Debug)]
pub struct Fit<'a> {
    projection: &'a Projection,
    options: FitOptions,
    state: FitState,
    /// `w(X)` of the step, kept so that a step allocates nothing of the model's size.
    weights: Vec<Vec<f32>>,
}

impl<'a> Fit<'a> {
    /// A fit at its start.
    ///
    /// # Errors
    /// [`Error::Input`] where an option makes no sense, naming it.
    pub fn new(projection: &'a Projection, options: FitOptions) -> Result<Self> {
        let state = FitState::start(projection.n() * projection.block_count(), &options);
        Self::resume(projection, options, state)
    }

    /// A fit at a saved state.
    ///
    /// # Errors
    /// [`Error::Input`] where an option makes no sense or the state belongs to another fit.
    pub fn resume(projection: &'a Projection, options: FitOptions, state: FitState) -> Result<Self> {
        options.optimiser.check()?;
        options.schedule.check()?;
        if !(options.learning_rate.is_finite() && options.learning_rate > 0.0) {
            return Err(Error::input(format!("learning_rate: {} is not a positive number", options.learning_rate)));
        }
        state.check(projection.n() * projection.block_count(), &options)?;
        let weights = projection.tensors().map(|(_, elements)| vec![0.0; elements]).collect();
        Ok(Self { projection, options, state, weights })
    }

    /// Makes one step: weights of `X`, loss and gradient there, gradient of `X`, update.
    ///
    /// # Errors
    /// [`Error::Input`] where all steps are made, or the loss or its gradient is not finite, naming the step; what the
    /// objective returns. The state is then unchanged.
    pub fn step(&mut self, objective: &mut dyn Objective) -> Result<StepReport> {
        let step = self.state.step;
        if self.is_done() {
            return Err(Error::input(format!("all {step} steps of the fit are made")));
        }
        self.projection.reconstruct(&self.state.x, &mut self.weights);
        let (loss, gradient) = objective.loss_and_gradient(&self.weights, step)?;
        if !loss.is_finite() {
            return Err(Error::input(format!("step {step}: the loss is {loss}; a lower learning rate may help")));
        }
        self.check_shape(&gradient)?;
        let gradient = self.projection.project(&gradient);
        if !gradient.iter().all(|g| g.is_finite()) {
            let what = format!("step {step}: the gradient is not finite; a lower learning rate may help");
            return Err(Error::input(what));
        }
        let learning_rate = self.options.learning_rate * self.options.schedule.factor(step, self.options.steps);
        self.options.optimiser.update(&mut self.state, &gradient, learning_rate);
        self.state.step += 1;
        Ok(StepReport { step, learning_rate, loss })
    }

    /// Whether all steps are made.
    pub fn is_done(&self) -> bool {
        self.state.step >= self.options.steps
    }

    /// Everything that has to be saved to resume.
    pub fn state(&self) -> &FitState {
        &self.state
    }

    /// Coefficients now, (n, L).
    pub fn coefficients(&self) -> Vec<f64> {
        self.projection.coefficients(&self.state.x)
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
