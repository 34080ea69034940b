//! Sequences with a class token in front: how they are put together, and how the token is taken out again.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::graph::{Graph, Node, Operation};
use super::storage::{read, read_two, tensor};

/// Puts `class` (`width` elements) in front of the tokens of each sample, [batch · (length - 1), width], and adds `places`
/// (`length · width` elements) to every sequence: [batch · length, width].
pub fn with_class_token(graph: &Graph, tokens: &Tensor, class: &Tensor, places: &Tensor) -> Result<Tensor> {
    let (rows, width) = tokens.dims2()?;
    let length = places.elem_count() / width.max(1);
    let fits = class.elem_count() == width && places.elem_count() == length * width;
    if length < 2 || !fits || !rows.is_multiple_of(length - 1) {
        bail!("class token: tokens {rows}x{width}, class {:?}, positions {:?}", class.dims(), places.dims());
    }
    let batch = rows / (length - 1);
    let mut result = vec![0.0; batch * length * width];
    read_two(class, places, |class, places| {
        read(tokens, |tokens| {
            let samples = result.par_chunks_mut(length * width).zip(tokens.par_chunks((length - 1) * width));
            samples.for_each(|(result, tokens)| {
                let sequence = class.iter().chain(tokens).zip(places);
                for (value, (token, place)) in result.iter_mut().zip(sequence) {
                    *value = token + place;
                }
            });
        })
    })??;
    let output = tensor(result, &[batch * length, width])?;
    graph.record(WithClassToken { length, width }, &[tokens, class, places], &output);
    Ok(output)
}

struct WithClassToken {
    length: usize,
    width: usize,
}

impl Operation for WithClassToken {
    fn backward(&self, node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let Self { length, width } = *self;
        let of_tokens = || {
            let mut result = vec![0.0; node.inputs[0].elem_count()];
            let samples = result.par_chunks_mut((length - 1) * width).zip(gradient.par_chunks(length * width));
            samples.for_each(|(result, gradient)| result.copy_from_slice(&gradient[width..]));
            result
        };
        let of_tokens = node.wanted[0].then(of_tokens);
        let mut of_places = vec![0.0; length * width];
        of_places.par_chunks_mut(width).enumerate().for_each(|(position, row)| {
            let mut sums = vec![0.0_f64; width];
            for sample in gradient.chunks_exact(length * width) {
                for (sum, value) in sums.iter_mut().zip(&sample[position * width..]) {
                    *sum += f64::from(*value);
                }
            }
            for (value, sum) in row.iter_mut().zip(sums) {
                *value = sum as f32;
            }
        });
        let of_class = node.wanted[1].then(|| of_places[..width].to_vec());
        Ok(vec![of_tokens, of_class, node.wanted[2].then_some(of_places)])
    }
}

/// The first row of each sequence: [batch · length, width] gives [batch, width].
pub fn class_token(graph: &Graph, sequences: &Tensor, length: usize) -> Result<Tensor> {
    let (rows, width) = sequences.dims2()?;
    if length == 0 || !rows.is_multiple_of(length) {
        bail!("class token: {rows} rows are no sequences of {length}");
    }
    let first = |sequences: &[f32]| sequences.chunks_exact(length * width).flat_map(|s| &s[..width]).copied().collect();
    let output = tensor(read(sequences, first)?, &[rows / length, width])?;
    graph.record(ClassToken { length, width }, &[sequences], &output);
    Ok(output)
}

struct ClassToken {
    length: usize,
    width: usize,
}

impl Operation for ClassToken {
    fn backward(&self, node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let mut spread = vec![0.0; node.inputs[0].elem_count()];
        let sequences = spread.chunks_exact_mut(self.length * self.width);
        for (sequence, gradient) in sequences.zip(gradient.chunks_exact(self.width)) {
            sequence[..self.width].copy_from_slice(gradient);
        }
        Ok(vec![Some(spread)])
    }
}
