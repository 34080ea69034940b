//! `y = x Wᵀ + b`.

use candle_core::{Result, Tensor, bail};

use super::channels::column_sums;
use super::graph::{Graph, Node, Operation};
use super::matrix::{Matrix, Write, all_threads, multiply};
use super::plan::Needs;
use super::storage::{read, read_two, tensor};

/// Linear layer: `inputs` [batch, in], `weight` [out, in], `bias` `[out]` give [batch, out].
pub fn linear(graph: &Graph, inputs: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (batch, width) = inputs.dims2()?;
    let (outputs, weight_width) = weight.dims2()?;
    if width != weight_width || bias.dims() != [outputs] {
        bail!("linear: inputs {batch}x{width}, weight {outputs}x{weight_width}, bias {:?}", bias.dims());
    }
    if let Some(planned) = graph.planned(&[inputs, weight, bias], &[batch, outputs], Needs::default()) {
        return planned;
    }
    let mut result = read(bias, |bias| bias.repeat(batch))?;
    read_two(inputs, weight, |inputs, weight| {
        let (left, right) = (Matrix::new(inputs, batch, width), Matrix::new(weight, outputs, width).transposed());
        multiply(&mut result, left, right, Write::Accumulate, all_threads());
    })?;
    let output = tensor(result, &[batch, outputs])?;
    graph.record(Linear { batch, width, outputs }, &[inputs, weight, bias], &output);
    Ok(output)
}

struct Linear {
    batch: usize,
    width: usize,
    outputs: usize,
}

impl Operation for Linear {
    fn backward(&self, node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let Self { batch, width, outputs } = *self;
        let gradient_matrix = Matrix::new(&gradient, batch, outputs);
        let product = |length, left, elements: &Tensor, rows| {
            let mut product = vec![0.0; length];
            read(elements, |elements| {
                multiply(&mut product, left, Matrix::new(elements, rows, width), Write::Replace, all_threads());
            })?;
            Ok::<_, candle_core::Error>(product)
        };
        let of_inputs = || product(batch * width, gradient_matrix, &node.inputs[1], outputs);
        let of_weight = || product(outputs * width, gradient_matrix.transposed(), &node.inputs[0], batch);
        Ok(vec![
            node.wanted[0].then(of_inputs).transpose()?,
            node.wanted[1].then(of_weight).transpose()?,
            node.wanted[2].then(|| column_sums(&gradient, outputs)),
        ])
    }
}
