//! Matrix products within a plane. A tile of the result stays in registers: as many sums as fused products are in flight.

use std::arch::x86_64::{_mm512_add_ps, _mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps};

use super::super::registers::{LANES, Line, load, store};
use super::planes::{Kernel, PLANES, Tile, Tiles};

/// Tiles that are multiplied together: there must be room for a multiple of it.
pub(super) const TOGETHER: usize = 8;

/// `result = inputs · kernel` in every plane, for at least the first `tiles` tiles.
#[target_feature(enable = "avx512f")]
pub(super) fn multiply(inputs: &Tiles, kernel: &Kernel, tiles: usize, result: &mut Tiles) {
    for plane in 0..PLANES {
        for group in (0..kernel.groups).step_by(2) {
            if group + 1 < kernel.groups {
                let weights = [kernel.blocks(plane, group), kernel.blocks(plane, group + 1)];
                for tile in (0..tiles).step_by(TOGETHER) {
                    multiply_tiles::<TOGETHER, 2>(inputs, weights, (plane, tile, group), result);
                }
            } else {
                multiply_group(inputs, kernel.blocks(plane, group), tiles, (plane, group), result);
            }
        }
    }
}

/// A single group: twice as many tiles at a time, so that there are as many sums.
#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_group(
    inputs: &Tiles,
    weights: &[[Line; LANES]],
    tiles: usize,
    (plane, group): (usize, usize),
    result: &mut Tiles,
) {
    for tile in (0..tiles).step_by(2 * TOGETHER) {
        if tile + TOGETHER < tiles {
            multiply_tiles::<{ 2 * TOGETHER }, 1>(inputs, [weights], (plane, tile, group), result);
        } else {
            multiply_tiles::<TOGETHER, 1>(inputs, [weights], (plane, tile, group), result);
        }
    }
}

/// `P` tiles by `R` groups of outputs; `first` are the plane and the first of both.
#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_tiles<const P: usize, const R: usize>(
    inputs: &Tiles,
    weights: [&[[Line; LANES]]; R],
    first: (usize, usize, usize),
    result: &mut Tiles,
) {
    let (plane, tile, group) = first;
    let mut sums = [[_mm512_setzero_ps(); R]; P];
    for channels in 0..weights[0].len() {
        let inputs: &[Tile; P] = inputs.group(channels)[tile..].first_chunk().expect("room for tiles taken together");
        for channel in 0..LANES {
            let mut registers = [_mm512_setzero_ps(); R];
            for (register, blocks) in registers.iter_mut().zip(weights) {
                *register = load(&blocks[channels][channel].0);
            }
            for (sums, input) in sums.iter_mut().zip(inputs) {
                let value = _mm512_set1_ps(input.planes[plane].0[channel]);
                for (sum, weights) in sums.iter_mut().zip(registers) {
                    *sum = _mm512_fmadd_ps(value, weights, *sum);
                }
            }
        }
    }
    for index in 0..R {
        let results: &mut [Tile; P] =
            result.group_mut(group + index)[tile..].first_chunk_mut().expect("room for tiles taken together");
        for (result, sums) in results.iter_mut().zip(sums) {
            store(sums[index], &mut result.planes[plane].0);
        }
    }
}

/// `sums += inputsᵀ · gradient` in every plane, over the first `tiles` tiles.
#[target_feature(enable = "avx512f")]
pub(super) fn add_outer_products(inputs: &Tiles, gradient: &Tiles, tiles: usize, sums: &mut Kernel) {
    for plane in 0..PLANES {
        for channel in (0..sums.channels).step_by(LANES) {
            let inputs = &inputs.group(channel / LANES)[..tiles];
            for group in (0..sums.groups).step_by(2) {
                let first = &gradient.group(group)[..tiles];
                if group + 1 < sums.groups {
                    let gradient = [first, &gradient.group(group + 1)[..tiles]];
                    add_channels::<0, 8, 2>(inputs, gradient, (plane, channel, group), sums);
                    add_channels::<8, 8, 2>(inputs, gradient, (plane, channel, group), sums);
                } else {
                    add_channels::<0, 16, 1>(inputs, [first], (plane, channel, group), sums);
                }
            }
        }
    }
}

/// `B` channels, `F` behind the first of a register, by `R` groups of outputs; `first` are the plane and the first of both.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_channels<const F: usize, const B: usize, const R: usize>(
    inputs: &[Tile],
    gradient: [&[Tile]; R],
    first: (usize, usize, usize),
    sums: &mut Kernel,
) {
    let (plane, channel, group) = first;
    let mut added = [[_mm512_setzero_ps(); R]; B];
    for (tile, input) in inputs.iter().enumerate() {
        let mut registers = [_mm512_setzero_ps(); R];
        for (register, tiles) in registers.iter_mut().zip(gradient) {
            *register = load(&tiles[tile].planes[plane].0);
        }
        let values: &[f32; B] = input.planes[plane].0[F..].first_chunk().expect("blocks divide a register");
        for (added, value) in added.iter_mut().zip(values) {
            let value = _mm512_set1_ps(*value);
            for (sum, gradient) in added.iter_mut().zip(registers) {
                *sum = _mm512_fmadd_ps(value, gradient, *sum);
            }
        }
    }
    for index in 0..R {
        let sums = &mut sums.group_mut(plane, group + index)[channel + F..][..B];
        for (sum, added) in sums.iter_mut().zip(added) {
            store(_mm512_add_ps(load(&sum.0), added[index]), &mut sum.0);
        }
    }
}
