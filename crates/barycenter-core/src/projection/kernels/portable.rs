//! The kernels in plain code, for processors that have none of their own.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use super::{
    super::{GROUP, packing},
    digits::Digits,
    factors::Block,
};

/// `Σ code · whole` of every candidate's group: at most 256 · 255 · 32639, which an i32 holds.
#[inline(always)]
pub(super) fn products<const BITS: usize>(codes: &[u8], digits: &Digits, into: &mut [i32]) {
    for (into, codes) in into.iter_mut().zip(codes.chunks_exact(32 * BITS)) {
        let codes = packing::unpack::<BITS>(codes);
        *into = codes.iter().zip(&digits.whole).map(|(code, whole)| *code as i32 * whole).sum();
    }
}

/// Adds `Σ factor · level` of every element over a block's candidates; sums of the first block start at zero.
#[inline(always)]
pub(super) fn combine<const BITS: usize>(codes: &[u8], block: &Block, first: bool, sums: &mut [f32; GROUP]) {
    let mut whole = [-block.offset; GROUP];
    for (factor, codes) in block.whole.iter().zip(codes.chunks_exact(32 * BITS)) {
        for (whole, code) in whole.iter_mut().zip(packing::unpack::<BITS>(codes)) {
            *whole += 2 * code as i32 * factor;
        }
    }
    if first {
        sums.fill(0.0);
    }
    for (sum, whole) in sums.iter_mut().zip(whole) {
        *sum += whole as f32 * block.half_unit;
    }
}
