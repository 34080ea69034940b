//! Scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762) of several heads, straight from packed projections.
//!
//! Between the passes only the log-sum of each row of scores is kept; the backward pass computes the scores again, a block of
//! queries at a time (the idea of Rabe and Staats 2021, arXiv 2112.05682, and Dao et al. 2022, arXiv 2205.14135).

use candle_core::{Result, Tensor, bail};
use gemm::Parallelism;
use rayon::prelude::*;

use super::functions::exp;
use super::graph::{Graph, Node, Operation};
use super::matrix::{Matrix, Write, multiply, multiply_into};
use super::rows::{LANES, largest, pairwise, sum_of_products};
use super::simd::kernel;
use super::storage::{read, read_two, tensor};

/// Most queries a block holds: their scores stay in the cache, and causal blocks skip the keys that none of them sees.
const QUERIES: usize = 128;
const CAUSAL_QUERIES: usize = 64;

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionForm {
    /// Positions of one sequence; the rows of the input are sequences one after the other.
    pub positions: usize,
    /// Heads, each with an equal part of the width.
    pub heads: usize,
    /// Whether a position sees itself and those before it, and no others.
    pub causal: bool,
}

/// `softmax(Q Kᵀ / √d) V` of each head, where `packed` [batch · positions, 3 · width] holds queries, keys and values beside each
/// other, and each of them the heads beside each other. The result, [batch · positions, width], has the heads beside each other.
pub fn attention(graph: &Graph, packed: &Tensor, form: AttentionForm) -> Result<Tensor> {
    let (rows, columns) = packed.dims2()?;
    let AttentionForm { positions, heads, .. } = form;
    if positions == 0 || heads == 0 || !rows.is_multiple_of(positions) || !columns.is_multiple_of(3 * heads) {
        bail!("attention: packed {rows}x{columns}, {positions} positions, {heads} heads");
    }
    let width = columns / 3;
    let shape = Shape { form, width, depth: width / heads };
    let (mut result, mut log_sums) = (vec![0.0; rows * width], vec![0.0; rows * heads]);
    read(packed, |packed| {
        let samples = result.par_chunks_mut(positions * width).zip(packed.par_chunks(positions * columns));
        let samples = samples.zip(log_sums.par_chunks_mut(positions * heads));
        samples.for_each(|((result, packed), log_sums)| shape.forward(packed, result, log_sums));
    })?;
    let output = tensor(result, &[rows, width])?;
    graph.record(Attention { shape, log_sums }, &[packed], &output);
    Ok(output)
}

#[derive(Clone, Copy)]
struct Shape {
    form: AttentionForm,
    width: usize,
    /// Width of a head.
    depth: usize,
}

/// A run of queries and the number of keys that one of them at least sees.
#[derive(Clone, Copy)]
struct Block {
    start: usize,
    queries: usize,
    keys: usize,
}

impl Shape {
    /// The blocks of queries, of nearly equal size.
    fn blocks(self) -> impl Iterator<Item = Block> {
        let AttentionForm { positions, causal, .. } = self.form;
        let most = if causal { CAUSAL_QUERIES } else { QUERIES };
        let queries = positions.div_ceil(positions.div_ceil(most));
        (0..positions).step_by(queries).map(move |start| {
            let end = (start + queries).min(positions);
            Block { start, queries: end - start, keys: if causal { end } else { positions } }
        })
    }

    /// The first of the keys that query 0 of a block does not see, or all keys.
    fn seen(self, block: Block) -> Option<usize> {
        self.form.causal.then_some(block.start + 1)
    }

    fn scale(self) -> f32 {
        (1.0 / (self.depth as f64).sqrt()) as f32
    }

