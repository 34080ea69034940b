//! The inner loops of the indirect convolution for processors with AVX-512: as those of `avx2`, with registers twice as wide.
//!
//! A tile is eight pixels, or six elements of a patch, by one or two registers of outputs: at least as many sums as fused
//! products are in flight, and with two registers more products than loads.

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::tiles::{Columns, Patches};

/// Floats in a register.
const LANES: usize = 16;
/// Pixels of a tile.
const PIXELS: usize = 8;

/// Whether this processor can run the functions of this file.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// # Safety
///
/// Every patch must lie in `framed`, every target with `R` registers behind it in `result`; `panel` must hold `R` panels of one
/// register for each element of a patch, one panel after the other, and `bias` `R` registers.
#[target_feature(enable = "avx512f")]
#[expect(unsafe_code, reason = "walks along pointers, so that the inner loop checks no bounds")]
pub(super) unsafe fn multiply_tiles<const R: usize>(
    patches: &Patches<'_>,
    panel: &[f32],
    bias: &[f32],
    result: &mut [f32],
) {
    let tiles = patches.starts.chunks(PIXELS).zip(patches.targets.chunks(PIXELS));
    for (starts, targets) in tiles {
        // SAFETY: the caller's promises, tile by tile.
        unsafe {
            match starts.len() {
                8 => multiply_tile::<8, R>(patches, (starts, targets), panel, bias, result),
                7 => multiply_tile::<7, R>(patches, (starts, targets), panel, bias, result),
                6 => multiply_tile::<6, R>(patches, (starts, targets), panel, bias, result),
                5 => multiply_tile::<5, R>(patches, (starts, targets), panel, bias, result),
                4 => multiply_tile::<4, R>(patches, (starts, targets), panel, bias, result),
                3 => multiply_tile::<3, R>(patches, (starts, targets), panel, bias, result),
                2 => multiply_tile::<2, R>(patches, (starts, targets), panel, bias, result),
                _ => multiply_tile::<1, R>(patches, (starts, targets), panel, bias, result),
            }
        }
    }
}

/// # Safety
///
/// As for [`multiply_tiles`], with `P` starts and targets.
#[inline]
#[target_feature(enable = "avx512f")]
#[expect(unsafe_code, reason = "walks along pointers, so that the inner loop checks no bounds")]
unsafe fn multiply_tile<const P: usize, const R: usize>(
    patches: &Patches<'_>,
    (starts, targets): (&[usize], &[usize]),
    panel: &[f32],
    bias: &[f32],
    result: &mut [f32],
) {
    // SAFETY: patches, panels, bias and targets are as long as the loops walk.
    unsafe {
        let mut rows: [*const f32; P] = [patches.framed.as_ptr(); P];
        for (row, start) in rows.iter_mut().zip(starts) {
            *row = row.add(*start);
        }
        let depth: usize = patches.runs.iter().map(|run| run.length).sum();
        let mut first = [_mm512_setzero_ps(); R];
        for (index, register) in first.iter_mut().enumerate() {
            *register = _mm512_loadu_ps(bias.as_ptr().add(index * LANES));
        }
        let mut sums = [first; P];
        let mut panel = panel.as_ptr();
        for run in patches.runs {
            let mut here = rows;
            for row in &mut here {
                *row = row.add(run.offset);
            }
            for element in 0..run.length {
                let mut weights = [_mm512_setzero_ps(); R];
                for (index, register) in weights.iter_mut().enumerate() {
                    *register = _mm512_loadu_ps(panel.add(index * depth * LANES));
                }
                panel = panel.add(LANES);
                for (sums, row) in sums.iter_mut().zip(here) {
                    let value = _mm512_set1_ps(*row.add(element));
                    for (sum, register) in sums.iter_mut().zip(weights) {
                        *sum = _mm512_fmadd_ps(value, register, *sum);
                    }
                }
            }
        }
        for (sums, target) in sums.into_iter().zip(targets) {
            for (index, sum) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(result.as_mut_ptr().add(target + index * LANES), sum);
            }
        }
    }
}

/// # Safety
///
/// `elements` must hold `B` elements from every start on, `gradient` one register for every pixel, and where `R` is 2 as much
/// again behind the last pixel; `sum` must hold `R` registers in each of `B` rows.
#[target_feature(enable = "avx512f")]
#[expect(unsafe_code, reason = "walks along pointers, so that the inner loop checks no bounds")]
pub(super) unsafe fn add_tile<const B: usize, const R: usize>(
    columns: &Columns<'_>,
    sum: &mut [f32],
    sum_stride: usize,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); R]; B];
        let panel = columns.starts.len() * columns.stride;
        let mut gradient = columns.gradient.as_ptr();
        for start in columns.starts.starts {
            let element = columns.elements.as_ptr().add(*start);
            let mut registers = [_mm512_setzero_ps(); R];
            for (index, register) in registers.iter_mut().enumerate() {
                *register = _mm512_loadu_ps(gradient.wrapping_add(index * panel));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*element.add(row));
                for (sum, register) in sums.iter_mut().zip(registers) {
                    *sum = _mm512_fmadd_ps(value, register, *sum);
                }
            }
            gradient = gradient.wrapping_add(columns.stride);
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (index, register) in sums.into_iter().enumerate() {
                let target = sum.as_mut_ptr().add(row * sum_stride + index * LANES);
                _mm512_storeu_ps(target, _mm512_add_ps(_mm512_loadu_ps(target), register));
            }
        }
    }
}
