//! The transforms before and after the products, 16 channels at a time. Each is the matrix of one axis, applied to columns
//! and then to rows.

use std::{
    arch::x86_64::{__m512, _mm512_add_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps},
    mem::MaybeUninit,
};

use super::super::registers::{LANES, Line, load, store, write};
use super::planes::{Kernel, PLANES, Tile, Tiles};
use crate::memory::prefetch;

/// `Bᵀ d` of one axis.
#[inline]
#[target_feature(enable = "avx512f")]
fn of_inputs(d: [__m512; 4]) -> [__m512; 4] {
    [_mm512_sub_ps(d[0], d[2]), _mm512_add_ps(d[1], d[2]), _mm512_sub_ps(d[2], d[1]), _mm512_sub_ps(d[3], d[1])]
}

/// `Aᵀ m` of one axis.
#[inline]
#[target_feature(enable = "avx512f")]
fn to_outputs(m: [__m512; 4]) -> [__m512; 2] {
    let even = _mm512_add_ps(m[0], _mm512_add_ps(m[1], m[2]));
    [even, _mm512_add_ps(_mm512_sub_ps(m[1], m[2]), m[3])]
}

/// `A y` of one axis.
#[inline]
#[target_feature(enable = "avx512f")]
fn of_gradient(y: [__m512; 2]) -> [__m512; 4] {
    [y[0], _mm512_add_ps(y[0], y[1]), _mm512_sub_ps(y[0], y[1]), y[1]]
}

/// `G g` of one axis.
#[inline]
#[target_feature(enable = "avx512f")]
fn of_kernel(g: [__m512; 3]) -> [__m512; 4] {
    let half = _mm512_set1_ps(0.5);
    let (outer, middle) = (_mm512_mul_ps(half, _mm512_add_ps(g[0], g[2])), _mm512_mul_ps(half, g[1]));
    [g[0], _mm512_add_ps(outer, middle), _mm512_sub_ps(outer, middle), g[2]]
}

/// `Gᵀ u` of one axis.
#[inline]
#[target_feature(enable = "avx512f")]
fn to_kernel(u: [__m512; 4]) -> [__m512; 3] {
    let half = _mm512_set1_ps(0.5);
    let outer = _mm512_mul_ps(half, _mm512_add_ps(u[1], u[2]));
    [_mm512_add_ps(u[0], outer), _mm512_mul_ps(half, _mm512_sub_ps(u[1], u[2])), _mm512_add_ps(outer, u[3])]
}

/// One column of four rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn input_column(rows: [&[[f32; LANES]]; 4], position: usize) -> [__m512; 4] {
    let [a, b, c, d] = rows;
    of_inputs([load(&a[position]), load(&b[position]), load(&c[position]), load(&d[position])])
}

/// Transforms the tiles of a row: those that start at every other pixel of four rows of inputs, one pixel before them. The
/// first becomes number `tile`. What lies `ahead` elements behind the two middle rows is asked for: reading rows as they come
/// would wait for memory at each.
#[target_feature(enable = "avx512f")]
pub(super) fn transform_inputs(rows: [&[f32]; 4], channels: usize, ahead: usize, tiles: &mut Tiles, tile: usize) {
    let rows = rows.map(|row| row.as_chunks().0);
    let groups = channels / LANES;
    let pixels = rows[0].len() / groups;
    let zeros = [_mm512_setzero_ps(); 4];
    for group in 0..groups {
        let targets = &mut tiles.group_mut(group)[tile..][..pixels / 2];
        let (mut first, mut second) = (zeros, input_column(rows, group));
        for (index, target) in targets.iter_mut().enumerate() {
            let pixel = 2 * index + 1;
            for row in [rows[1], rows[2]] {
                let next = row.as_ptr().wrapping_add((pixel - 1) * groups + group).wrapping_add(ahead / LANES);
                prefetch(next);
                prefetch(next.wrapping_add(groups));
            }
            let third = input_column(rows, pixel * groups + group);
            let fourth = if pixel + 1 < pixels { input_column(rows, (pixel + 1) * groups + group) } else { zeros };
            for row in 0..4 {
                let transformed = of_inputs([first[row], second[row], third[row], fourth[row]]);
                for (column, value) in transformed.into_iter().enumerate() {
                    store(value, &mut target.planes[4 * row + column].0);
                }
            }
            (first, second) = (third, fourth);
        }
    }
}

