//! The kernels in plain code, for processors that have none of their own.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use super::{
    super::{GROUP, packing},
    digits::Digits,
};

/// `Σ code · whole` of every candidate's group: at most 256 · 255 · 32639, which an i32 holds.
#[inline(always)]
pub(super) fn products<const BITS: usize>(codes: &[u8], digits: &Digits, into: &mut [i32]) {
    for (into, codes) in into.iter_mut().zip(codes.chunks_exact(32 * BITS)) {
        let codes = packing::unpack::<BITS>(codes);
        *into = codes.iter().zip(&digits.whole).map(|(code, whole)| *code as i32 * whole).sum();
    }
}

/// `Σ factor · level` of every element over the candidates.
#[inline(always)]
pub(super) fn combine<const BITS: usize>(codes: &[u8], factors: &[f32], _offsets: &[f32], into: &mut [f32; GROUP]) {
    let lowest = 0.5 - (1_u32 << (BITS - 1)) as f32;
    into.fill(0.0);
    for (factor, codes) in factors.iter().zip(codes.chunks_exact(32 * BITS)) {
        for (sum, code) in into.iter_mut().zip(packing::unpack::<BITS>(codes)) {
            *sum += (code as f32 + lowest) * factor;
        }
    }
}
