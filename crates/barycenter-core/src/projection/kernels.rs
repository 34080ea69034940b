//! `project` and `reconstruct`: the two passes over the packed directions.
//!
//! Codes are decoded on the way; no float copy of the projection ever exists. Plain code that the compiler vectorises:
//! no operation depends on the instruction set, so every machine gets the same bits.

use rayon::prelude::*;

use super::{GROUP, Projection, Tensor};

/// Tiles of one task; fixed, because partial sums are made per chunk.
pub(super) const CHUNK_TILES: usize = 64;

/// Elements of one task.
pub(super) const CHUNK: usize = CHUNK_TILES * GROUP;

/// Running sums kept apart while a tile is summed.
const LANES: usize = 16;

/// Bytes of one candidate's codes in one tile.
pub(super) fn code_bytes(bits: u8) -> usize {
    GROUP / 8 * usize::from(bits)
}

impl Projection {
    /// `⟨û[i,l], g[l]⟩` for all candidates and blocks, (n, L); 0 where the deviation is null.
    ///
    /// `gradient` has one flat vector per averaged tensor. A gradient that is not finite gives a result that is not.
    ///
    /// # Panics
    /// Where the gradient has not the shape of the averaged tensors.
    pub fn project(&self, gradient: &[Vec<f32>]) -> Vec<f64> {
        self.assert_shape(gradient);
        let chunks: Vec<(usize, usize)> = (self.tensors.iter().enumerate())
            .flat_map(|(t, tensor)| (0..tensor.centre.len().div_ceil(CHUNK)).map(move |chunk| (t, chunk)))
            .collect();
        let partial: Vec<Vec<f64>> =
            chunks.par_iter().map(|(t, chunk)| self.project_chunk(&self.tensors[*t], *chunk, &gradient[*t])).collect();
        let mut sums = vec![0.0; self.n * self.block_count];
        for ((t, _), part) in chunks.iter().zip(&partial) {
            let block = self.tensors[*t].block;
            for (i, value) in part.iter().enumerate() {
                sums[i * self.block_count + block] += value;
            }
        }
        for i in 0..self.n {
            for l in 0..self.block_count {
                sums[i * self.block_count + l] *= self.inverse_norm(i, l);
            }
        }
        sums
    }

    /// `w = c + Σ_i X[i,l] · û[i,l]` into one flat vector per averaged tensor; `x` is (n, L).
    ///
    /// # Panics
    /// Where `x` or `into` have not the shape of the projection.
    pub fn reconstruct(&self, x: &[f64], into: &mut [Vec<f32>]) {
        assert_eq!(x.len(), self.n * self.block_count, "X has n · L entries");
        self.assert_shape(into);
        self.tensors.par_iter().zip(into).for_each(|(tensor, weights)| {
            let factors: Vec<f32> = (0..self.n)
                .map(|i| (x[i * self.block_count + tensor.block] * self.inverse_norm(i, tensor.block)) as f32)
                .collect();
            weights
                .par_chunks_mut(CHUNK)
                .enumerate()
                .for_each(|(chunk, weights)| self.reconstruct_chunk(tensor, chunk, &factors, weights));
        });
    }

    fn assert_shape(&self, vectors: &[Vec<f32>]) {
        let same = vectors.len() == self.tensors.len()
            && vectors.iter().zip(&self.tensors).all(|(vector, tensor)| vector.len() == tensor.centre.len());
        assert!(same, "one vector per averaged tensor, of its size");
    }

    fn project_chunk(&self, tensor: &Tensor, chunk: usize, gradient: &[f32]) -> Vec<f64> {
        let bytes = code_bytes(self.bits);
        let start = chunk * CHUNK;
        let gradient = &gradient[start..gradient.len().min(start + CHUNK)];
        let mut sums = vec![0.0; self.n];
        for (tile, columns) in gradient.chunks(GROUP).enumerate() {
            // Codes of a short tile go on to 256; zeros make them count for nothing.
            let mut g = [0.0; GROUP];
            g[..columns.len()].copy_from_slice(columns);
            let first = (chunk * CHUNK_TILES + tile) * self.n;
            let codes = tensor.codes[first * bytes..(first + self.n) * bytes].chunks_exact(bytes);
            for (i, (sum, codes)) in sums.iter_mut().zip(codes).enumerate() {
                let scale = tensor.scales.get(first + i).copied().unwrap_or(1.0);
                *sum += f64::from(scale) * dot(self.bits, codes, &g);
            }
        }
        sums
    }

