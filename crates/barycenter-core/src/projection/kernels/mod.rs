//! `project` and `reconstruct`: the two passes over the packed directions.
//!
//! Codes are decoded in registers; no float copy of the projection ever exists. Each [`Processor`] has its kernels; below
//! 32 bits they sum whole numbers and give the same bits everywhere.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_digits;
#[cfg(target_arch = "x86_64")]
mod avx512_one_bit;
#[cfg(target_arch = "x86_64")]
mod avx512_reconstruct;
mod digits;
mod factors;
mod float;
mod portable;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use self::{
    digits::{Content, Digits},
    factors::{BLOCK, Block},
};
use super::{Columns, GROUP, Projection, Tensor, packing::code_bytes};
use crate::processor::{Processor, for_processor};

/// Tiles of one task; fixed, because partial sums are made per chunk.
pub(super) const CHUNK_TILES: usize = 64;

/// Elements of one task.
pub(super) const CHUNK: usize = CHUNK_TILES * GROUP;

/// Weights of more elements than this are written past the caches: they would not stay there until they are read.
pub(super) const STREAMED: usize = 1 << 22;

impl Projection {
    /// `⟨û[i,l], g[l]⟩` for all candidates and blocks, (n, L); 0 where the deviation is null.
    ///
    /// `gradient` has one flat vector per averaged tensor. A gradient that is not finite gives a result that is not.
    ///
    /// # Panics
    /// Where the gradient has not the shape of the averaged tensors.
    pub fn project(&self, gradient: &[Vec<f32>]) -> Vec<f64> {
        self.project_columns(gradient, &self.all_columns())
    }

    /// The part of [`Self::project`] that these columns of the gradient make; the parts of all columns sum to the whole.
    ///
    /// # Panics
    /// Where the gradient has not the shape of the averaged tensors.
    pub fn project_columns(&self, gradient: &[Vec<f32>], columns: &Columns) -> Vec<f64> {
        self.project_on(Processor::detected(), gradient, columns)
    }

    fn project_on(&self, processor: Processor, gradient: &[Vec<f32>], columns: &Columns) -> Vec<f64> {
        let mut sums = self.project_codes(processor, gradient, columns);
        self.along_directions(&mut sums);
        sums
    }

    /// `⟨Q(d[i,l]), g[l]⟩`, (n, L), over some columns.
    pub(super) fn project_codes(&self, processor: Processor, gradient: &[Vec<f32>], columns: &Columns) -> Vec<f64> {
        self.assert_shape(gradient);
        let chunks: Vec<(usize, usize)> = columns
            .ranges()
            .filter(|(_, own)| !own.is_empty())
            .flat_map(|(t, own)| (own.start / CHUNK..own.end.div_ceil(CHUNK)).map(move |chunk| (t, chunk)))
            .collect();
        let project = |(t, chunk): &(usize, usize)| {
            let columns = &gradient[*t][chunk * CHUNK..];
            let columns = &columns[..columns.len().min(CHUNK)];
            project_chunk(processor, &self.packed(&self.tensors[*t], *chunk, columns.len()), columns)
        };
        let partial: Vec<Vec<f64>> = chunks.par_iter().map(project).collect();
        let mut sums = vec![0.0; self.n * self.block_count];
        for ((t, _), part) in chunks.iter().zip(&partial) {
            let block = self.tensors[*t].block;
            for (i, value) in part.iter().enumerate() {
                sums[i * self.block_count + block] += value;
            }
        }
        sums
    }

    /// `w = c + Σ_i X[i,l] · û[i,l]` into one flat vector per averaged tensor; `x` is (n, L).
    ///
    /// # Panics
    /// Where `x` or `into` have not the shape of the projection.
    pub fn reconstruct(&self, x: &[f64], into: &mut [Vec<f32>]) {
        self.reconstruct_columns(x, &self.all_columns(), into);
    }

    /// The same, of these columns alone; the others are left as they are.
    ///
    /// # Panics
    /// Where `x` or `into` have not the shape of the projection.
    pub fn reconstruct_columns(&self, x: &[f64], columns: &Columns, into: &mut [Vec<f32>]) {
        self.reconstruct_on(Processor::detected(), x, columns, into);
    }

    fn reconstruct_on(&self, processor: Processor, x: &[f64], columns: &Columns, into: &mut [Vec<f32>]) {
        assert_eq!(x.len(), self.n * self.block_count, "X has n · L entries");
        self.reconstruct_codes(processor, &self.code_factors(x), columns, into);
    }

