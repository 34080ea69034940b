//! Labelled samples: reading them, normalising them, drawing batches of them.
//!
//! Everything random here is a function of a seed, an epoch and a sample index, never of what was drawn before, so that
//! a resumed job sees the same data as one that was never stopped.

mod augmentation;
mod dataset;
mod draws;
mod normalisation;
mod order;

pub use augmentation::{Augmentation, Epoch};
pub use dataset::{Batch, Dataset, Inputs};
pub use draws::Draws;
pub use normalisation::Normalisation;
pub use order::{shuffled, split};
