//! Rows of a table by token, with the embedding of the position added.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::graph::{Graph, Node, Operation};
use super::storage::{read_two, tensor};

/// Rows of the table a task gathers gradients for.
const ROWS: usize = 64;

/// `tokens[token] + places[position]` of each token of each sequence: [batch, length] tokens, given row by row, a table
/// `tokens` [vocabulary, width] and a table `places` [positions, width] give [batch · length, width].
///
/// Errors where a token is not in the vocabulary or a sequence is longer than `places`.
pub fn embedding(
    graph: &Graph,
    indices: Arc<[u32]>,
    length: usize,
    (tokens, places): (&Tensor, &Tensor),
) -> Result<Tensor> {
    let ((vocabulary, width), (positions, places_width)) = (tokens.dims2()?, places.dims2()?);
    if width != places_width || length == 0 || length > positions || !indices.len().is_multiple_of(length) {
        let count = indices.len();
        bail!("embedding: {count} tokens of length {length}, tables {:?} and {:?}", tokens.dims(), places.dims());
    }
    if let Some(token) = indices.iter().find(|token| **token as usize >= vocabulary) {
        bail!("embedding: token {token} of a vocabulary of {vocabulary}");
    }
    let mut result = vec![0.0; indices.len() * width];
    read_two(tokens, places, |tokens, places| {
        result.par_chunks_mut(length * width).zip(indices.par_chunks(length)).for_each(|(result, indices)| {
            for ((row, token), place) in result.chunks_exact_mut(width).zip(indices).zip(places.chunks_exact(width)) {
                let token = &tokens[*token as usize * width..];
                for ((value, token), place) in row.iter_mut().zip(token).zip(place) {
                    *value = token + place;
                }
            }
        });
    })?;
    let output = tensor(result, &[indices.len(), width])?;
    graph.record(Embedding { indices, length, width }, &[tokens, places], &output);
    Ok(output)
}

struct Embedding {
    indices: Arc<[u32]>,
    length: usize,
    width: usize,
}

impl Embedding {
    /// Each row of the table receives the gradients of its tokens, in the order of the tokens.
    fn of_tokens(&self, vocabulary: usize, gradient: &[f32]) -> Vec<f32> {
        let mut of_tokens = vec![0.0; vocabulary * self.width];
        of_tokens.par_chunks_mut(ROWS * self.width).enumerate().for_each(|(piece, rows)| {
            for (token, gradient) in self.indices.iter().zip(gradient.chunks_exact(self.width)) {
                let Some(row) = (*token as usize).checked_sub(piece * ROWS).filter(|row| *row < ROWS) else { continue };
                add(&mut rows[row * self.width..(row + 1) * self.width], gradient);
            }
        });
        of_tokens
    }

    /// Sum over the sequences, in order.
    fn of_places(&self, positions: usize, gradient: &[f32]) -> Vec<f32> {
        let mut of_places = vec![0.0; positions * self.width];
        of_places.par_chunks_mut(self.width).take(self.length).enumerate().for_each(|(position, row)| {
            for sequence in gradient.chunks_exact(self.length * self.width) {
                add(row, &sequence[position * self.width..(position + 1) * self.width]);
            }
        });
        of_places
    }
}

fn add(sum: &mut [f32], values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += value;
    }
}

impl Operation for Embedding {
    fn backward(&self, node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let (vocabulary, positions) = (node.inputs[0].dim(0)?, node.inputs[1].dim(0)?);
        Ok(vec![
            node.wanted[0].then(|| self.of_tokens(vocabulary, &gradient)),
            node.wanted[1].then(|| self.of_places(positions, &gradient)),
        ])
    }
}
