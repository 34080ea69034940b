//! Samples with what they are judged by: reading them, normalising them, drawing batches of them.
//!
//! Everything random here is a function of a seed, an epoch and a sample index, never of what was drawn before, so that
//! a resumed job sees the same data as one that was never stopped.

mod augmentation;
mod dataset;
mod draws;
mod header;
mod labels;
mod normalisation;
mod order;
pub(crate) mod part;
mod samples;
mod tokens;

pub use augmentation::{Augmentation, Epoch};
pub use dataset::{Batch, Dataset};
pub use draws::Draws;
pub use header::{DatasetFault, DatasetHeader, DatasetKind};
pub use labels::{Labels, NO_LABEL};
pub use normalisation::Normalisation;
pub use order::{shuffled, split};
pub use part::Part;
pub use samples::Inputs;
