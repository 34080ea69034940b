//! The loops over a group's elements for AVX-512, in registers from the load to the sums. They give the bits of `plain`: only
//! what is exact is reckoned in another way, and what is rounded is rounded in the same order.

use std::{
    arch::x86_64::{
        __m512, __m512i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEG_INF, _mm_add_pd, _mm_add_sd, _mm_cvtsd_f64,
        _mm_unpackhi_pd, _mm256_add_pd, _mm256_castpd256_pd128, _mm256_extractf128_pd, _mm256_or_si256,
        _mm256_slli_epi32, _mm512_add_pd, _mm512_add_ps, _mm512_and_si512, _mm512_castpd512_pd256, _mm512_castps_si512,
        _mm512_castps512_ps256, _mm512_castsi512_si256, _mm512_cvtpd_ps, _mm512_cvtps_epi32, _mm512_cvtps_pd,
        _mm512_extractf32x8_ps, _mm512_extractf64x4_pd, _mm512_extracti64x4_epi64, _mm512_fmadd_pd, _mm512_fmadd_ps,
        _mm512_fnmadd_pd, _mm512_loadu_ps, _mm512_max_epi32, _mm512_mul_pd, _mm512_mul_ps, _mm512_or_si512,
        _mm512_range_ps, _mm512_reduce_max_epi32, _mm512_roundscale_ps, _mm512_set1_epi32, _mm512_set1_pd,
        _mm512_set1_ps, _mm512_setzero_pd, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32,
        _mm512_storeu_ps, _mm512_storeu_si512, _mm512_sub_ps,
    },
    mem::MaybeUninit,
};

use super::{
    GROUP, Reconstruction,
    groups::{Attempts, Batch, Group, LANES, Packed, STEPS},
    half_levels, registers,
};
use crate::{memory::prefetch, projection::packing::slots};

/// Registers of a group.
const VECTORS: usize = GROUP / LANES;

/// As [`Batch::code`]; past the caches where asked.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
pub(super) fn code<const BITS: usize>(
    batch: &mut Batch,
    groups: &[Group<'_>],
    codes: &mut [MaybeUninit<u8>],
    stream: bool,
) {
    batch.code::<BITS>(
        groups,
        codes,
        (|group, into| deviate(group, into), |factor, values| scale(factor, values)),
        |values, inverses, into, ahead| attempt::<BITS>(values, inverses, into, ahead),
        (|_, _, _| {}, |packed, into| registers::store(packed, into, stream)),
    );
}

/// As [`Batch::copy`].
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
pub(super) fn copy(batch: &mut Batch, groups: &[Group<'_>], codes: &mut [MaybeUninit<u8>]) {
    batch.copy(groups, codes, (|group, into| deviate(group, into), |factor, values| scale(factor, values)));
}

/// As `plain::deviate`.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn deviate(group: &Group<'_>, values: &mut Reconstruction) -> i32 {
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    let mut largest = [_mm512_setzero_si512(); 2];
    for vector in 0..VECTORS {
        let d = _mm512_sub_ps(load(group.values, vector), load(group.centre, vector));
        put(d, values, vector);
        let bits = _mm512_and_si512(_mm512_castps_si512(d), magnitude);
        largest[vector % 2] = _mm512_max_epi32(largest[vector % 2], bits);
    }
    _mm512_reduce_max_epi32(_mm512_max_epi32(largest[0], largest[1]))
}

/// As `plain::scale`.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn scale(factor: f32, values: &mut Reconstruction) -> f64 {
    let factor = _mm512_set1_ps(factor);
    let mut squares = _mm512_setzero_ps();
    for vector in 0..VECTORS {
        let value = _mm512_mul_ps(load(values, vector), factor);
        put(value, values, vector);
        squares = _mm512_add_ps(squares, _mm512_mul_ps(value, value));
    }
    total(squares)
}

