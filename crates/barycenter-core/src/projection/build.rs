//! Building a projection in one pass over the candidates.

use std::collections::HashSet;

use rayon::prelude::*;

use super::{
    GROUP, Projection, Tensor,
    codec::{dot, quantise},
    kernels::{CHUNK, CHUNK_TILES, code_bytes},
};
use crate::{Error, Result, blocks::Blocks, checkpoint::CheckpointFile};

impl Projection {
    /// Builds the projection of checked candidates (`checkpoint::check_candidates`), reading every byte once.
    ///
    /// `averaged` names the tensors in order, the order of `blocks`; `bits` is 1, 2, 4, 8 or 32. `on_tensor` is called
    /// with (tensors done, tensors in all) after each tensor and may end the building with an error. Each thread holds
    /// 16384 columns of all candidates; nothing else is held besides the result.
    ///
    /// # Errors
    /// [`Error::Input`] where `bits` is none of those, `blocks` speaks of other tensors, fewer than two candidates are
    /// given, or a tensor is missing or cannot be averaged; what `on_tensor` returns.
    pub fn build(
        candidates: &[CheckpointFile],
        averaged: &[String],
        blocks: &Blocks,
        bits: u8,
        on_tensor: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Self> {
        check_bits(bits)?;
        if candidates.len() < 2 {
            return Err(Error::input("averaging needs at least 2 candidates"));
        }
        check_names(averaged)?;
        if averaged.len() != blocks.tensor_count() {
            let (names, cut) = (averaged.len(), blocks.tensor_count());
            return Err(Error::input(format!("{names} tensors are averaged, the blocks are cut for {cut}")));
        }
        let (n, block_count) = (candidates.len(), blocks.len());
        let mut squares = vec![0.0; n * block_count];
        let mut tensors = Vec::with_capacity(averaged.len());
        for (t, name) in averaged.iter().enumerate() {
            let block = blocks.block_of(t);
            let (tensor, tensor_squares) = build_tensor(candidates, name, block, bits)?;
            for (i, square) in tensor_squares.iter().enumerate() {
                if !square.is_finite() {
                    let what = format!("tensor `{name}` of candidate {i} (from 0) is not finite in 32 bits");
                    return Err(Error::input(what));
                }
                squares[i * block_count + block] += square;
            }
            tensors.push(tensor);
            on_tensor(t + 1, averaged.len())?;
        }
        let norms = squares.into_iter().map(f64::sqrt).collect();
        Ok(Self { n, bits, block_count, norms, tensors })
    }
}

pub(super) fn check_bits(bits: u8) -> Result<()> {
    match bits {
        1 | 2 | 4 | 8 | 32 => Ok(()),
        _ => Err(Error::input(format!("bits: {bits} is not one of 1, 2, 4, 8, 32"))),
    }
}

fn check_names(averaged: &[String]) -> Result<()> {
    if averaged.is_empty() {
        return Err(Error::input("no tensor is averaged"));
    }
    let mut seen = HashSet::new();
    match averaged.iter().find(|name| !seen.insert(*name)) {
        Some(name) => Err(Error::input(format!("tensor `{name}` is named twice"))),
        None => Ok(()),
    }
}

fn build_tensor(candidates: &[CheckpointFile], name: &str, block: usize, bits: u8) -> Result<(Tensor, Vec<f64>)> {
    let (n, elements) = (candidates.len(), candidates[0].tensor(name)?.elements());
    for candidate in candidates {
        let held = candidate.tensor(name)?.elements();
        if held != elements {
            return Err(Error::input(format!(
                "tensor `{name}` has {elements} elements in one candidate, {held} in another"
            )));
        }
    }
    let tiles = elements.div_ceil(GROUP);
    let mut tensor = Tensor {
        name: name.to_owned(),
        block,
        centre: vec![0.0; elements],
        scales: vec![0.0; if bits == 32 { 0 } else { tiles * n }],
        codes: vec![0; tiles * n * code_bytes(bits)],
    };
    let squares = {
        // At 32 bits there are no scales: every chunk gets an empty part of them.
        let chunks = elements.div_ceil(CHUNK);
        let mut scales: Vec<&mut [f32]> = tensor.scales.chunks_mut(CHUNK_TILES * n).collect();
        scales.resize_with(chunks, || &mut []);
        let centre = tensor.centre.par_chunks_mut(CHUNK);
        let codes = tensor.codes.par_chunks_mut(CHUNK_TILES * n * code_bytes(bits));
        centre
            .zip(codes)
            .zip(scales)
            .enumerate()
            .map(|(chunk, ((centre, codes), scales))| {
                build_chunk(candidates, name, chunk, bits, &mut Part { centre, codes, scales })
            })
            .collect::<Result<Vec<Vec<f64>>>>()?
    };
    let sums = (0..n).map(|i| squares.iter().map(|part| part[i]).sum()).collect();
    Ok((tensor, sums))
}

/// What one task fills.
struct Part<'a> {
    centre: &'a mut [f32],
    codes: &'a mut [u8],
    scales: &'a mut [f32],
}

/// Fills one chunk of columns and returns the squared norms of the candidates' deviations in it.
fn build_chunk(
    candidates: &[CheckpointFile],
    name: &str,
    chunk: usize,
    bits: u8,
    part: &mut Part<'_>,
) -> Result<Vec<f64>> {
    let (n, columns) = (candidates.len(), part.centre.len());
    let mut values = vec![0f32; n * columns];
    for (candidate, row) in candidates.iter().zip(values.chunks_exact_mut(columns)) {
        candidate.fill_f32(name, chunk * CHUNK, row)?;
    }
    // Summed in f64: n equal f32 values give themselves back exactly, so that their deviations are exactly zero.
    let mut sums = vec![0f64; columns];
    for row in values.chunks_exact(columns) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += f64::from(*value);
        }
    }
    for (c, sum) in part.centre.iter_mut().zip(&sums) {
        *c = (sum / n as f64) as f32;
    }
    let bytes = code_bytes(bits);
    let mut squares = vec![0.0; n];
    for (i, row) in values.chunks_exact_mut(columns).enumerate() {
        for (value, c) in row.iter_mut().zip(part.centre.iter()) {
            *value -= c;
        }
        for (tile, group) in row.chunks(GROUP).enumerate() {
            let mut padded = [0.0; GROUP];
            padded[..group.len()].copy_from_slice(group);
            squares[i] += dot(&padded, &padded);
            let place = tile * n + i;
            let codes = &mut part.codes[place * bytes..(place + 1) * bytes];
            if bits == 32 {
                for (code, d) in codes.as_chunks_mut::<4>().0.iter_mut().zip(group) {
                    *code = d.to_le_bytes();
                }
            } else {
                part.scales[place] = quantise(group, bits, codes);
            }
        }
    }
    Ok(squares)
}
