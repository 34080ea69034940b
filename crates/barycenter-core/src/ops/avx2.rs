//! The inner loops of the indirect convolution for processors with AVX2 and FMA.
//!
//! Both keep a tile of the result in registers: six rows (pixels, or elements of a patch) by two registers of outputs,
//! which with two registers of the other factor and one that spreads an element fill the sixteen there are.

use std::arch::x86_64::{
    __m256, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_maskload_ps, _mm256_set_epi32,
    _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::walk::Run;

/// Floats in a register.
pub(super) const LANES: usize = 8;
/// Rows of a tile.
pub(super) const ROWS: usize = 6;
/// Outputs of a tile.
pub(super) const WIDTH: usize = 2 * LANES;

/// Whether this processor can run the functions of this file.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// The patches of one walk over framed images, and where their products go.
pub(super) struct Patches<'a> {
    pub(super) framed: &'a [f32],
    pub(super) starts: &'a [usize],
    pub(super) targets: &'a [usize],
    pub(super) runs: &'a [Run],
}

/// `result[target ..][.. width] = bias + patch · panel` for every patch, with `width` 8 or 16 and `panel` [depth, width].
pub(super) fn multiply_patches(
    patches: &Patches<'_>,
    panel: &[f32],
    bias: Option<&[f32]>,
    width: usize,
    result: &mut [f32],
) {
    let Patches { framed, starts, targets, runs } = *patches;
    let depth: usize = runs.iter().map(|run| run.length).sum();
    let reach = runs.iter().map(|run| run.offset + run.length).max().unwrap_or(0);
    assert!(available(), "asked only after `available`");
    assert!(width == WIDTH || width == LANES, "a panel is one or two registers wide");
    assert!(panel.len() >= depth * width && bias.is_none_or(|bias| bias.len() >= width), "a whole panel");
    assert_eq!(starts.len(), targets.len(), "a target for each patch");
    assert!(starts.iter().all(|start| start + reach <= framed.len()), "every patch lies in the frame");
    assert!(targets.iter().all(|target| target + width <= result.len()), "every pixel lies in the result");
    let zeros = [0.0; WIDTH];
    let bias = bias.unwrap_or(&zeros);
    #[expect(unsafe_code, reason = "functions compiled for AVX2 that walk along pointers")]
    // SAFETY: AVX2 and FMA were found, and all that the functions ask for was just asserted.
    unsafe {
        if width == WIDTH {
            multiply_tiles::<2>(patches, panel, bias, result);
        } else {
            multiply_tiles::<1>(patches, panel, bias, result);
        }
    }
}

/// # Safety
///
/// Every patch must lie in `framed`, every target with `R` registers behind it in `result`; `panel` must hold `R` registers
/// for each element of a patch and `bias` one `R` registers.
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "walks along pointers, so that the inner loop checks no bounds")]
unsafe fn multiply_tiles<const R: usize>(patches: &Patches<'_>, panel: &[f32], bias: &[f32], result: &mut [f32]) {
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

/// Where the patches of some pixels start.
#[derive(Clone, Copy)]
pub(super) struct Starts<'a> {
    starts: &'a [usize],
    /// The largest, so that a bound is checked once for all.
    furthest: usize,
}

impl<'a> Starts<'a> {
    pub(super) fn new(starts: &'a [usize]) -> Self {
        Self { starts, furthest: starts.iter().copied().max().unwrap_or(0) }
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether `count` elements from every start on lie in `elements`.
    fn fit(&self, elements: &[f32], count: usize) -> bool {
        self.furthest + count <= elements.len()
    }
}

/// Elements of patches beside the gradients of their pixels.
pub(super) struct Columns<'a> {
    pub(super) elements: &'a [f32],
    /// Where the first of the tile's elements lies for each pixel.
    pub(super) starts: Starts<'a>,
    /// [pixels, stride], of which the first `width` are the tile's outputs.
    pub(super) gradient: &'a [f32],
    pub(super) stride: usize,
}

/// `sum[row · sum_stride ..][.. width] += Σ elements[start + row] · gradient` over all pixels, for `rows` up to 6 elements
/// and `width` 8 or 16.
pub(super) fn add_outer_products(columns: &Columns<'_>, rows: usize, width: usize, sum: &mut [f32], sum_stride: usize) {
    let Columns { elements, starts, gradient, stride } = *columns;
    let pixels = starts.starts.len();
    assert!(available(), "asked only after `available`");
    assert!(width == WIDTH || width == LANES, "a tile is one or two registers wide");
    assert!((1..=ROWS).contains(&rows) && width <= sum_stride, "a tile has up to six rows");
    assert!(sum.len() >= (rows - 1) * sum_stride + width, "the tile lies in the sum");
    assert!(pixels == 0 || gradient.len() >= (pixels - 1) * stride + width, "a gradient for each pixel");
    assert!(starts.fit(elements, rows), "every pixel has the tile's elements");
    #[expect(unsafe_code, reason = "functions compiled for AVX2 that walk along pointers")]
    // SAFETY: AVX2 and FMA were found, and all that the functions ask for was just asserted.
    unsafe {
        match (rows, width) {
            (6, WIDTH) => add_tile::<6, 2>(columns, sum, sum_stride),
            (5, WIDTH) => add_tile::<5, 2>(columns, sum, sum_stride),
            (4, WIDTH) => add_tile::<4, 2>(columns, sum, sum_stride),
            (3, WIDTH) => add_tile::<3, 2>(columns, sum, sum_stride),
            (2, WIDTH) => add_tile::<2, 2>(columns, sum, sum_stride),
            (1, WIDTH) => add_tile::<1, 2>(columns, sum, sum_stride),
            (6, _) => add_tile::<6, 1>(columns, sum, sum_stride),
            (5, _) => add_tile::<5, 1>(columns, sum, sum_stride),
            (4, _) => add_tile::<4, 1>(columns, sum, sum_stride),
            (3, _) => add_tile::<3, 1>(columns, sum, sum_stride),
            (2, _) => add_tile::<2, 1>(columns, sum, sum_stride),
            _ => add_tile::<1, 1>(columns, sum, sum_stride),
        }
    }
}

/// # Safety
///
/// `elements` must hold `B` elements from every start on, `gradient` `R` registers for every pixel, `sum` `R` registers in
/// each of `B` rows.
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "walks along pointers, so that the inner loop checks no bounds")]
unsafe fn add_tile<const B: usize, const R: usize>(columns: &Columns<'_>, sum: &mut [f32], sum_stride: usize) {
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

/// Copies `rows` up to 6 elements from every start into `packed` [pixels, 8], so that they lie close together.
pub(super) fn pack(elements: &[f32], starts: Starts<'_>, rows: usize, packed: &mut [f32]) {
    assert!(available(), "asked only after `available`");
    assert!((1..=ROWS).contains(&rows) && packed.len() >= starts.starts.len() * LANES, "room for every pixel");
    assert!(starts.fit(elements, rows), "every pixel has the tile's elements");
    #[expect(unsafe_code, reason = "a function compiled for AVX2")]
    // SAFETY: AVX2 was found, and all that the function asks for was just asserted.
    unsafe {
        pack_rows(elements, starts.starts, rows, packed);
    }
}

/// # Safety
///
/// `elements` must hold `rows` elements from every start on, `packed` one register for each start.
#[target_feature(enable = "avx2,fma")]
#[expect(unsafe_code, reason = "masked loads take a pointer")]
unsafe fn pack_rows(elements: &[f32], starts: &[usize], rows: usize, packed: &mut [f32]) {
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
