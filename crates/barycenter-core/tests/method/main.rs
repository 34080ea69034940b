//! The method on real files: checkpoints, projection, fit, merge.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checkpoint;
mod fit;
mod fit_reference;
mod header;
mod merge;
mod projection;
mod sample;
