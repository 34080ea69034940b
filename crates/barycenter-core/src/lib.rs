//! Trainable Weight Averaging: checkpoint files, projection, fit, selection, merge.
//!
//! The symbols are those of `docs/method.md`: candidates `w_i`, centre `c`, directions `u`, their stored form `û`,
//! norms `r`, the trained variable `X` and the coefficients `a`.
//! The core knows no network protocol, no database and no clock on the wall.

pub mod average;
pub mod blocks;
pub mod checkpoint;
pub mod data;
pub mod error;
pub mod fit;
mod memory;
pub mod merge;
pub mod network;
pub mod objective;
pub mod ops;
mod processor;
pub mod projection;

pub use error::{Error, Result};