/// As `plain::attempt`, and packs the codes of every step meanwhile: they are in registers.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn attempt<const BITS: usize>(
    values: &Reconstruction,
    (inverses, both): ([f32; STEPS], bool),
    into: &mut Packed,
    ahead: *const f32,
) -> Attempts {
    // At 8 bits the second step is seldom needed; at fewer, whether it is cannot be guessed, and a wrong guess costs as much.
    if BITS == 1 || (BITS == 8 && !both) {
        let ([length], [product]) = attempts::<BITS, 1>(values, [inverses[0]], into, ahead);
        Attempts { lengths: [length; STEPS], products: [product; STEPS] }
    } else {
        let (lengths, products) = attempts::<BITS, STEPS>(values, inverses, into, ahead);
        Attempts { lengths, products }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn attempts<const BITS: usize, const N: usize>(
    values: &Reconstruction,
    inverses: [f32; N],
    into: &mut Packed,
    ahead: *const f32,
) -> ([f64; N], [f64; N]) {
    let half = half_levels(BITS);
    // The largest number that stays below the end of the levels when half of them is added, so that its floor is the last code.
    let limit = _mm512_set1_ps((2.0 * half).next_down() - half);
    let (half, lowest) = (_mm512_set1_ps(half), _mm512_set1_ps(0.5 - half));
    let mut inverse = [half; N];
    for n in 0..N {
        inverse[n] = _mm512_set1_ps(inverses[n]);
    }
    let (mut lengths, mut products) = ([_mm512_setzero_ps(); N], [_mm512_setzero_ps(); N]);
    let (vectors, shift) = if BITS == 1 { (VECTORS, 2) } else { (slots(BITS), BITS) };
    for run in 0..VECTORS / vectors {
        let mut words = [_mm512_setzero_si512(); N];
        // The lower and the upper half of the words: whole numbers of 16 bits, exact in f32.
        for part in 0..2 {
            let mut halves = [_mm512_setzero_ps(); N];
            for slot in 0..vectors / 2 {
                let vector = run * vectors + part * (vectors / 2) + slot;
                prefetch(ahead.wrapping_add(vector * LANES));
                let value = load(values, vector);
                let weight = _mm512_set1_ps((1_u32 << (slot * shift)) as f32);
                for n in 0..N {
                    // The smaller magnitude with the sign of the first: one operation where a minimum and a maximum are two.
                    let place = _mm512_range_ps::<0b0010>(_mm512_mul_ps(value, inverse[n]), limit);
                    let place = _mm512_add_ps(place, half);
                    let code = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(place);
                    let level = _mm512_add_ps(code, lowest);
                    // Fused where the product is exact; the other is rounded first, as every processor can.
                    lengths[n] = _mm512_fmadd_ps(level, level, lengths[n]);
                    products[n] = _mm512_add_ps(products[n], _mm512_mul_ps(level, value));
                    halves[n] = _mm512_fmadd_ps(code, weight, halves[n]);
                }
            }
            for n in 0..N {
                let half = _mm512_cvtps_epi32(halves[n]);
                words[n] = if part == 0 { half } else { _mm512_or_si512(words[n], _mm512_slli_epi32::<16>(half)) };
            }
        }
        for n in 0..N {
            if BITS == 1 {
                // Two slots lie side by side.
                let odd = _mm256_slli_epi32::<1>(_mm512_extracti64x4_epi64::<1>(words[n]));
                registers::put_bytes(_mm256_or_si256(_mm512_castsi512_si256(words[n]), odd), &mut into[n]);
            } else {
                put_words(words[n], &mut into[n][64 * run..]);
            }
        }
    }
    let mut totals = ([0.0; N], [0.0; N]);
    for n in 0..N {
        totals.0[n] = total(lengths[n]);
        totals.1[n] = total(products[n]);
    }
    totals
}

/// As `groups::total`.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn total(lanes: __m512) -> f64 {
    let first = _mm512_cvtps_pd(_mm512_castps512_ps256(lanes));
    let last = _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(lanes));
    let sums = _mm256_add_pd(_mm512_castpd512_pd256(first), _mm512_extractf64x4_pd::<1>(first));
    let sums = _mm256_add_pd(sums, _mm512_castpd512_pd256(last));
    let sums = _mm256_add_pd(sums, _mm512_extractf64x4_pd::<1>(last));
    let pair = _mm_add_pd(_mm256_castpd256_pd128(sums), _mm256_extractf128_pd::<1>(sums));
    _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)))
}

/// As `plain::mean`, without its division, which takes longer than all the rest.
///
/// A sum times one over n is at most two units in the last place beside the quotient. What is left of the sum is a whole number
/// of these units times n, and exact; its n-th part, added in one rounding, gives the quotient's own rounding unless the quotient
/// is nearer to the middle between two numbers than 2^-53 units. It never is: it is a multiple of 1 / n units off the middle, and
/// not on it, because n times a number of 54 bits, the last of them 1, has more bits than a sum does.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
#[expect(clippy::needless_range_loop, reason = "closures and iterators over registers are not compiled for AVX-512")]
pub(super) fn mean(rows: &[&[f32]], into: &mut [f32]) {
    let n = rows.len() as f64;
    let (count, inverse) = (_mm512_set1_pd(n), _mm512_set1_pd(1.0 / n));
    for (strip, into) in into.as_chunks_mut::<{ 2 * LANES }>().0.iter_mut().enumerate() {
        let mut sums = [_mm512_setzero_pd(); 4];
        for row in rows {
            let row = &row.as_chunks::<{ 2 * LANES }>().0[strip];
            for part in 0..4 {
                sums[part] = _mm512_add_pd(sums[part], _mm512_cvtps_pd(registers::load(row, part)));
            }
        }
        for part in 0..4 {
            let guess = _mm512_mul_pd(sums[part], inverse);
            let left = _mm512_fnmadd_pd(guess, count, sums[part]);
            registers::put(_mm512_cvtpd_ps(_mm512_fmadd_pd(left, inverse, guess)), into, part);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn load(values: &Reconstruction, vector: usize) -> __m512 {
    let values = &values.as_chunks::<LANES>().0[vector];
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array has exactly the numbers that are read; no alignment is asked for.
    unsafe {
        _mm512_loadu_ps(values.as_ptr())
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn put(register: __m512, into: &mut [f32], vector: usize) {
    let into = &mut into.as_chunks_mut::<LANES>().0[vector];
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly the numbers that are written; no alignment is asked for.
    unsafe {
        _mm512_storeu_ps(into.as_mut_ptr(), register);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn put_words(register: __m512i, into: &mut [u8]) {
    let into: &mut [u8; 64] = into.first_chunk_mut().expect("room for a register's worth of words");
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly the bytes that are written; no alignment is asked for.
    unsafe {
        _mm512_storeu_si512(into.as_mut_ptr().cast(), register);
    }
}
