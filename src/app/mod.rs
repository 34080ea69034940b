//! Use cases: each opens its transaction, makes ids and times, and decides.

pub mod artifacts;
pub mod blobs;
pub mod estimate;
pub mod error;
pub mod health;
pub mod history;
pub mod idempotency;
pub mod jobs;
pub mod leases;
pub mod reaper;
pub mod spec;
pub mod sweeper;
pub mod transaction;

pub use error::{AppError, AppResult};
