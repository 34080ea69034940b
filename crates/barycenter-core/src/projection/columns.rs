//! Columns: the part of every averaged tensor that one rank of a fit holds.

use std::ops::Range;

use super::{Projection, kernels::CHUNK};

/// One range of elements of each averaged tensor; whole chunks of tiles, but for a tensor's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns(Vec<Range<usize>>);

impl Columns {
    /// The columns with these elements of each tensor.
    pub fn new(ranges: Vec<Range<usize>>) -> Self {
        Self(ranges)
    }

    /// Positions of the tensors, each with its elements.
    pub fn ranges(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        self.0.iter().cloned().enumerate()
    }

    /// Elements of the tensor at this position.
    pub(super) fn of(&self, tensor: usize) -> Range<usize> {
        self.0[tensor].clone()
    }
}

impl Projection {
    /// All columns.
    pub(super) fn all_columns(&self) -> Columns {
        Columns(self.tensors.iter().map(|tensor| 0..tensor.centre.len()).collect())
    }

    /// The columns shared out over so many ranks, chunk by chunk in order, as evenly as whole chunks allow.
    ///
    /// # Panics
    /// Where there is no rank.
    pub fn columns_by_rank(&self, ranks: usize) -> Vec<Columns> {
        let chunks: usize = self.tensors.iter().map(|tensor| tensor.centre.len().div_ceil(CHUNK)).sum();
        let of_rank = |rank: usize| {
            let (first, end) = (rank * chunks / ranks, (rank + 1) * chunks / ranks);
            let mut before = 0;
            let range = |elements: usize| {
                let held = elements.div_ceil(CHUNK);
                let own = |chunk: usize| (chunk.saturating_sub(before).min(held) * CHUNK).min(elements);
                let range = own(first)..own(end);
                before += held;
                range
            };
            Columns(self.tensors.iter().map(|tensor| tensor.centre.len()).map(range).collect())
        };
        (0..ranks).map(of_rank).collect()
    }
}
