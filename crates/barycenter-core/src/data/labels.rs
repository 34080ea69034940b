//! What the samples of a batch are judged by.

use std::sync::Arc;

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
    /// Number of rows of outputs that belong to a sample: its positions for tokens, else 1.
    pub fn rows_per_sample(&self) -> usize {
        match self {
            Self::Classes(_) | Self::Targets { .. } => 1,
            Self::Tokens { positions, .. } => *positions,
        }
    }
}
