//! The inner loops of the indirect convolution for processors with AVX2 and FMA.
//!
//! Both keep a tile of the result in registers: six rows (pixels, or elements of a patch) by two registers of outputs,
//! which with two registers of the other factor and one that spreads an element fill the sixteen there are.

use std::arch::x86_64::{
    __m256, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_maskload_ps, _mm256_set_epi32,
    _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::tiles::{Columns, Patches};

/// Floats in a register.
const LANES: usize = 8;
/// Rows of a tile.
const ROWS: usize = 6;

/// # Safety
///
/// Every patch must lie in `framed`, every target with `R` registers behind it in `result`; `panel` must hold `R` registers
/// for each element of a patch and `bias` one `R` registers.
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "walks along pointers, so that the inner loop checks no bounds")]
pub(super) unsafe fn multiply_tiles<const R: usize>(
    patches: &Patches<'_>,
    panel: &[f32],
    bias: &[f32],
    result: &mut [f32],
) {
    let tiles = patches.starts.chunks(ROWS).zip(patches.targets.chunks(ROWS));
    for (starts, targets) in tiles {
        // SAFETY: the caller's promises, tile by tile.
        unsafe {
            match starts.len() {
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
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "walks along pointers, so that the inner loop checks no bounds")]
unsafe fn multiply_tile<const P: usize, const R: usize>(
    patches: &Patches<'_>,
    (starts, targets): (&[usize], &[usize]),
    panel: &[f32],
    bias: &[f32],
    result: &mut [f32],
) {
    // SAFETY: patches, panel, bias and targets are as long as the loops walk.
    unsafe {
        let mut rows: [*const f32; P] = [patches.framed.as_ptr(); P];
        for (row, start) in rows.iter_mut().zip(starts) {
            *row = row.add(*start);
        }
        let mut first = [_mm256_setzero_ps(); R];
        for (index, register) in first.iter_mut().enumerate() {
            *register = _mm256_loadu_ps(bias.as_ptr().add(index * LANES));
        }
        let mut sums = [first; P];
        let mut panel = panel.as_ptr();
        for run in patches.runs {
            let mut here = rows;
            for row in &mut here {
                *row = row.add(run.offset);
            }
            for element in 0..run.length {
                let mut weights = [_mm256_setzero_ps(); R];
                for (index, register) in weights.iter_mut().enumerate() {
                    *register = _mm256_loadu_ps(panel.add(index * LANES));
                }
                panel = panel.add(R * LANES);
                for (sums, row) in sums.iter_mut().zip(here) {
                    let value = _mm256_broadcast_ss(&*row.add(element));
                    for (sum, register) in sums.iter_mut().zip(weights) {
                        *sum = _mm256_fmadd_ps(value, register, *sum);
                    }
                }
            }
        }
        for (sums, target) in sums.into_iter().zip(targets) {
            for (index, sum) in sums.into_iter().enumerate() {
                _mm256_storeu_ps(result.as_mut_ptr().add(target + index * LANES), sum);
            }
        }
    }
}

/// # Safety
///
/// `elements` must hold `B` elements from every start on, `gradient` `R` registers for every pixel, `sum` `R` registers in
/// each of `B` rows.
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "walks along pointers, so that the inner loop checks no bounds")]
pub(super) unsafe fn add_tile<const B: usize, const R: usize>(
    columns: &Columns<'_>,
    sum: &mut [f32],
    sum_stride: usize,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); R]; B];
        let mut gradient = columns.gradient.as_ptr();
        for start in columns.starts.starts {
            let element = columns.elements.as_ptr().add(*start);
            let mut registers = [_mm256_setzero_ps(); R];
            for (index, register) in registers.iter_mut().enumerate() {
                *register = _mm256_loadu_ps(gradient.add(index * LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = _mm256_broadcast_ss(&*element.add(row));
                for (sum, register) in sums.iter_mut().zip(registers) {
                    *sum = _mm256_fmadd_ps(value, register, *sum);
                }
            }
            gradient = gradient.wrapping_add(columns.stride);
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (index, register) in sums.into_iter().enumerate() {
                let target = sum.as_mut_ptr().add(row * sum_stride + index * LANES);
                _mm256_storeu_ps(target, _mm256_add_ps(_mm256_loadu_ps(target), register));
            }
        }
    }
}

/// # Safety
///
/// `elements` must hold `rows` elements from every start on, `packed` one register for each start.
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "masked loads take a pointer")]
pub(super) unsafe fn pack_rows(elements: &[f32], starts: &[usize], rows: usize, packed: &mut [f32]) {
    let lane = |index: usize| if index < rows { -1 } else { 0 };
    let mask = _mm256_set_epi32(0, 0, lane(5), lane(4), lane(3), lane(2), lane(1), lane(0));
    for (start, packed) in starts.iter().zip(packed.chunks_exact_mut(LANES)) {
        // SAFETY: lanes beyond `rows` are not read.
        unsafe {
            let values: __m256 = _mm256_maskload_ps(elements.as_ptr().add(*start), mask);
            _mm256_storeu_ps(packed.as_mut_ptr(), values);
        }
    }
}
