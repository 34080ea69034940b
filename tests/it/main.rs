//! Flows through the whole server: the real router on a real Postgres, one database for each test.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod aliases;
mod artifacts;
mod candidate_sets;
mod collections;
mod content;
mod dataset_kinds;
mod datasets;
mod deletion;
mod early_refusal;
mod events;
mod harness;
mod history;
mod idempotency;
mod interrupted;
mod job_log;
mod jobs;
mod lease_model;
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
mod scheduling;
mod stores;
mod tracking;
mod tus;
mod workers;
