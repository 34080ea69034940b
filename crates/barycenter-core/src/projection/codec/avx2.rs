//! The loops over a group's elements for AVX2, in registers from the load to the sums. They give the bits of `plain`: only what
//! is exact is reckoned in another way, and what is rounded is rounded in the same order.

use std::{
    arch::x86_64::{
        __m256, __m256d, __m256i, _mm_add_pd, _mm_add_sd, _mm_cvtsd_f64, _mm_cvtsi128_si32, _mm_max_epi32,
        _mm_shuffle_epi32, _mm_unpackhi_pd, _mm256_add_pd, _mm256_add_ps, _mm256_and_si256, _mm256_castpd256_pd128,
        _mm256_castps_si256, _mm256_castps256_ps128, _mm256_castsi256_si128, _mm256_cvtpd_ps, _mm256_cvtps_epi32,
        _mm256_cvtps_pd, _mm256_extractf128_pd, _mm256_extractf128_ps, _mm256_extracti128_si256, _mm256_floor_ps,
        _mm256_fmadd_pd, _mm256_fmadd_ps, _mm256_fnmadd_pd, _mm256_max_epi32, _mm256_max_ps, _mm256_min_ps,
        _mm256_mul_pd, _mm256_mul_ps, _mm256_or_si256, _mm256_set_m128, _mm256_set1_epi32, _mm256_set1_pd,
        _mm256_set1_ps, _mm256_setzero_pd, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_slli_epi32, _mm256_sub_ps,
    },
    mem::MaybeUninit,
};

use super::{
    GROUP, Reconstruction,
    groups::{Attempts, Batch, Group, LANES, Packed, STEPS},
    half_levels,
    registers::{WIDTH, load, put, put_bytes, store},
};
use crate::{memory::prefetch, projection::packing::slots};

/// Rows of a group: each has one number for every lane.
const ROWS: usize = GROUP / LANES;

/// Registers of a row.
const SIDES: usize = LANES / WIDTH;

/// As [`Batch::code`]; past the caches where asked.
#[target_feature(enable = "avx2,fma")]
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
        (|_, _, _| {}, |packed, into| store(packed, into, stream)),
    );
}

/// As [`Batch::copy`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn copy(batch: &mut Batch, groups: &[Group<'_>], codes: &mut [MaybeUninit<u8>]) {
    batch.copy(groups, codes, (|group, into| deviate(group, into), |factor, values| scale(factor, values)));
}

/// As `plain::deviate`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn deviate(group: &Group<'_>, values: &mut Reconstruction) -> i32 {
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    let mut largest = [_mm256_setzero_si256(); 4];
    for register in 0..GROUP / WIDTH {
        let d = _mm256_sub_ps(load(group.values, register), load(group.centre, register));
        put(d, values, register);
        let bits = _mm256_and_si256(_mm256_castps_si256(d), magnitude);
        largest[register % 4] = _mm256_max_epi32(largest[register % 4], bits);
    }
    let largest = [_mm256_max_epi32(largest[0], largest[1]), _mm256_max_epi32(largest[2], largest[3])];
    let largest = _mm256_max_epi32(largest[0], largest[1]);
    let four = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256::<1>(largest));
    let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two)))
}

/// As `plain::scale`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn scale(factor: f32, values: &mut Reconstruction) -> f64 {
    let factor = _mm256_set1_ps(factor);
    let mut squares = [_mm256_setzero_ps(); SIDES];
    for row in 0..ROWS {
        for (side, squares) in squares.iter_mut().enumerate() {
            let register = row * SIDES + side;
            let value = _mm256_mul_ps(load(values, register), factor);
            put(value, values, register);
            *squares = _mm256_add_ps(*squares, _mm256_mul_ps(value, value));
        }
    }
    total(squares)
}

/// As `plain::attempt`, and packs the codes of every step meanwhile: they are in registers.
#[inline]
#[target_feature(enable = "avx2,fma")]
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

/// One side of the rows after the other: the sums of both would not stay in registers.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn attempts<const BITS: usize, const N: usize>(
    values: &Reconstruction,
    inverses: [f32; N],
    into: &mut Packed,
    ahead: *const f32,
) -> ([f64; N], [f64; N]) {
    let zero = _mm256_setzero_ps();
    let (mut lengths, mut products) = ([[zero; SIDES]; N], [[zero; SIDES]; N]);
    let (mut inverse, mut bits) = ([zero; N], [_mm256_setzero_si256(); N]);
    for n in 0..N {
        inverse[n] = _mm256_set1_ps(inverses[n]);
    }
    let rows = rows_of_run(BITS);
    for side in 0..SIDES {
        let mut sums = ([zero; N], [zero; N]);
        for run in 0..ROWS / rows {
            let first = (side * ROWS + run * rows) / SIDES;
            for line in first..first + rows / SIDES {
                prefetch(ahead.wrapping_add(line * LANES));
            }
            let words = code_run::<BITS, N>(&values[run * rows * LANES..][..rows * LANES], side, inverse, &mut sums);
            for n in 0..N {
                if BITS == 1 {
                    // Two slots lie side by side.
                    let odd = _mm256_slli_epi32::<1>(words[n]);
                    bits[n] = if side == 0 { words[n] } else { _mm256_or_si256(bits[n], odd) };
                    put_bytes(bits[n], &mut into[n]);
                } else {
                    put_bytes(words[n], &mut into[n][64 * run + 32 * side..]);
                }
            }
        }
        for n in 0..N {
            (lengths[n][side], products[n][side]) = (sums.0[n], sums.1[n]);
        }
    }
    let mut totals = ([0.0; N], [0.0; N]);
    for n in 0..N {
        (totals.0[n], totals.1[n]) = (total(lengths[n]), total(products[n]));
    }
    totals
}

