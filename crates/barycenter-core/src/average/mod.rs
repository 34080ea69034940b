//! One averaging job, from candidates to the averaged model: fit or rule, baselines, selection, materialisation.
//!
//! The caller opens the files, keeps the projection (so that it can be cached), hears of progress through
//! [`Progress`] and decides when to stop. Every number is a function of the inputs, the options and the seed: a job
//! resumed from a [`State`] ends with the bits of one that was never stopped.

mod baselines;
mod bootstrap;
mod choice;
mod evaluation;
mod fitting;
mod materialise;
mod memory;
mod options;
mod progress;
mod ranks;
mod rules;
mod run;
mod state;
mod tensors;

pub use crate::data::Part;
pub use bootstrap::paired_interval;
pub use choice::MethodScores;
pub use evaluation::Scores;
pub use memory::{MemoryEstimate, Sizes};
pub use options::{
    AverageData, AverageOptions, Baselines, BatchNormOptions, BatchNormPolicy, Materialise, Method, Rule, Start,
    TwaOptions,
};
pub use progress::{Phase, Progress, Silent, Snapshot};
pub use run::{Averaging, FitOutcome, NotAveraged, Outcome};
pub use state::State;
pub use tensors::{TensorPlan, TensorPolicy, TensorRule};
