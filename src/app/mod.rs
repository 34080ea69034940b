//! Use cases: each opens its transaction, makes ids and times, and decides.

pub mod aliases;
pub mod artifacts;
pub mod blobs;
pub mod candidate_sets;
pub mod checkpoint_edits;
pub mod checkpoints;
pub mod datasets;
pub mod deletion;
pub mod drops;
pub mod error;
pub mod estimate;
mod finite;
pub mod gc;
pub mod health;
pub mod history;
pub mod history_csv;
pub mod idempotency;
pub mod jobs;
pub mod leases;
pub mod lineage;
mod members;
pub mod multipart;
pub mod reaper;
pub mod register;
pub mod retention;
mod rounds;
pub mod runs;
pub mod spec;
pub mod sweeper;
mod tensor_file;
pub mod transaction;
mod warm_start;

pub use error::{AppError, AppResult, Fault};
pub use tensor_file::{Incoming, PutOutcome};
