//! The transforms before and after the products, 16 channels at a time. Each is the matrix of one axis, applied to columns
//! and then to rows.

use std::{
    arch::x86_64::{__m512, _mm512_add_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_sub_ps},
    mem::MaybeUninit,
};

use super::super::registers::{LANES, load, store, write};
use super::planes::{Across, AcrossMut, Planes};

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
fn column(rows: [&[f32]; 4], position: usize) -> [__m512; 4] {
    let [a, b, c, d] = rows;
    of_inputs([load(&a[position..]), load(&b[position..]), load(&c[position..]), load(&d[position..])])
}

/// Transforms the tiles of a row: those that start at every other pixel of four rows of inputs, one pixel before them. The
/// first becomes number `tile` of the planes.
#[target_feature(enable = "avx512f")]
pub(super) fn transform_inputs(rows: [&[f32]; 4], channels: usize, planes: &mut Planes, tile: usize) {
    let zeros = [_mm512_setzero_ps(); 4];
    let row = rows[0].len();
    for channel in (0..channels).step_by(LANES) {
        let (mut first, mut second) = (zeros, column(rows, channel));
        for (index, position) in (channel + channels..row).step_by(2 * channels).enumerate() {
            let third = column(rows, position);
            let last = position + channels >= row;
            let fourth = if last { zeros } else { column(rows, position + channels) };
            let mut target = planes.across_mut(channel / LANES, tile + index);
            for row in 0..4 {
                let transformed = of_inputs([first[row], second[row], third[row], fourth[row]]);
                for (column, value) in transformed.into_iter().enumerate() {
                    store(value, target.at(row, column));
                }
            }
            (first, second) = (third, fourth);
        }
    }
}

/// Transforms the tiles of two rows of gradients, which do not overlap.
#[target_feature(enable = "avx512f")]
pub(super) fn transform_gradient(rows: [&[f32]; 2], outputs: usize, planes: &mut Planes, tile: usize) {
    let [upper, lower] = rows;
    for output in (0..outputs).step_by(LANES) {
        for (index, position) in (output..upper.len()).step_by(2 * outputs).enumerate() {
            let next = position + outputs;
            let left = of_gradient([load(&upper[position..]), load(&lower[position..])]);
            let right = of_gradient([load(&upper[next..]), load(&lower[next..])]);
            let mut target = planes.across_mut(output / LANES, tile + index);
            for row in 0..4 {
                for (column, value) in of_gradient([left[row], right[row]]).into_iter().enumerate() {
                    store(value, target.at(row, column));
                }
            }
        }
    }
}

/// One column of a tile of products.
#[inline]
#[target_feature(enable = "avx512f")]
fn products(tile: &Across<'_>, column: usize) -> [__m512; 2] {
    to_outputs([load(tile.at(0, column)), load(tile.at(1, column)), load(tile.at(2, column)), load(tile.at(3, column))])
}

/// Writes every element of two rows of outputs, from the products of their tiles.
#[target_feature(enable = "avx512f")]
pub(super) fn write_outputs(planes: &Planes, tile: usize, outputs: usize, rows: [&mut [MaybeUninit<f32>]; 2]) {
    let [upper, lower] = rows;
    for output in (0..outputs).step_by(LANES) {
        for (index, position) in (output..upper.len()).step_by(2 * outputs).enumerate() {
            let tile = planes.across(output / LANES, tile + index);
            let [a, b, c, d] = [products(&tile, 0), products(&tile, 1), products(&tile, 2), products(&tile, 3)];
            let next = position + outputs;
            let [left, right] = to_outputs([a[0], b[0], c[0], d[0]]);
            write(left, &mut upper[position..]);
            write(right, &mut upper[next..]);
            let [left, right] = to_outputs([a[1], b[1], c[1], d[1]]);
            write(left, &mut lower[position..]);
            write(right, &mut lower[next..]);
        }
    }
}

/// `G g Gᵀ` of 16 outputs; `kernel` starts at them and has its taps `stride` apart.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transform_kernel(kernel: &[f32], stride: usize, target: &mut AcrossMut<'_>) {
    let tap = |tap: usize| &kernel[tap * stride..];
    let mut columns = [[_mm512_setzero_ps(); 4]; 3];
    for (index, column) in columns.iter_mut().enumerate() {
        *column = of_kernel([load(tap(index)), load(tap(3 + index)), load(tap(6 + index))]);
    }
    for row in 0..4 {
        let transformed = of_kernel([columns[0][row], columns[1][row], columns[2][row]]);
        for (column, value) in transformed.into_iter().enumerate() {
            store(value, target.at(row, column));
        }
    }
}

/// `Gᵀ u G` of 16 outputs, into the layout of [`transform_kernel`]'s kernel.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn write_kernel(sums: &Across<'_>, stride: usize, kernel: &mut [f32]) {
    let mut columns = [[_mm512_setzero_ps(); 3]; 4];
    for (index, column) in columns.iter_mut().enumerate() {
        *column = to_kernel([
            load(sums.at(0, index)),
            load(sums.at(1, index)),
            load(sums.at(2, index)),
            load(sums.at(3, index)),
        ]);
    }
    for row in 0..3 {
        let taps = to_kernel([columns[0][row], columns[1][row], columns[2][row], columns[3][row]]);
        for (column, value) in taps.into_iter().enumerate() {
            store(value, &mut kernel[(3 * row + column) * stride..]);
        }
    }
}
