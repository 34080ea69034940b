//! The kernels in plain code, for processors that have none of their own.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use super::{
    super::{GROUP, packing},
    digits::Digits,
};

/// `Σ code · whole` of every candidate's group, as a low part and a high part that counts 65536 times.
#[inline(always)]
pub(super) fn products<const BITS: usize>(codes: &[u8], digits: &Digits, into: &mut [[i32; 2]]) {
    for (into, codes) in into.iter_mut().zip(codes.chunks_exact(32 * BITS)) {
        let codes = packing::unpack::<BITS>(codes);
        let (mut low, mut high) = (0, 0);
        // A code has 8 bits at most: sums of 256 products with 12 bits fit an i32.
        for (code, whole) in codes.iter().zip(&digits.whole) {
            low += *code as i32 * (whole & 0xfff);
            high += *code as i32 * (whole >> 12);
        }
        let sum = i64::from(low) + (i64::from(high) << 12);
        *into = [(sum & 0xffff) as i32, (sum >> 16) as i32];
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
