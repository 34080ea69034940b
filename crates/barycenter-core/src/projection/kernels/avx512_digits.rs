//! A tile of a gradient as whole numbers, for AVX-512.

use std::arch::x86_64::{
    __m256i, __m512, __m512i, _mm256_storeu_si256, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512,
    _mm512_castps_si512, _mm512_castsi512_si256, _mm512_extracti64x4_epi64, _mm512_loadu_ps, _mm512_max_epi32,
    _mm512_mul_ps, _mm512_or_si512, _mm512_reduce_add_epi32, _mm512_reduce_max_epi32, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srli_epi32,
};

use super::{
    super::{GROUP, packing},
    digits::{self, Content, DIGITS, Digits, ROUNDING},
};
use crate::memory::prefetch;

/// Numbers of a register.
const WIDTH: usize = 16;

/// How far ahead of a tile the gradient is asked for.
const AHEAD: usize = 4 * GROUP;

/// As [`Digits::fill`].
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
pub(super) fn fill<const BITS: usize>(digits: &mut Digits, gradient: &[f32; GROUP]) -> Content {
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    let mut largest = [_mm512_setzero_si512(); 4];
    for place in 0..GROUP / WIDTH {
        // A tile of few bits is soon done: the processor's own prefetchers are late.
        prefetch(gradient.as_ptr().wrapping_add(AHEAD + place * WIDTH));
        let magnitudes = _mm512_and_si512(_mm512_castps_si512(load(gradient, place * WIDTH)), magnitude);
        largest[place % 4] = _mm512_max_epi32(largest[place % 4], magnitudes);
    }
    let largest = _mm512_max_epi32(_mm512_max_epi32(largest[0], largest[1]), _mm512_max_epi32(largest[2], largest[3]));
    let factor = match digits::factor(_mm512_reduce_max_epi32(largest)) {
        Ok(factor) => factor,
        Err(content) => return content,
    };
    // Every whole number still has the bits of `ROUNDING` on it; sums wrap, and are right in the end.
    let sum = _mm512_reduce_add_epi32(split::<BITS>(digits, gradient, factor));
    let sum = sum.wrapping_sub((ROUNDING.to_bits() as i32).wrapping_mul(GROUP as i32));
    Content::Whole { unit: 1.0 / f64::from(factor), sum: f64::from(sum) }
}

/// Fills the planes and returns sums of the rounded numbers' bits.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn split<const BITS: usize>(digits: &mut Digits, gradient: &[f32; GROUP], factor: f32) -> __m512i {
    let (run, codes) = (packing::run_words(BITS), packing::slots(BITS) / 4);
    let (factor, rounding) = (_mm512_set1_ps(factor), _mm512_set1_ps(ROUNDING));
    let half = _mm512_set1_epi32(0x80);
    let mut sums = _mm512_setzero_si512();
    // A register has the words of one code, or at 1 bit those of two neighbours.
    let together = WIDTH / run;
    for plane in (0..GROUP / (4 * run)).step_by(together) {
        let (block, code) = (plane / codes, plane % codes);
        // Bytes 0 to 3 of a word of codes hold the slots `code`, `codes + code`, …
        let mut bytes = [_mm512_setzero_si512(); 4];
        let mut carried = bytes;
        for byte in 0..4 {
            let numbers = load(gradient, (block * 4 * codes + byte * codes + code) * run);
            bytes[byte] = _mm512_castps_si512(_mm512_add_ps(_mm512_mul_ps(numbers, factor), rounding));
            sums = _mm512_add_epi32(sums, bytes[byte]);
            carried[byte] = _mm512_srli_epi32::<8>(_mm512_add_epi32(bytes[byte], half));
        }
        for (digit, words) in [low_bytes(bytes), low_bytes(carried)].into_iter().enumerate() {
            let first = (plane * DIGITS + digit) * run;
            store_half(_mm512_castsi512_si256(words), &mut digits.planes[first..]);
            let second = if together == 1 { first + run / 2 } else { first + DIGITS * run };
            store_half(_mm512_extracti64x4_epi64::<1>(words), &mut digits.planes[second..]);
        }
    }
    sums
}

/// The lowest bytes of four words as one word.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn low_bytes([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let low = _mm512_set1_epi32(0xff);
    let (a, b, c) = (_mm512_and_si512(a, low), _mm512_and_si512(b, low), _mm512_and_si512(c, low));
    let pair = _mm512_or_si512(a, _mm512_slli_epi32::<8>(b));
    _mm512_or_si512(pair, _mm512_or_si512(_mm512_slli_epi32::<16>(c), _mm512_slli_epi32::<24>(d)))
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn load(gradient: &[f32; GROUP], place: usize) -> __m512 {
    let numbers: &[f32; WIDTH] = gradient[place..].first_chunk().expect("a register's worth of numbers");
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array has exactly the numbers that are read; no alignment is asked for.
    unsafe {
        _mm512_loadu_ps(numbers.as_ptr())
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn store_half(register: __m256i, words: &mut [u32]) {
    let words: &mut [u32; WIDTH / 2] = words.first_chunk_mut().expect("room for half a register's worth of words");
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly the words that are written; no alignment is asked for.
    unsafe {
        _mm256_storeu_si256(words.as_mut_ptr().cast(), register);
    }
}
