//! Use cases: each opens its transaction, makes ids and times, and decides.

pub mod blobs;
pub mod error;
pub mod health;
pub mod idempotency;
pub mod reaper;
pub mod transaction;

pub use error::{AppError, AppResult};
