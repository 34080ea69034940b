//! Use cases: each opens its transaction, makes ids and times, and decides.

pub mod artifacts;
pub mod blobs;
pub mod candidate_sets;
pub mod checkpoints;
pub mod datasets;
pub mod error;
pub mod estimate;
mod finite;
pub mod health;
pub mod history;
pub mod history_csv;
pub mod idempotency;
pub mod jobs;
pub mod leases;
pub mod multipart;
pub mod reaper;
pub mod register;
pub mod runs;
pub mod spec;
pub mod sweeper;
mod tensor_file;
pub mod transaction;
mod warm_start;

pub use error::{AppError, AppResult, Fault};
pub use tensor_file::{Incoming, PutOutcome};
