//! What the samples of a batch are judged by.

use std::sync::Arc;

use crate::{Error, Result};

/// Stands in place of a token that is not predicted.
pub use crate::ops::NO_LABEL;

/// What each sample of a batch is judged by.
#[derive(Clone, Debug, PartialEq)]
pub enum Labels {
    /// Class of each sample.
    Classes(Arc<[u32]>),
    /// So many numbers a sample: `[samples, count]`, row-major.
    Targets {
        /// The numbers.
        values: Arc<[f32]>,
        /// Numbers a sample.
        count: usize,
    },
    /// The token that follows each position, or [`NO_LABEL`]: `[samples, positions]`, row-major.
    Tokens {
        /// The tokens.
        next: Arc<[u32]>,
        /// Positions a sample.
        positions: usize,
    },
}

impl Labels {
    /// Those of several batches, in order.
    ///
    /// # Errors
    /// [`Error::Input`] where they are not of one kind and size.
    pub(super) fn joined(parts: &[&Self]) -> Result<Self> {
        let unlike = || Error::input("batches of different kinds cannot be joined");
        match parts.first().ok_or_else(unlike)? {
            Self::Classes(_) => {
                let classes = parts.iter().map(|part| match part {
                    Self::Classes(classes) => Ok(classes.iter().copied()),
                    _ => Err(unlike()),
                });
                Ok(Self::Classes(classes.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect()))
            }
            Self::Targets { count, .. } => {
                let values = parts.iter().map(|part| match part {
                    Self::Targets { values, count: other } if other == count => Ok(values.iter().copied()),
                    _ => Err(unlike()),
                });
                let values = values.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
                Ok(Self::Targets { values, count: *count })
            }
            Self::Tokens { positions, .. } => {
                let next = parts.iter().map(|part| match part {
                    Self::Tokens { next, positions: other } if other == positions => Ok(next.iter().copied()),
                    _ => Err(unlike()),
                });
                let next = next.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
                Ok(Self::Tokens { next, positions: *positions })
            }
        }
    }

    /// Number of rows of outputs that belong to a sample: its positions for tokens, else 1.
    pub fn rows_per_sample(&self) -> usize {
        match self {
            Self::Classes(_) | Self::Targets { .. } => 1,
            Self::Tokens { positions, .. } => *positions,
        }
    }
}
