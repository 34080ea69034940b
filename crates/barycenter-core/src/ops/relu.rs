//! `ReLU`, with gradient 0 at 0 as in `PyTorch` (candle's own has 1 there).

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::graph::{Graph, Node, Operation};
use super::plan::Needs;
use super::storage::{read, tensor};
use crate::processor::{Processor, for_processor};

/// Elements a task works on.
const PIECE: usize = 16 * 1024;

/// `max(x, 0)`, element by element; a NaN stays one, so that a broken model shows.
pub fn relu(graph: &Graph, inputs: &Tensor) -> Result<Tensor> {
    let needs = Needs { in_place: true, ..Needs::default() };
    if let Some(planned) = graph.planned(&[inputs], inputs.dims(), needs) {
        return planned;
    }
    let mut result = read(inputs, <[f32]>::to_vec)?;
    result.par_chunks_mut(PIECE).for_each(|piece| {
        for value in piece {
            if *value < 0.0 {
                *value = 0.0;
            }
        }
    });
    let output = tensor(result, inputs.dims())?;
    graph.record(Relu, &[inputs], &output);
    Ok(output)
}

struct Relu;

impl Operation for Relu {
    fn backward(&self, node: &Node, mut gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        read(&node.output, |output| {
            gradient.par_chunks_mut(PIECE).zip(output.par_chunks(PIECE)).for_each(|(gradient, output)| {
                mask(gradient, output);
            });
        })?;
        Ok(vec![Some(gradient)])
    }
}

/// Clears the gradient where the output of a `ReLU` is 0.
pub(super) fn mask(gradient: &mut [f32], output: &[f32]) {
    for_processor!(Processor::detected(), mask_plain, (gradient: &mut [f32], output: &[f32]));
}

#[inline(always)]
fn mask_plain(gradient: &mut [f32], output: &[f32]) {
    for (gradient, output) in gradient.iter_mut().zip(output) {
        *gradient = if *output > 0.0 { *gradient } else { 0.0 };
    }
}
