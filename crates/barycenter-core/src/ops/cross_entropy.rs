//! Softmax cross-entropy with label smoothing.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::graph::{Graph, Node, Operation};
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
    let operation = CrossEntropy { labels, label_smoothing };
    let losses = read(logits, |logits| {
        let rows = logits.par_chunks(classes).zip(operation.labels.par_iter());
        rows.map(|(row, label)| operation.loss(row, *label) as f32).collect()
    })?;
    let output = tensor(losses, &[rows])?;
    graph.record(operation, &[logits], &output);
    Ok(output)
}

struct CrossEntropy {
    labels: Arc<[u32]>,
    label_smoothing: f64,
}

impl CrossEntropy {
    /// `-Σ target · log softmax` of one row, in `f64`.
    fn loss(&self, logits: &[f32], label: u32) -> f64 {
        if label == NO_LABEL {
            return 0.0;
        }
        let log_sum = log_sum_exp(logits);
        let on_label = log_sum - f64::from(logits[label as usize]);
        if self.label_smoothing == 0.0 {
            return on_label;
        }
        let mean_logit = logits.iter().map(|logit| f64::from(*logit)).sum::<f64>() / logits.len() as f64;
        (1.0 - self.label_smoothing) * on_label + self.label_smoothing * (log_sum - mean_logit)
    }
}

/// `log Σ exp`, shifted by the largest logit so that it cannot overflow.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum::<f64>().ln()
}

impl Operation for CrossEntropy {
    fn backward(&self, node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let logits = &node.inputs[0];
        let classes = logits.dim(1)?;
        let spread = self.label_smoothing / classes as f64;
        let mut result = read(logits, <[f32]>::to_vec)?;
        let rows = result.par_chunks_mut(classes).zip(&gradient).zip(self.labels.par_iter());
        rows.for_each(|((row, gradient), label)| {
            if *label == NO_LABEL {
                row.fill(0.0);
                return;
            }
            let log_sum = log_sum_exp(row);
            for (class, logit) in row.iter_mut().enumerate() {
                let on_label = if class == *label as usize { 1.0 - self.label_smoothing } else { 0.0 };
                let probability = (f64::from(*logit) - log_sum).exp();
                *logit = (f64::from(*gradient) * (probability - on_label - spread)) as f32;
            }
        });
        Ok(vec![Some(result)])
    }
}