    /// Part 0, 1 or 2 (queries, keys, values) of a head, from row `start` on.
    fn part(self, packed: &[f32], (part, head): (usize, usize), start: usize, rows: usize) -> Matrix<'_> {
        let offset = start * 3 * self.width + part * self.width + head * self.depth;
        Matrix::strided(&packed[offset..], rows, self.depth, 3 * self.width)
    }

    /// `Q Kᵀ` of a block.
    fn scores(self, packed: &[f32], head: usize, block: Block, scores: &mut [f32]) {
        let queries = self.part(packed, (0, head), block.start, block.queries);
        let keys = self.part(packed, (1, head), 0, block.keys).transposed();
        multiply(scores, queries, keys, Write::Replace, Parallelism::None);
    }

    /// Attention of one sequence.
    fn forward(self, packed: &[f32], result: &mut [f32], log_sums: &mut [f32]) {
        let mut buffer = vec![0.0; self.buffer_length()];
        for (head, log_sums) in log_sums.chunks_exact_mut(self.form.positions).enumerate() {
            for block in self.blocks() {
                let scores = &mut buffer[..block.queries * block.keys];
                self.scores(packed, head, block, scores);
                let log_sums = &mut log_sums[block.start..block.start + block.queries];
                softmax_rows(scores, block.keys, self.seen(block), self.scale(), log_sums);
                let values = self.part(packed, (2, head), 0, block.keys);
                let probabilities = Matrix::new(scores, block.queries, block.keys);
                let result = &mut result[block.start * self.width + head * self.depth..];
                multiply_into((result, self.width), probabilities, values, Write::Replace, Parallelism::None);
            }
        }
    }

    /// Gradient of the packed projections of one sequence, from that of the result.
    fn backward(self, packed: &[f32], (result, gradient): (&[f32], &[f32]), log_sums: &[f32], of_packed: &mut [f32]) {
        let (mut probabilities, mut slopes) = (vec![0.0; self.buffer_length()], vec![0.0; self.buffer_length()]);
        for (head, log_sums) in log_sums.chunks_exact(self.form.positions).enumerate() {
            for block in self.blocks() {
                let length = block.queries * block.keys;
                let (probabilities, slopes) = (&mut probabilities[..length], &mut slopes[..length]);
                self.scores(packed, head, block, probabilities);
                let start = block.start * self.width + head * self.depth;
                let of_result = Matrix::strided(&gradient[start..], block.queries, self.depth, self.width);
                let values = self.part(packed, (2, head), 0, block.keys);
                multiply(slopes, of_result, values.transposed(), Write::Replace, Parallelism::None);
                let rows = Rows {
                    result: &result[start..],
                    gradient: &gradient[start..],
                    stride: self.width,
                    depth: self.depth,
                };
                let log_sums = &log_sums[block.start..block.start + block.queries];
                score_slopes((probabilities, slopes), block.keys, self.seen(block), self.scale(), log_sums, rows);
                self.spread(packed, head, block, (probabilities, slopes, of_result), of_packed);
            }
        }
    }

    /// Adds a block's part to the gradients of queries, keys and values.
    fn spread(
        self,
        packed: &[f32],
        head: usize,
        block: Block,
        (probabilities, slopes, of_result): (&[f32], &[f32], Matrix<'_>),
        of_packed: &mut [f32],
    ) {
        let stride = 3 * self.width;
        let matrix = |elements| Matrix::new(elements, block.queries, block.keys);
        let mut write = |part: usize, start: usize, left, right| {
            let destination = &mut of_packed[start * stride + part * self.width + head * self.depth..];
            multiply_into((destination, stride), left, right, Write::Accumulate, Parallelism::None);
        };
        write(0, block.start, matrix(slopes), self.part(packed, (1, head), 0, block.keys));
        write(1, 0, matrix(slopes).transposed(), self.part(packed, (0, head), block.start, block.queries));
        write(2, 0, matrix(probabilities).transposed(), of_result);
    }

    fn buffer_length(self) -> usize {
        self.blocks().map(|block| block.queries * block.keys).max().unwrap_or(0)
    }
}

/// The rows of some queries of one head, in result and gradient.
#[derive(Clone, Copy)]
struct Rows<'a> {
    result: &'a [f32],
    gradient: &'a [f32],
    stride: usize,
    depth: usize,
}