    /// `c + Σ_i factors[i,l] · Q(d[i,l])`, of some columns; `factors` is (n, L).
    pub(super) fn reconstruct_codes(
        &self,
        processor: Processor,
        factors: &[f64],
        columns: &Columns,
        into: &mut [Vec<f32>],
    ) {
        self.assert_shape(into);
        let stream = into.iter().map(Vec::len).sum::<usize>() > STREAMED;
        self.tensors.par_iter().zip(into).enumerate().for_each(|(t, (tensor, weights))| {
            let own = columns.of(t);
            let first = own.start / CHUNK;
            let factors: Vec<f32> =
                factors.iter().skip(tensor.block).step_by(self.block_count).map(|factor| *factor as f32).collect();
            weights[own].par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, weights)| {
                let chunk = first + chunk;
                let centre = &tensor.centre[chunk * CHUNK..chunk * CHUNK + weights.len()];
                let packed = self.packed(tensor, chunk, weights.len());
                reconstruct_chunk(processor, &packed, &mut Target { factors: &factors, centre, weights, stream });
            });
        });
    }

    fn assert_shape(&self, vectors: &[Vec<f32>]) {
        let same = vectors.len() == self.tensors.len()
            && vectors.iter().zip(&self.tensors).all(|(vector, tensor)| vector.len() == tensor.centre.len());
        assert!(same, "one vector per averaged tensor, of its size");
    }

    /// The tiles of one chunk.
    fn packed<'a>(&self, tensor: &'a Tensor, chunk: usize, columns: usize) -> Packed<'a> {
        let (first, groups) = (chunk * CHUNK_TILES * self.n, columns.div_ceil(GROUP) * self.n);
        let bits = tensor.bits;
        let bytes = code_bytes(bits);
        Packed {
            n: self.n,
            bits,
            codes: &tensor.codes[first * bytes..(first + groups) * bytes],
            scales: if bits == 32 { &[] } else { &tensor.scales[first..first + groups] },
        }
    }
}

/// Tiles of one tensor, in order.
pub(super) struct Packed<'a> {
    pub(super) n: usize,
    pub(super) bits: u8,
    pub(super) codes: &'a [u8],
    pub(super) scales: &'a [f32],
}

/// What a chunk is reconstructed with and into.
struct Target<'a> {
    /// `X / r`, one a candidate.
    factors: &'a [f32],
    centre: &'a [f32],
    weights: &'a mut [f32],
    /// Whether to write past the caches.
    stream: bool,
}