    fn reconstruct_chunk(&self, tensor: &Tensor, chunk: usize, factors: &[f32], weights: &mut [f32]) {
        let bytes = code_bytes(self.bits);
        let centre = &tensor.centre[chunk * CHUNK..chunk * CHUNK + weights.len()];
        let tiles = weights.chunks_mut(GROUP).zip(centre.chunks(GROUP));
        for (tile, (weights, centre)) in tiles.enumerate() {
            let first = (chunk * CHUNK_TILES + tile) * self.n;
            let codes = tensor.codes[first * bytes..(first + self.n) * bytes].chunks_exact(bytes);
            let mut sum = [0.0; GROUP];
            for (i, (factor, codes)) in factors.iter().zip(codes).enumerate() {
                let scale = tensor.scales.get(first + i).copied().unwrap_or(1.0);
                add(self.bits, codes, factor * scale, &mut sum);
            }
            for ((w, c), s) in weights.iter_mut().zip(centre).zip(&sum) {
                *w = c + s;
            }
        }
    }
}

fn dot(bits: u8, codes: &[u8], g: &[f32; GROUP]) -> f64 {
    match bits {
        1 => dot_packed::<1, 32>(codes, g),
        2 => dot_packed::<2, 64>(codes, g),
        4 => dot_packed::<4, 128>(codes, g),
        8 => dot_packed::<8, 256>(codes, g),
        _ => dot_float(codes, g),
    }
}

fn add(bits: u8, codes: &[u8], factor: f32, sum: &mut [f32; GROUP]) {
    match bits {
        1 => add_packed::<1, 32>(codes, factor, sum),
        2 => add_packed::<2, 64>(codes, factor, sum),
        4 => add_packed::<4, 128>(codes, factor, sum),
        8 => add_packed::<8, 256>(codes, factor, sum),
        _ => add_float(codes, factor, sum),
    }
}

/// Level `k + ½` of the code in one slot of a byte.
#[inline]
fn level<const BITS: usize>(byte: u8, slot: usize) -> f32 {
    let code = (byte >> (slot * BITS)) & (u8::MAX >> (8 - BITS));
    f32::from(code) + (0.5 - (1_u32 << (BITS - 1)) as f32)
}

/// Levels of a group, without its scale.
pub(super) fn decode<const BITS: usize, const BYTES: usize>(codes: &[u8], into: &mut [f32; GROUP]) {
    let codes: &[u8; BYTES] = codes.try_into().expect("a group is 32 bytes a bit");
    for (slot, run) in into.chunks_exact_mut(BYTES).enumerate() {
        for (value, byte) in run.iter_mut().zip(codes) {
            *value = level::<BITS>(*byte, slot);
        }
    }
}

#[inline]
fn dot_packed<const BITS: usize, const BYTES: usize>(codes: &[u8], g: &[f32; GROUP]) -> f64 {
    let codes: &[u8; BYTES] = codes.try_into().expect("a group is 32 bytes a bit");
    let mut lanes = [0f32; LANES];
    for (slot, run) in g.chunks_exact(BYTES).enumerate() {
        for (g, codes) in run.as_chunks::<LANES>().0.iter().zip(codes.as_chunks::<LANES>().0) {
            for lane in 0..LANES {
                lanes[lane] += level::<BITS>(codes[lane], slot) * g[lane];
            }
        }
    }
    lanes.iter().map(|lane| f64::from(*lane)).sum()
}

#[inline]
fn add_packed<const BITS: usize, const BYTES: usize>(codes: &[u8], factor: f32, sum: &mut [f32; GROUP]) {
    let codes: &[u8; BYTES] = codes.try_into().expect("a group is 32 bytes a bit");
    for (slot, run) in sum.chunks_exact_mut(BYTES).enumerate() {
        for (s, byte) in run.iter_mut().zip(codes) {
            *s += level::<BITS>(*byte, slot) * factor;
        }
    }
}

fn dot_float(codes: &[u8], g: &[f32; GROUP]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (values, _) = codes.as_chunks::<4>();
    for (values, g) in values.as_chunks::<LANES>().0.iter().zip(g.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            lanes[lane] += f64::from(f32::from_le_bytes(values[lane])) * f64::from(g[lane]);
        }
    }
    lanes.iter().sum()
}

fn add_float(codes: &[u8], factor: f32, sum: &mut [f32; GROUP]) {
    for (s, value) in sum.iter_mut().zip(codes.as_chunks::<4>().0) {
        *s += f32::from_le_bytes(*value) * factor;
    }
}