kernel! {
    /// Softmax of each row of `scale * scores` over the keys it sees (all, or `seen` in the first row and one more in each
    /// that follows); other keys get 0. `log_sums` receives the logarithm of each row's sum of exponentials.
    fn softmax_rows<A>(scores: &mut [f32], keys: usize, seen: Option<usize>, scale: f32, log_sums: &mut [f32]) {
        for (index, (row, log_sum)) in scores.chunks_exact_mut(keys).zip(log_sums).enumerate() {
            let (row, unseen) = row.split_at_mut(seen.map_or(keys, |seen| seen + index));
            unseen.fill(0.0);
            let shift = scale * largest(row);
            let mut sums = [0.0_f32; LANES];
            let (chunks, rest) = row.as_chunks_mut::<LANES>();
            for chunk in chunks {
                for (value, sum) in chunk.iter_mut().zip(&mut sums) {
                    *value = exp::<A>(A::multiply_add(*value, scale, -shift));
                    *sum += *value;
                }
            }
            for (value, sum) in rest.iter_mut().zip(&mut sums) {
                *value = exp::<A>(A::multiply_add(*value, scale, -shift));
                *sum += *value;
            }
            let sum = pairwise(sums);
            let share = 1.0 / sum;
            for value in row {
                *value *= share;
            }
            *log_sum = shift + sum.ln();
        }
    }
}

kernel! {
    /// From scores `s` and the gradient of the probabilities `p`: turns the first into `p = exp(scale s - log_sum)` and the
    /// second into the gradient of `s`, `scale p (∂p - Σ p ∂p)`, where `Σ p ∂p` is the product of result and gradient.
    fn score_slopes<A>(
        scores: (&mut [f32], &mut [f32]),
        keys: usize,
        seen: Option<usize>,
        scale: f32,
        log_sums: &[f32],
        rows: Rows<'_>,
    ) {
        let blocks = scores.0.chunks_exact_mut(keys).zip(scores.1.chunks_exact_mut(keys));
        for (index, ((scores, slopes), log_sum)) in blocks.zip(log_sums).enumerate() {
            let row = |elements| -> &[f32] { &<[f32]>::split_at(elements, index * rows.stride).1[..rows.depth] };
            let mean = sum_of_products::<A, _>(row(rows.result), row(rows.gradient), |a, b| (a, b)) as f32;
            let visible = seen.map_or(keys, |seen| seen + index);
            let (scores, unseen_scores) = scores.split_at_mut(visible);
            let (slopes, unseen_slopes) = slopes.split_at_mut(visible);
            unseen_scores.fill(0.0);
            unseen_slopes.fill(0.0);
            for (score, slope) in scores.iter_mut().zip(slopes) {
                *score = exp::<A>(A::multiply_add(*score, scale, -*log_sum));
                *slope = scale * *score * (*slope - mean);
            }
        }
    }
}

struct Attention {
    shape: Shape,
    /// Of each query of each head of each sequence.
    log_sums: Vec<f32>,
}

impl Operation for Attention {
    fn backward(&self, node: &Node, gradient: Vec<f32>) -> Result<Vec<Option<Vec<f32>>>> {
        let Shape { form: AttentionForm { positions, heads, .. }, width, .. } = self.shape;
        let mut of_packed = vec![0.0; 3 * gradient.len()];
        read_two(&node.inputs[0], &node.output, |packed, result| {
            let samples = of_packed.par_chunks_mut(positions * 3 * width).zip(packed.par_chunks(positions * 3 * width));
            let results = result.par_chunks(positions * width).zip(gradient.par_chunks(positions * width));
            let samples = samples.zip(results).zip(self.log_sums.par_chunks(positions * heads));
            samples.for_each(|(((of_packed, packed), results), log_sums)| {
                self.shape.backward(packed, results, log_sums, of_packed);
            });
        })?;
        Ok(vec![Some(of_packed)])
    }
}
