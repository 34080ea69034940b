//! The mean of some rows.

use std::arch::x86_64::{
    __m256, __m512, _mm256_storeu_ps, _mm512_add_pd, _mm512_castps512_ps256, _mm512_cvtpd_ps, _mm512_cvtps_pd,
    _mm512_extractf32x8_ps, _mm512_fmadd_pd, _mm512_fnmadd_pd, _mm512_loadu_ps, _mm512_mul_pd, _mm512_set1_pd,
    _mm512_setzero_pd,
};

use crate::projection::codec::ahead::{Ahead, COLUMNS};

/// Registers of f64 that hold as many columns as are averaged at once.
const PARTS: usize = COLUMNS / WIDTH;

/// Numbers of such a register.
const WIDTH: usize = 8;

/// As `plain::mean`, without its division, which takes longer than all the rest.
///
/// A sum times one over n is at most two units in the last place beside the quotient. What is left of the sum is a whole number
/// of these units times n, and exact; its n-th part, added in one rounding, gives the quotient's own rounding unless the quotient
/// is nearer to the middle between two numbers than 2^-53 units. It never is: it is a multiple of 1 / n units off the middle, and
/// not on it, because n times a number of 54 bits, the last of them 1, has more bits than a sum does.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
#[expect(clippy::needless_range_loop, reason = "closures and iterators over registers are not compiled for AVX-512")]
pub(in crate::projection::codec) fn mean(rows: &[&[f32]], into: &mut [f32], ahead: &mut Ahead<'_>) {
    let n = rows.len() as f64;
    let (count, inverse) = (_mm512_set1_pd(n), _mm512_set1_pd(1.0 / n));
    for (strip, into) in into.as_chunks_mut::<COLUMNS>().0.iter_mut().enumerate() {
        let mut sums = [_mm512_setzero_pd(); PARTS];
        for row in rows {
            let row = &row.as_chunks::<COLUMNS>().0[strip];
            ahead.ask();
            for vector in 0..PARTS / 2 {
                let values = load(row, vector);
                let (low, high) = (_mm512_castps512_ps256(values), _mm512_extractf32x8_ps::<1>(values));
                sums[2 * vector] = _mm512_add_pd(sums[2 * vector], _mm512_cvtps_pd(low));
                sums[2 * vector + 1] = _mm512_add_pd(sums[2 * vector + 1], _mm512_cvtps_pd(high));
            }
        }
        for part in 0..PARTS {
            let guess = _mm512_mul_pd(sums[part], inverse);
            let left = _mm512_fnmadd_pd(guess, count, sums[part]);
            put(_mm512_cvtpd_ps(_mm512_fmadd_pd(left, inverse, guess)), into, part);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn load(values: &[f32; COLUMNS], vector: usize) -> __m512 {
    let values = &values.as_chunks::<{ 2 * WIDTH }>().0[vector];
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array has exactly the numbers that are read; no alignment is asked for.
    unsafe {
        _mm512_loadu_ps(values.as_ptr())
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn put(numbers: __m256, into: &mut [f32; COLUMNS], part: usize) {
    let into = &mut into.as_chunks_mut::<WIDTH>().0[part];
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly the numbers that are written; no alignment is asked for.
    unsafe {
        _mm256_storeu_ps(into.as_mut_ptr(), numbers);
    }
}