/// Transforms the tiles of two rows of gradients, which do not overlap; `ahead` as for [`transform_inputs`].
#[target_feature(enable = "avx512f")]
pub(super) fn transform_gradient(rows: [&[f32]; 2], outputs: usize, ahead: usize, tiles: &mut Tiles, tile: usize) {
    let [upper, lower] = rows.map(|row| row.as_chunks::<LANES>().0);
    let groups = outputs / LANES;
    for group in 0..groups {
        let targets = &mut tiles.group_mut(group)[tile..];
        let pixels = upper.chunks_exact(2 * groups).zip(lower.chunks_exact(2 * groups));
        for (target, (upper, lower)) in targets.iter_mut().zip(pixels) {
            for pixel in [&upper[group], &upper[groups + group], &lower[group], &lower[groups + group]] {
                prefetch(pixel.as_ptr().wrapping_add(ahead));
            }
            let left = of_gradient([load(&upper[group]), load(&lower[group])]);
            let right = of_gradient([load(&upper[groups + group]), load(&lower[groups + group])]);
            for row in 0..4 {
                for (column, value) in of_gradient([left[row], right[row]]).into_iter().enumerate() {
                    store(value, &mut target.planes[4 * row + column].0);
                }
            }
        }
    }
}

/// Writes every element of two rows of outputs, from the products of their tiles.
#[target_feature(enable = "avx512f")]
pub(super) fn write_outputs(products: &Tiles, tile: usize, outputs: usize, rows: [&mut [MaybeUninit<f32>]; 2]) {
    let [upper, lower] = rows.map(|row| row.as_chunks_mut::<LANES>().0);
    let groups = outputs / LANES;
    for group in 0..groups {
        let pixels = upper.chunks_exact_mut(2 * groups).zip(lower.chunks_exact_mut(2 * groups));
        for (Tile { planes, .. }, (upper, lower)) in products.group(group)[tile..].iter().zip(pixels) {
            let mut columns = [[_mm512_setzero_ps(); 2]; 4];
            for (index, column) in columns.iter_mut().enumerate() {
                *column = to_outputs(load_column(planes, index));
            }
            let [a, b, c, d] = columns;
            let [left, right] = to_outputs([a[0], b[0], c[0], d[0]]);
            write(left, &mut upper[group]);
            write(right, &mut upper[groups + group]);
            let [left, right] = to_outputs([a[1], b[1], c[1], d[1]]);
            write(left, &mut lower[group]);
            write(right, &mut lower[groups + group]);
        }
    }
}

/// A column of a tile.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_column(planes: &[Line; PLANES], column: usize) -> [__m512; 4] {
    [load(&planes[column].0), load(&planes[4 + column].0), load(&planes[8 + column].0), load(&planes[12 + column].0)]
}

/// `G g Gᵀ` of a kernel [3 · 3 · channels, outputs].
#[target_feature(enable = "avx512f")]
pub(super) fn transform_kernel(kernel: &[f32], transformed: &mut Kernel) {
    let (channels, groups) = (transformed.channels, transformed.groups);
    let (kernel, _) = kernel.as_chunks::<LANES>();
    for channel in 0..channels {
        for group in 0..groups {
            let tap = |row: usize, column: usize| &kernel[((3 * row + column) * channels + channel) * groups + group];
            let mut columns = [[_mm512_setzero_ps(); 4]; 3];
            for (index, column) in columns.iter_mut().enumerate() {
                *column = of_kernel([load(tap(0, index)), load(tap(1, index)), load(tap(2, index))]);
            }
            let [a, b, c] = columns;
            for row in 0..4 {
                let values = of_kernel([a[row], b[row], c[row]]);
                for (column, value) in values.into_iter().enumerate() {
                    store(value, &mut transformed.group_mut(4 * row + column, group)[channel].0);
                }
            }
        }
    }
}

/// `Gᵀ u G`: the gradient of a kernel, [3 · 3 · channels, outputs], from that of the transformed one.
#[target_feature(enable = "avx512f")]
pub(super) fn write_kernel(transformed: &Kernel, kernel: &mut [f32]) {
    let (channels, groups) = (transformed.channels, transformed.groups);
    let (kernel, _) = kernel.as_chunks_mut::<LANES>();
    for channel in 0..channels {
        for group in 0..groups {
            let planes = transformed.across(channel, group);
            let mut columns = [[_mm512_setzero_ps(); 3]; 4];
            for (index, column) in columns.iter_mut().enumerate() {
                *column = to_kernel(load_column(&planes, index));
            }
            let [a, b, c, d] = columns;
            for row in 0..3 {
                let taps = to_kernel([a[row], b[row], c[row], d[row]]);
                for (column, value) in taps.into_iter().enumerate() {
                    store(value, &mut kernel[((3 * row + column) * channels + channel) * groups + group]);
                }
            }
        }
    }
}
