//! Matrix products within a plane. A tile of the result stays in registers: as many sums as fused products are in flight.

use std::arch::x86_64::{_mm512_add_ps, _mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps};

use super::super::registers::{LANES, Line, load, load_lines, store};
use super::planes::{PLANES, Planes};

/// Tiles that are multiplied together: planes have room for a multiple of it.
pub(super) const TOGETHER: usize = 8;

/// `result = inputs · kernel` in every plane, for at least `tiles` tiles; `kernel` has a line for each channel of `inputs`.
#[target_feature(enable = "avx512f")]
pub(super) fn multiply(inputs: &Planes, kernel: &Planes, tiles: usize, result: &mut Planes) {
    let room = inputs.tiles();
    let groups = result.groups();
    for plane in 0..PLANES {
        let (inputs, kernel, result) = (inputs.plane(plane), kernel.plane(plane), result.plane_mut(plane));
        let channels = kernel.len() / groups;
        for group in (0..groups).step_by(2) {
            let kernel = &kernel[group * channels..];
            let result = &mut result[group * room..];
            if group + 1 < groups {
                let [first, second] = [&kernel[..channels], &kernel[channels..][..channels]];
                for tile in (0..tiles).step_by(TOGETHER) {
                    multiply_tile::<TOGETHER, 2>(&inputs[tile..], room, [first, second], &mut result[tile..]);
                }
                continue;
            }
            let mut tile = 0;
            while tile + TOGETHER < tiles {
                multiply_tile::<{ 2 * TOGETHER }, 1>(&inputs[tile..], room, [&kernel[..channels]], &mut result[tile..]);
                tile += 2 * TOGETHER;
            }
            if tile < tiles {
                multiply_tile::<TOGETHER, 1>(&inputs[tile..], room, [&kernel[..channels]], &mut result[tile..]);
            }
        }
    }
}

/// `P` tiles by `R` registers of outputs; `room` is the distance of groups of channels.
#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_tile<const P: usize, const R: usize>(
    inputs: &[Line],
    room: usize,
    kernel: [&[Line]; R],
    result: &mut [Line],
) {
    let mut sums = [[_mm512_setzero_ps(); R]; P];
    for group in 0..kernel[0].len() / LANES {
        let inputs: &[Line; P] =
            inputs[group * room..].first_chunk().expect("planes have room for whole groups of tiles");
        let weights =
            kernel.map(|lines| lines[group * LANES..].first_chunk::<LANES>().expect("channels are whole registers"));
        for channel in 0..LANES {
            let weights = load_lines(weights.map(|lines| &lines[channel]));
            for (sums, input) in sums.iter_mut().zip(inputs) {
                let value = _mm512_set1_ps(input.0[channel]);
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_fmadd_ps(value, weights, *sum);
                }
            }
        }
    }
    for (tile, sums) in sums.into_iter().enumerate() {
        for (group, sum) in sums.into_iter().enumerate() {
            store(sum, &mut result[group * room + tile].0);
        }
    }
}

/// `sums += inputsᵀ · gradient` in every plane, over `tiles` tiles; `sums` has a line for each channel of `inputs`.
#[target_feature(enable = "avx512f")]
pub(super) fn add_outer_products(inputs: &Planes, gradient: &Planes, tiles: usize, sums: &mut Planes) {
    let (room, groups) = (inputs.tiles(), gradient.groups());
    for plane in 0..PLANES {
        let (inputs, gradient, sums) = (inputs.plane(plane), gradient.plane(plane), sums.plane_mut(plane));
        let channels = sums.len() / groups;
        for channel in (0..channels).step_by(LANES) {
            let inputs = &inputs[channel / LANES * room..][..tiles];
            for group in (0..groups).step_by(2) {
                let sums = &mut sums[group * channels + channel..];
                let first = &gradient[group * room..][..tiles];
                if group + 1 < groups {
                    let second = &gradient[(group + 1) * room..][..tiles];
                    add_tile::<8, 2>(inputs, [first, second], 0, channels, sums);
                    add_tile::<8, 2>(inputs, [first, second], 8, channels, sums);
                } else {
                    add_tile::<16, 1>(inputs, [first], 0, channels, sums);
                }
            }
        }
    }
}

/// `B` channels from `first` on by `R` registers of outputs; `channels` is the distance of groups of outputs.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_tile<const B: usize, const R: usize>(
    inputs: &[Line],
    gradient: [&[Line]; R],
    first: usize,
    channels: usize,
    sums: &mut [Line],
) {
    let mut added = [[_mm512_setzero_ps(); R]; B];
    for (tile, input) in inputs.iter().enumerate() {
        let gradient = load_lines(gradient.map(|lines| &lines[tile]));
        let values: &[f32; B] = input.0[first..].first_chunk().expect("blocks divide a register");
        for (added, value) in added.iter_mut().zip(values) {
            let value = _mm512_set1_ps(*value);
            for (sum, gradient) in added.iter_mut().zip(gradient) {
                *sum = _mm512_fmadd_ps(value, gradient, *sum);
            }
        }
    }
    for (channel, added) in added.into_iter().enumerate() {
        for (group, added) in added.into_iter().enumerate() {
            let target = &mut sums[group * channels + first + channel].0;
            store(_mm512_add_ps(load(target), added), target);
        }
    }
}