/// Sums of one chunk, one a candidate, of deviations as stored; `1 / r` is left to the caller.
pub(super) fn project_chunk(processor: Processor, packed: &Packed<'_>, gradient: &[f32]) -> Vec<f64> {
    #[cfg(target_arch = "x86_64")]
    if processor != Processor::Portable && packed.bits != 32 {
        #[expect(unsafe_code, reason = "functions compiled for AVX2 or AVX-512")]
        // SAFETY: a `Processor` other than the portable one exists only where it was detected.
        return unsafe {
            match (packed.bits, processor) {
                (1, Processor::Avx512) => avx512_one_bit::project(packed, gradient),
                (2, Processor::Avx512) => avx512::project::<2, 64>(packed, gradient),
                (4, Processor::Avx512) => avx512::project::<4, 128>(packed, gradient),
                (8, Processor::Avx512) => avx512::project::<8, 256>(packed, gradient),
                (1, _) => avx2::project::<1, 32>(packed, gradient),
                (2, _) => avx2::project::<2, 64>(packed, gradient),
                (4, _) => avx2::project::<4, 128>(packed, gradient),
                _ => avx2::project::<8, 256>(packed, gradient),
            }
        };
    }
    match packed.bits {
        1 => project_tiles::<1>(packed, gradient, Digits::fill::<1>, portable::products::<1>),
        2 => project_tiles::<2>(packed, gradient, Digits::fill::<2>, portable::products::<2>),
        4 => project_tiles::<4>(packed, gradient, Digits::fill::<4>, portable::products::<4>),
        8 => project_tiles::<8>(packed, gradient, Digits::fill::<8>, portable::products::<8>),
        _ => for_processor!(processor, float::project, (packed: &Packed<'_>, gradient: &[f32]) -> Vec<f64>),
    }
}

/// Projects tile by tile; `fill` makes whole numbers of a tile's gradient, `products` gives `Σ code · whole` of a tile's candidates.
#[inline(always)]
fn project_tiles<const BITS: usize>(
    packed: &Packed<'_>,
    gradient: &[f32],
    fill: impl Fn(&mut Digits, &[f32; GROUP]) -> Content,
    products: impl Fn(&[u8], &Digits, &mut [i32]),
) -> Vec<f64> {
    let n = packed.n;
    let (mut sums, mut parts) = (vec![0.0; n], vec![0; n]);
    let mut digits = Digits::new();
    let tiles = packed.codes.chunks_exact(n * 32 * BITS).zip(packed.scales.chunks_exact(n));
    for (columns, (codes, scales)) in gradient.chunks(GROUP).zip(tiles) {
        let short;
        let columns = if let Some(columns) = columns.first_chunk() {
            columns
        } else {
            short = padded(columns);
            &short
        };
        match fill(&mut digits, columns) {
            Content::Nothing => {}
            Content::NotFinite => sums.fill(f64::NAN),
            Content::Whole { unit, sum } => {
                products(codes, &digits, &mut parts);
                // A level is code − (2^b − 1) / 2. Everything up to the scale is a whole number and exact.
                let offset = f64::from((1_u32 << BITS) - 1) * 0.5 * sum;
                for ((sum, scale), product) in sums.iter_mut().zip(scales).zip(&parts) {
                    *sum += f64::from(*scale) * unit * (f64::from(*product) - offset);
                }
            }
        }
    }
    sums
}

/// A tile's columns; those that are not there are zeros and count for nothing.
#[inline(always)]
fn padded(columns: &[f32]) -> [f32; GROUP] {
    let mut tile = [0.0; GROUP];
    tile[..columns.len()].copy_from_slice(columns);
    tile
}

fn reconstruct_chunk(processor: Processor, packed: &Packed<'_>, target: &mut Target<'_>) {
    #[cfg(target_arch = "x86_64")]
    if processor != Processor::Portable && packed.bits != 32 {
        #[expect(unsafe_code, reason = "functions compiled for AVX2 or AVX-512")]
        // SAFETY: a `Processor` other than the portable one exists only where it was detected, and AVX-512 has AVX2.
        return unsafe {
            match (packed.bits, processor) {
                (1, Processor::Avx512) => avx512_one_bit::reconstruct(packed, target),
                (2, Processor::Avx512) => avx512_reconstruct::reconstruct::<2, 64>(packed, target),
                (4, Processor::Avx512) => avx512_reconstruct::reconstruct::<4, 128>(packed, target),
                (_, Processor::Avx512) => avx512_reconstruct::reconstruct::<8, 256>(packed, target),
                (1, _) => avx2::reconstruct::<1, 32>(packed, target),
                (2, _) => avx2::reconstruct::<2, 64>(packed, target),
                (4, _) => avx2::reconstruct::<4, 128>(packed, target),
                _ => avx2::reconstruct::<8, 256>(packed, target),
            }
        };
    }
    match packed.bits {
        1 => reconstruct_tiles::<1>(packed, target, portable::combine::<1>, store),
        2 => reconstruct_tiles::<2>(packed, target, portable::combine::<2>, store),
        4 => reconstruct_tiles::<4>(packed, target, portable::combine::<4>, store),
        8 => reconstruct_tiles::<8>(packed, target, portable::combine::<8>, store),
        _ => for_processor!(processor, float::reconstruct, (packed: &Packed<'_>, target: &mut Target<'_>)),
    }
}

/// Numbers of a tile, aligned for every register.
#[repr(C, align(64))]
struct Tile([f32; GROUP]);

/// Reconstructs tile by tile: `combine` adds `Σ factor · level` of a block of candidates to a tile's columns (the first
/// block finds any numbers there and writes over them), `store` writes `centre + sums`.
#[inline(always)]
fn reconstruct_tiles<const BITS: usize>(
    packed: &Packed<'_>,
    target: &mut Target<'_>,
    combine: impl Fn(&[u8], &Block, bool, &mut [f32; GROUP]),
    store: impl Fn(&[f32; GROUP], &[f32; GROUP], &mut [f32; GROUP], bool),
) {
    let (n, bytes) = (packed.n, 32 * BITS);
    let (mut block, mut sums) = (Block::NOTHING, Tile([0.0; GROUP]));
    let tiles = packed.codes.chunks_exact(n * bytes).zip(packed.scales.chunks_exact(n));
    let columns = target.weights.chunks_mut(GROUP).zip(target.centre.chunks(GROUP));
    for ((weights, centre), (codes, scales)) in columns.zip(tiles) {
        let blocks = codes.chunks(BLOCK * bytes).zip(scales.chunks(BLOCK)).zip(target.factors.chunks(BLOCK));
        for (index, ((codes, scales), x)) in blocks.enumerate() {
            block.fill::<BITS>(x, scales);
            combine(codes, &block, index == 0, &mut sums.0);
        }
        if let Ok(weights) = <&mut [f32; GROUP]>::try_from(&mut *weights) {
            let centre = centre.try_into().expect("as many centres as weights");
            store(&sums.0, centre, weights, target.stream);
        } else {
            for ((w, c), sum) in weights.iter_mut().zip(centre).zip(&sums.0) {
                *w = c + sum;
            }
        }
    }
}

fn store(sums: &[f32; GROUP], centre: &[f32; GROUP], weights: &mut [f32; GROUP], _stream: bool) {
    for ((w, c), sum) in weights.iter_mut().zip(centre).zip(sums) {
        *w = c + sum;
    }
}
