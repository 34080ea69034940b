//! The method on real files: checkpoints, projection, fit, merge.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::float_cmp, reason = "some results are promised to the last bit")]

mod checkpoint;
mod fit;
mod fit_reference;
mod header;
mod merge;
mod projection;
mod properties;
mod pytorch;
mod revision;
mod sample;
mod sharded;
