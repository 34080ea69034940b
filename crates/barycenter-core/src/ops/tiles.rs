//! Tiles of the indirect convolution: sums that stay in registers while patches, or pixels, go by.
//!
//! A tile is some rows (pixels, or elements of a patch) by 8, 16 or 32 outputs. Every sum is made in the order of the elements
//! with fused products, whatever the processor: AVX2 and AVX-512 give the same bits.

use super::{avx2, avx512, walk::Run};

/// Fewest outputs of a tile; their numbers are multiples of it.
pub(super) const LEAST: usize = 8;
/// Elements of a patch in a tile of the kernel gradient.
pub(super) const ROWS: usize = 6;
/// Outputs that lie together in a panel.
pub(super) const WIDTH: usize = 16;

/// Whether this processor can run the functions of this file.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Outputs of the widest tile that `left` have room for: two panels at once where registers are wide enough.
pub(super) fn widest(left: usize) -> usize {
    if left >= 2 * WIDTH && avx512::available() { 2 * WIDTH } else { left.min(WIDTH) }
}

/// The patches of one walk over framed images, and where their products go.
pub(super) struct Patches<'a> {
    pub(super) framed: &'a [f32],
    pub(super) starts: &'a [usize],
    pub(super) targets: &'a [usize],
    pub(super) runs: &'a [Run],
}

/// `result[target ..][.. width] = bias + patch · panel` for every patch, with `width` 8 or 16 and `panel` [depth, width], or with
/// `width` 32 and two panels of 16 one after the other.
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
    assert!(width == widest(width) && width.is_multiple_of(LEAST), "a panel is 8 or 16 outputs wide");
    assert!(panel.len() >= depth * width && bias.is_none_or(|bias| bias.len() >= width), "a whole panel");
    assert_eq!(starts.len(), targets.len(), "a target for each patch");
    assert!(starts.iter().all(|start| start + reach <= framed.len()), "every patch lies in the frame");
    assert!(targets.iter().all(|target| target + width <= result.len()), "every pixel lies in the result");
    let zeros = [0.0; 2 * WIDTH];
    let bias = bias.unwrap_or(&zeros);
    #[expect(unsafe_code, reason = "functions compiled for the processor that walk along pointers")]
    // SAFETY: AVX2 and FMA were found, AVX-512 where it is asked for, and all that the functions ask for was just asserted.
    unsafe {
        match (width, avx512::available()) {
            (32, _) => avx512::multiply_tiles::<2>(patches, panel, bias, result),
            (16, true) => avx512::multiply_tiles::<1>(patches, panel, bias, result),
            (16, false) => avx2::multiply_tiles::<2>(patches, panel, bias, result),
            _ => avx2::multiply_tiles::<1>(patches, panel, bias, result),
        }
    }
}

/// Where the patches of some pixels start.
#[derive(Clone, Copy)]
pub(super) struct Starts<'a> {
    pub(super) starts: &'a [usize],
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
    /// [pixels, stride], of which the first are the tile's outputs; a tile of 32 outputs has [pixels, 16] twice.
    pub(super) gradient: &'a [f32],
    pub(super) stride: usize,
}

/// `sum[row · sum_stride ..][.. width] += Σ elements[start + row] · gradient` over all pixels, for `rows` up to 6 elements
/// and `width` 8, 16 or 32.
pub(super) fn add_outer_products(columns: &Columns<'_>, rows: usize, width: usize, sum: &mut [f32], sum_stride: usize) {
    let Columns { elements, starts, gradient, stride } = *columns;
    let pixels = starts.starts.len();
    assert!(available(), "asked only after `available`");
    assert!(width == widest(width) && width.is_multiple_of(LEAST), "a tile is 8, 16 or 32 outputs wide");
    assert!((1..=ROWS).contains(&rows) && width <= sum_stride, "a tile has up to six rows");
    assert!(sum.len() >= (rows - 1) * sum_stride + width, "the tile lies in the sum");
    let (pixels, reach) = if width > WIDTH { (2 * pixels, WIDTH) } else { (pixels, width) };
    assert!(width <= WIDTH || stride == WIDTH, "two panels lie one after the other");
    assert!(pixels == 0 || gradient.len() >= (pixels - 1) * stride + reach, "a gradient for each pixel");
    assert!(starts.fit(elements, rows), "every pixel has the tile's elements");
    macro_rules! with_rows {
        ($processor:ident, $registers:literal) => {
            match rows {
                6 => $processor::add_tile::<6, $registers>(columns, sum, sum_stride),
                5 => $processor::add_tile::<5, $registers>(columns, sum, sum_stride),
                4 => $processor::add_tile::<4, $registers>(columns, sum, sum_stride),
                3 => $processor::add_tile::<3, $registers>(columns, sum, sum_stride),
                2 => $processor::add_tile::<2, $registers>(columns, sum, sum_stride),
                _ => $processor::add_tile::<1, $registers>(columns, sum, sum_stride),
            }
        };
    }
    #[expect(unsafe_code, reason = "functions compiled for the processor that walk along pointers")]
    // SAFETY: AVX2 and FMA were found, AVX-512 where it is asked for, and all that the functions ask for was just asserted.
    unsafe {
        match (width, avx512::available()) {
            (32, _) => with_rows!(avx512, 2),
            (16, true) => with_rows!(avx512, 1),
            (16, false) => with_rows!(avx2, 2),
            _ => with_rows!(avx2, 1),
        }
    }
}

/// Copies `rows` up to 6 elements from every start into `packed` [pixels, 8], so that they lie close together.
pub(super) fn pack(elements: &[f32], starts: Starts<'_>, rows: usize, packed: &mut [f32]) {
    assert!(available(), "asked only after `available`");
    assert!((1..=ROWS).contains(&rows) && packed.len() >= starts.starts.len() * LEAST, "room for every pixel");
    assert!(starts.fit(elements, rows), "every pixel has the tile's elements");
    #[expect(unsafe_code, reason = "a function compiled for AVX2")]
    // SAFETY: AVX2 was found, and all that the function asks for was just asserted.
    unsafe {
        avx2::pack_rows(elements, starts.starts, rows, packed);
    }
}
