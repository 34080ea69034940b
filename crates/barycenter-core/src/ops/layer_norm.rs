//! Layer normalisation (Ba, Kiros and Hinton 2016, arXiv 1607.06450) of each row.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::graph::{Graph, Node, Operation};
use super::rows::sum_of_products;
use super::simd::kernel;
use super::storage::{read, read_two, tensor};

/// Rows a task works on.
const ROWS: usize = 32;

/// `weight * (x - mean) / sqrt(variance + epsilon) + bias` of each row of `inputs` [rows, width].
///
/// Mean and variance (divided by the width, about the mean) are summed in runs of 512 elements whose sums are added in `f64`.
/// Kept for the backward pass are the inputs and two numbers a row.
pub fn layer_norm(graph: &Graph, inputs: &Tensor, (weight, bias): (&Tensor, &Tensor), epsilon: f64) -> Result<Tensor> {
    let (rows, width) = inputs.dims2()?;
    if weight.dims() != [width] || bias.dims() != [width] || width == 0 {
        bail!("layer norm: inputs {rows}x{width}, weight {:?}, bias {:?}", weight.dims(), bias.dims());
    }
    let (mut result, mut statistics) = (vec![0.0; rows * width], vec![[0.0; 2]; rows]);
    read(inputs, |inputs| {
        read_two(weight, bias, |weight, bias| {
            let pieces = result.par_chunks_mut(ROWS * width).zip(inputs.par_chunks(ROWS * width));
            pieces.zip(statistics.par_chunks_mut(ROWS)).for_each(|((result, inputs), statistics)| {
                normalise(inputs, (weight, bias), epsilon, result, statistics);
            });
        })
    })??;
    let output = tensor(result, &[rows, width])?;
    graph.record(LayerNorm { width, statistics }, &[inputs, weight, bias], &output);
    Ok(output)
}

kernel! {
    /// Normalises rows; `statistics` receives mean and inverse deviation of each.
    fn normalise<A>(
        inputs: &[f32],
        affine: (&[f32], &[f32]),
        epsilon: f64,
        result: &mut [f32],
        statistics: &mut [[f32; 2]],
    ) {
        let width = affine.0.len();
        let rows = inputs.chunks_exact(width).zip(result.chunks_exact_mut(width)).zip(statistics);
        for ((row, result), statistics) in rows {
            let mean = (sum_of_products::<A, _>(row, row, |x, _| (x, 1.0)) / width as f64) as f32;
            let squares = sum_of_products::<A, _>(row, row, |x, _| (x - mean, x - mean));
            let inverse = (1.0 / (squares / width as f64 + epsilon).sqrt()) as f32;
            *statistics = [mean, inverse];
            for (((result, x), weight), bias) in result.iter_mut().zip(row).zip(affine.0).zip(affine.1) {
                *result = A::multiply_add((x - mean) * inverse, *weight, *bias);
            }
        }
    }
}

kernel! {
    /// Turns the gradient of some rows of the output into that of the inputs, `(g w - mean(g w) - x̂ mean(g w x̂)) / σ`, and
    /// adds `g x̂` and `g` of each column to `sums`.
    fn pass_back<A>(
        inputs: &[f32],
        weight: &[f32],
        statistics: &[[f32; 2]],
        gradient: &mut [f32],
        sums: (&mut [f32], &mut [f32]),
    ) {
        let width = weight.len();
        let mut scaled = vec![0.0; width];
        let mut normal = vec![0.0; width];
        let rows = inputs.chunks_exact(width).zip(gradient.chunks_exact_mut(width)).zip(statistics);
        for ((row, gradient), [mean, inverse]) in rows {
            let columns = scaled.iter_mut().zip(normal.iter_mut()).zip(row).zip(gradient.iter()).zip(weight);
            let sums = sums.0.iter_mut().zip(sums.1.iter_mut());
            for (((((scaled, normal), x), g), weight), (of_weight, of_bias)) in columns.zip(sums) {
                *normal = (x - mean) * inverse;
                *scaled = g * weight;
                *of_weight = A::multiply_add(*g, *normal, *of_weight);
                *of_bias += g;
            }
            let along_ones = (sum_of_products::<A, _>(&scaled, &scaled, |g, _| (g, 1.0)) / width as f64) as f32;
            let along_normal = (sum_of_products::<A, _>(&scaled, &normal, |g, x| (g, x)) / width as f64) as f32;
            for ((gradient, scaled), normal) in gradient.iter_mut().zip(&scaled).zip(&normal) {
                *gradient = inverse * A::multiply_add(*normal, -along_normal, scaled - along_ones);
            }
        }
    }
}

struct LayerNorm {
    width: usize,
    /// Mean and inverse deviation of each row.
    statistics: Vec<[f32; 2]>,
}

impl Operation for LayerNorm {
    fn backward(&self, node: &Node, mut gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let width = self.width;
        let partial: Vec<(Vec<f32>, Vec<f32>)> = read_two(&node.inputs[0], &node.inputs[1], |inputs, weight| {
            let pieces = gradient.par_chunks_mut(ROWS * width).zip(inputs.par_chunks(ROWS * width));
            let pieces = pieces.zip(self.statistics.par_chunks(ROWS));
            let sums = pieces.map(|((gradient, inputs), statistics)| {
                let (mut of_weight, mut of_bias) = (vec![0.0; width], vec![0.0; width]);
                pass_back(inputs, weight, statistics, gradient, (&mut of_weight, &mut of_bias));
                (of_weight, of_bias)
            });
            sums.collect()
        })?;
        let of_weight = added(partial.iter().map(|(of_weight, _)| of_weight), width);
        let of_bias = added(partial.iter().map(|(_, of_bias)| of_bias), width);
        let gradients = [gradient, of_weight, of_bias].into_iter().zip(&node.wanted);
        Ok(gradients.map(|(gradient, wanted)| wanted.then_some(gradient)).collect())
    }
}

/// Sum of the pieces' sums, in order, in `f64`.
fn added<'a>(pieces: impl Iterator<Item = &'a Vec<f32>>, width: usize) -> Vec<f32> {
    let mut total = vec![0.0_f64; width];
    for piece in pieces {
        for (total, value) in total.iter_mut().zip(piece) {
            *total += f64::from(*value);
        }
    }
    total.into_iter().map(|sum| sum as f32).collect()
}
