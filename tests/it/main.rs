//! Flows through the whole server: the real router on a real Postgres, one database for each test.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod artifacts;
mod harness;
mod history;
mod jobs;
mod leases;
mod problems;
mod scene;
