//! Rows scaled to length 1.

use candle_core::{Result, Tensor};

use super::graph::{Graph, Node, Operation};
use super::storage::{read, read_two, tensor};

/// `x / |x|` of each row of `inputs` [rows, width]; lengths are summed in `f64`. A row of zeros gives NaN, as in `PyTorch`.
pub fn unit_rows(graph: &Graph, inputs: &Tensor) -> Result<Tensor> {
    let (_, width) = inputs.dims2()?;
    let scaled = |inputs: &[f32]| {
        let rows = inputs.chunks_exact(width).map(|row| (row, length(row)));
        rows.flat_map(|(row, length)| row.iter().map(move |x| (f64::from(*x) / length) as f32)).collect()
    };
    let output = tensor(read(inputs, scaled)?, inputs.dims())?;
    graph.record(UnitRows { width }, &[inputs], &output);
    Ok(output)
}

fn dot(left: &[f32], right: &[f32]) -> f64 {
    left.iter().zip(right).map(|(l, r)| f64::from(*l) * f64::from(*r)).sum()
}

fn length(row: &[f32]) -> f64 {
    dot(row, row).sqrt()
}

struct UnitRows {
    width: usize,
}

impl Operation for UnitRows {
    /// `(g - y (y · g)) / |x|`: what changes the length alone has no effect.
    fn backward(&self, node: &Node, mut gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        read_two(&node.inputs[0], &node.output, |inputs, outputs| {
            let rows = inputs.chunks_exact(self.width).zip(outputs.chunks_exact(self.width));
            for (gradient, (inputs, outputs)) in gradient.chunks_exact_mut(self.width).zip(rows) {
                let (along, length) = (dot(outputs, gradient), length(inputs));
                for (gradient, output) in gradient.iter_mut().zip(outputs) {
                    *gradient = ((f64::from(*gradient) - f64::from(*output) * along) / length) as f32;
                }
            }
        })?;
        Ok(vec![Some(gradient)])
    }
}
