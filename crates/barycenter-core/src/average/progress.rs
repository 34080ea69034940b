//! How a job tells of itself, and hears that it should stop.

use crate::Result;

/// Parts of a job that run in the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Candidates are checked for NaN and Inf.
    Check,
    /// The packed projection is built.
    Projection,
    /// The coefficients are fitted.
    Fit,
    /// The baselines are evaluated.
    Baselines,
    /// The best snapshot is evaluated, the test figures made.
    Select,
    /// The averaged model is merged.
    Materialise,
}

/// The coefficients at one step of the fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Steps taken; 0 is the start.
    pub step: u64,
    /// Passes over the fit data, as a fraction.
    pub epoch: f64,
    /// Learning rate of the step that led here; 0 at step 0.
    pub learning_rate: f64,
    /// Loss of that step's batch before the update; absent at step 0.
    pub fit_loss: Option<f64>,
    /// Loss on the select part, where it was evaluated.
    pub select_loss: Option<f64>,
    /// `a`, candidate by candidate: n x L numbers.
    pub coefficients: Vec<f64>,
}

/// Listens to a job.
pub trait Progress {
    /// `done` of `total` units of `phase` are done. An error (usually [`crate::Error::Stopped`]) ends the job.
    fn report(&mut self, phase: Phase, done: u64, total: u64) -> Result<()>;

    /// Whether the job should stop; asked within long units, before every batch.
    fn is_stopping(&self) -> bool {
        false
    }

    /// A snapshot was taken.
    fn snapshot(&mut self, _snapshot: Snapshot) {}

    /// A step is complete; `state` makes the bytes to resume from, if the listener wants them now.
    fn resumable(&mut self, _state: &dyn Fn() -> Vec<u8>) {}
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&mut self, _phase: Phase, _done: u64, _total: u64) -> Result<()> {
        Ok(())
    }
}
