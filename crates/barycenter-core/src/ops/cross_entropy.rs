//! Softmax cross-entropy with label smoothing.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::functions::exp;
use super::graph::{Graph, Node, Operation};
use super::rows::{largest, sum_of_products};
use super::simd::kernel;
use super::storage::{read, tensor};

/// Stands in place of a label that is left out, as `ignore_index` does in `PyTorch`.
pub const NO_LABEL: u32 = u32::MAX;

/// Loss of each row: `logits` [rows, classes] and one label a row give `[rows]`; 0 for [`NO_LABEL`].
///
/// With smoothing `s` the target is `1 - s` on the label plus `s / classes` on every class, as in `PyTorch`'s
/// `CrossEntropyLoss(label_smoothing=s)`. Errors where the number of labels differs or a label is no class.
pub fn cross_entropy(graph: &Graph, logits: &Tensor, labels: Arc<[u32]>, label_smoothing: f64) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    if labels.len() != rows {
        bail!("cross-entropy: {rows} rows of logits, {} labels", labels.len());
    }
    if let Some(label) = labels.iter().find(|label| **label as usize >= classes && **label != NO_LABEL) {
        bail!("cross-entropy: label {label} of {classes} classes");
    }
    let normalisers: Vec<Normaliser> = read(logits, |logits| logits.par_chunks(classes).map(normaliser).collect())?;
    let losses = read(logits, |logits| {
        let rows = logits.chunks_exact(classes).zip(labels.iter()).zip(&normalisers);
        rows.map(|((row, label), normaliser)| normaliser.loss(row, *label, label_smoothing) as f32).collect()
    })?;
    let output = tensor(losses, &[rows])?;
    graph.record(CrossEntropy { labels, label_smoothing, normalisers }, &[logits], &output);
    Ok(output)
}

/// What turns the logits of a row into logarithms of probabilities: they are `logit - largest - log_of_sum`.
#[derive(Clone, Copy)]
struct Normaliser {
    largest: f32,
    /// Logarithm of the sum of `exp(logit - largest)`, which cannot overflow.
    log_of_sum: f64,
}

impl Normaliser {
    /// `-Σ target · log softmax` of a row.
    fn loss(self, logits: &[f32], label: u32, smoothing: f64) -> f64 {
        if label == NO_LABEL {
            return 0.0;
        }
        let log_sum = f64::from(self.largest) + self.log_of_sum;
        let on_label = log_sum - f64::from(logits[label as usize]);
        if smoothing == 0.0 {
            return on_label;
        }
        let mean_logit = logits.iter().map(|logit| f64::from(*logit)).sum::<f64>() / logits.len() as f64;
        (1.0 - smoothing) * on_label + smoothing * (log_sum - mean_logit)
    }
}

kernel! {
    /// The exponentials are `f32` (relative error below 1.5e-7), their sum is taken in `f64`.
    fn normaliser<A>(row: &[f32]) -> Normaliser {
        let largest = largest(row);
        let sum = sum_of_products::<A, _>(row, row, |logit, _| (exp::<A>(logit - largest), 1.0));
        Normaliser { largest, log_of_sum: sum.ln() }
    }
}

kernel! {
    /// Turns logits into `factor * (probability - spread)`.
    fn slopes<A>(row: &mut [f32], normaliser: Normaliser, factor: f32, spread: f32) {
        let log_of_sum = normaliser.log_of_sum as f32;
        for logit in row {
            *logit = factor * (exp::<A>(*logit - normaliser.largest - log_of_sum) - spread);
        }
    }
}

struct CrossEntropy {
    labels: Arc<[u32]>,
    label_smoothing: f64,
    /// Of each row.
    normalisers: Vec<Normaliser>,
}

impl Operation for CrossEntropy {
    fn backward(&self, node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let logits = &node.inputs[0];
        let classes = logits.dim(1)?;
        let spread = (self.label_smoothing / classes as f64) as f32;
        let on_label = (1.0 - self.label_smoothing) as f32;
        let mut result = read(logits, <[f32]>::to_vec)?;
        let rows = result.par_chunks_mut(classes).zip(&gradient).zip(&self.normalisers).zip(self.labels.par_iter());
        rows.for_each(|(((row, gradient), normaliser), label)| {
            if *label == NO_LABEL {
                row.fill(0.0);
                return;
            }
            slopes(row, *normaliser, *gradient, spread);
            row[*label as usize] -= gradient * on_label;
        });
        Ok(vec![Some(result)])
    }
}