/// Rows whose codes lie in the same words.
const fn rows_of_run(bits: usize) -> usize {
    if bits == 1 { ROWS } else { slots(bits) }
}

/// Codes one side of a run's rows under N steps, and adds to the sums of squared levels and of levels times values.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn code_run<const BITS: usize, const N: usize>(
    values: &[f32],
    side: usize,
    inverse: [__m256; N],
    (lengths, products): &mut ([__m256; N], [__m256; N]),
) -> [__m256i; N] {
    let (rows, shift) = (rows_of_run(BITS), if BITS == 1 { 2 } else { BITS });
    let mut words = [_mm256_setzero_si256(); N];
    // The lower and the upper half of the words: whole numbers of 16 bits, exact in f32.
    for part in 0..2 {
        let mut halves = [_mm256_setzero_ps(); N];
        for slot in 0..rows / 2 {
            let value = load(values, (part * (rows / 2) + slot) * SIDES + side);
            let weight = _mm256_set1_ps((1_u32 << (slot * shift)) as f32);
            for n in 0..N {
                let code = whole::<BITS>(value, inverse[n]);
                let level = _mm256_add_ps(code, _mm256_set1_ps(0.5 - half_levels(BITS)));
                // Fused where the product is exact; the other is rounded first, as every processor can.
                lengths[n] = _mm256_fmadd_ps(level, level, lengths[n]);
                products[n] = _mm256_add_ps(products[n], _mm256_mul_ps(level, value));
                halves[n] = _mm256_fmadd_ps(code, weight, halves[n]);
            }
        }
        for n in 0..N {
            let half = _mm256_cvtps_epi32(halves[n]);
            words[n] = if part == 0 { half } else { _mm256_or_si256(words[n], _mm256_slli_epi32::<16>(half)) };
        }
    }
    words
}

/// As `plain::whole`, as floats.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn whole<const BITS: usize>(value: __m256, inverse: __m256) -> __m256 {
    let half = half_levels(BITS);
    let place = _mm256_add_ps(_mm256_mul_ps(value, inverse), _mm256_set1_ps(half));
    let place = _mm256_max_ps(place, _mm256_setzero_ps());
    _mm256_floor_ps(_mm256_min_ps(place, _mm256_set1_ps(2.0 * half - 1.0)))
}

/// As `groups::total`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn total(lanes: [__m256; SIDES]) -> f64 {
    let sums = _mm256_add_pd(lower(lanes[0]), upper(lanes[0]));
    let sums = _mm256_add_pd(_mm256_add_pd(sums, lower(lanes[1])), upper(lanes[1]));
    let pair = _mm_add_pd(_mm256_castpd256_pd128(sums), _mm256_extractf128_pd::<1>(sums));
    _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)))
}

/// The first four numbers.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn lower(register: __m256) -> __m256d {
    _mm256_cvtps_pd(_mm256_castps256_ps128(register))
}

/// The last four numbers.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn upper(register: __m256) -> __m256d {
    _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(register))
}

/// As `avx512::mean`, which says why this is exact.
#[target_feature(enable = "avx2,fma")]
pub(super) fn mean(rows: &[&[f32]], into: &mut [f32]) {
    let n = rows.len() as f64;
    let (count, inverse) = (_mm256_set1_pd(n), _mm256_set1_pd(1.0 / n));
    for (strip, into) in into.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut sums = [_mm256_setzero_pd(); 2 * SIDES];
        for row in rows {
            let row = &row.as_chunks::<LANES>().0[strip];
            for side in 0..SIDES {
                let register = load(row, side);
                sums[2 * side] = _mm256_add_pd(sums[2 * side], lower(register));
                sums[2 * side + 1] = _mm256_add_pd(sums[2 * side + 1], upper(register));
            }
        }
        let mut means = [_mm256_castps256_ps128(_mm256_setzero_ps()); 2 * SIDES];
        for part in 0..2 * SIDES {
            let guess = _mm256_mul_pd(sums[part], inverse);
            let left = _mm256_fnmadd_pd(guess, count, sums[part]);
            means[part] = _mm256_cvtpd_ps(_mm256_fmadd_pd(left, inverse, guess));
        }
        for side in 0..SIDES {
            put(_mm256_set_m128(means[2 * side + 1], means[2 * side]), into, side);
        }
    }
}
