//! Use cases: each opens its transaction, makes ids and times, and decides.

pub mod blobs;
pub mod candidate_sets;
pub mod checkpoints;
pub mod datasets;
pub mod error;
mod finite;
pub mod health;
pub mod idempotency;
pub mod reaper;
pub mod runs;
mod tensor_file;
pub mod transaction;

pub use error::{AppError, AppResult, Fault};
pub use tensor_file::{Incoming, PutOutcome};
