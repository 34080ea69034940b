//! From a network's outputs and what they should have been to losses: the one place where they meet.

use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::data::{DatasetKind, Labels, NO_LABEL};
use crate::ops::{self, Graph};
use crate::{Error, Result};

/// What a fit makes small, and what its result is judged by (then without label smoothing).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Softmax cross-entropy with a class for each sample.
    CrossEntropy {
        /// Probability taken from the label and spread over all classes, in [0, 1).
        label_smoothing: f64,
    },
    /// Mean of `(y - t)²` over the outputs of a sample.
    SquaredError,
    /// Softmax cross-entropy with the token that follows, the mean over the tokens of a sample.
    NextToken {
        /// Probability taken from the token and spread over the vocabulary, in [0, 1).
        label_smoothing: f64,
    },
}

impl Loss {
    /// The loss of a dataset of this kind, without label smoothing.
    pub fn of(kind: DatasetKind) -> Self {
        match kind {
            DatasetKind::Labels => Self::CrossEntropy { label_smoothing: 0.0 },
            DatasetKind::Targets { .. } => Self::SquaredError,
            DatasetKind::Tokens => Self::NextToken { label_smoothing: 0.0 },
        }
    }

    /// 0 where there is none.
    pub(super) fn label_smoothing(self) -> f64 {
        match self {
            Self::CrossEntropy { label_smoothing } | Self::NextToken { label_smoothing } => label_smoothing,
            Self::SquaredError => 0.0,
        }
    }

    /// Errors where the smoothing is out of bounds, or the loss needs a dataset of another kind.
    pub(super) fn check(self, kind: DatasetKind) -> Result<()> {
        let smoothing = self.label_smoothing();
        if !(0.0..1.0).contains(&smoothing) {
            return Err(Error::input(format!("label smoothing is {smoothing}, it must lie in [0, 1)")));
        }
        let fits = matches!(
            (self, kind),
            (Self::CrossEntropy { .. }, DatasetKind::Labels)
                | (Self::SquaredError, DatasetKind::Targets { .. })
                | (Self::NextToken { .. }, DatasetKind::Tokens)
        );
        if fits { Ok(()) } else { Err(Error::input(format!("the loss {self:?} is none of a dataset with {kind}"))) }
    }
}

/// The losses of a batch. A token that is padding has a loss of 0 and does not count.
pub(super) struct BatchLosses {
    /// One a row of outputs: `[rows]`.
    pub(super) rows: Tensor,
    rows_per_sample: usize,
    /// Rows of each sample that count.
    counted: Vec<u32>,
}

impl BatchLosses {
    /// Losses of `outputs` [rows, k]: a row a sample, or a row a position for tokens.
    pub(super) fn of(graph: &Graph, outputs: &Tensor, labels: &Labels, label_smoothing: f64) -> Result<Self> {
        let rows = match labels {
            Labels::Classes(classes) | Labels::Tokens { next: classes, .. } => {
                ops::cross_entropy(graph, outputs, Arc::clone(classes), label_smoothing)?
            }
            Labels::Targets { values, .. } => ops::squared_error(graph, outputs, Arc::clone(values))?,
        };
        let counted = match labels {
            Labels::Tokens { next, positions } => {
                let count = |next: &[u32]| next.iter().filter(|token| **token != NO_LABEL).count() as u32;
                next.chunks_exact(*positions).map(count).collect()
            }
            Labels::Classes(_) | Labels::Targets { .. } => vec![1; rows.elem_count()],
        };
        Ok(Self { rows, rows_per_sample: labels.rows_per_sample(), counted })
    }

    /// Mean over the rows that count, in `f64`.
    pub(super) fn mean(&self) -> Result<f64> {
        let sum = ops::read(&self.rows, |rows| rows.iter().map(|loss| f64::from(*loss)).sum::<f64>())?;
        Ok(sum / self.rows_that_count())
    }

    /// Gradient of the mean with respect to the loss of each row.
    pub(super) fn gradient_of_mean(&self) -> Vec<f32> {
        vec![(1.0 / self.rows_that_count()) as f32; self.rows.elem_count()]
    }

    /// Rows that are no padding.
    pub(super) fn rows_that_count(&self) -> f64 {
        self.counted.iter().map(|count| f64::from(*count)).sum()
    }

    /// Mean loss of each sample, and the number of rows it is the mean of.
    pub(super) fn by_sample(&self) -> Result<(Vec<f32>, &[u32])> {
        let losses = ops::read(&self.rows, |rows| {
            let samples = rows.chunks_exact(self.rows_per_sample).zip(&self.counted);
            let mean = |(rows, count): (&[f32], &u32)| {
                (rows.iter().map(|loss| f64::from(*loss)).sum::<f64>() / f64::from(*count)) as f32
            };
            samples.map(mean).collect()
        })?;
        Ok((losses, &self.counted))
    }
}

/// How many rows of each sample were right: the largest output (the first of equal ones) was the label's. `None` where
/// outputs are no choice between classes.
pub(super) fn correct_rows(outputs: &Tensor, labels: &Labels) -> Result<Option<Vec<u32>>> {
    let (Labels::Classes(classes) | Labels::Tokens { next: classes, .. }) = labels else { return Ok(None) };
    let width = outputs.dim(1)?;
    let correct: Vec<bool> = ops::read(outputs, |outputs| {
        let rows = outputs.par_chunks_exact(width).zip(classes.par_iter());
        rows.map(|(row, label)| largest(row) == *label as usize).collect()
    })?;
    let count = |rows: &[bool]| rows.iter().filter(|correct| **correct).count() as u32;
    Ok(Some(correct.chunks_exact(labels.rows_per_sample()).map(count).collect()))
}

/// Position of the first largest value.
fn largest(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (position, value)| if *value > row[best] { position } else { best })
}
