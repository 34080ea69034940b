//! Squared error.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::graph::{Graph, Node, Operation};
use super::storage::{read, tensor};

/// Loss of each sample: `outputs` [batch, k] and as many `targets`, row-major, give `[batch]`, the mean of `(y - t)²` over
/// the k outputs; its mean over the batch is `PyTorch`'s `MSELoss`. Errors where the number of targets differs.
pub fn squared_error(graph: &Graph, outputs: &Tensor, targets: Arc<[f32]>) -> Result<Tensor> {
    let (batch, count) = outputs.dims2()?;
    if count == 0 || targets.len() != batch * count {
        bail!("squared error: outputs {batch}x{count}, {} targets", targets.len());
    }
    let losses = read(outputs, |outputs| {
        let rows = outputs.par_chunks(count).zip(targets.par_chunks(count));
        rows.map(|(outputs, targets)| mean_square(outputs, targets) as f32).collect()
    })?;
    let output = tensor(losses, &[batch])?;
    graph.record(SquaredError { targets }, &[outputs], &output);
    Ok(output)
}

fn mean_square(outputs: &[f32], targets: &[f32]) -> f64 {
    let squares = outputs.iter().zip(targets).map(|(output, target)| (f64::from(*output) - f64::from(*target)).powi(2));
    squares.sum::<f64>() / outputs.len() as f64
}

struct SquaredError {
    targets: Arc<[f32]>,
}

impl Operation for SquaredError {
    fn backward(&self, node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let outputs = &node.inputs[0];
        let count = outputs.dim(1)?;
        let mut result = read(outputs, <[f32]>::to_vec)?;
        let rows = result.par_chunks_mut(count).zip(self.targets.par_chunks(count)).zip(&gradient);
        rows.for_each(|((outputs, targets), gradient)| {
            let scale = 2.0 * f64::from(*gradient) / count as f64;
            for (output, target) in outputs.iter_mut().zip(targets) {
                *output = (scale * (f64::from(*output) - f64::from(*target))) as f32;
            }
        });
        Ok(vec![Some(result)])
    }
}
