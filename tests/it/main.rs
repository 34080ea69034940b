//! Flows through the whole server: the real router on a real Postgres, one database for each test.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod aliases;
mod artifact_files;
mod artifacts;
mod candidate_sets;
mod checkpoint_files;
mod checkpoint_files_refused;
mod collections;
mod content;
mod dataset_kinds;
mod datasets;
mod deletion;
mod early_refusal;
mod file_faults;
mod harness;
mod history;
mod idempotency;
mod interrupted;
mod jobs;
mod leases;
mod migrations;
mod multipart;
mod multipart_contents;
mod multipart_faults;
mod openapi;
mod problems;
mod refused_uploads;
mod register;
mod retention;
mod runs;
mod scene;
mod stores;
mod tracking;
mod tus;
