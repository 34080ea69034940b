//! Flows through the whole server: the real router on a real Postgres, one database for each test.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod candidate_sets;
mod content;
mod datasets;
mod harness;
mod idempotency;
mod interrupted;
mod openapi;
mod problems;
mod refused_uploads;
mod runs;
mod stores;
