//! `plain`, compiled for AVX2, with stores past the caches, and means of the same bits without divisions.

use std::{
    arch::x86_64::{
        __m256, __m256d, _mm256_add_pd, _mm256_castps256_ps128, _mm256_cvtpd_ps, _mm256_cvtps_pd,
        _mm256_extractf128_ps, _mm256_fmadd_pd, _mm256_fnmadd_pd, _mm256_mul_pd, _mm256_set_m128, _mm256_set1_pd,
        _mm256_setzero_pd, _mm256_setzero_ps,
    },
    mem::MaybeUninit,
};

use super::{
    ahead::{Ahead, COLUMNS},
    groups::{Batch, Group},
    plain,
    registers::{self, WIDTH, load, put},
};

/// Columns of which the mean is made at once.
const LANES: usize = 16;

/// Registers of them.
const SIDES: usize = LANES / WIDTH;

/// As [`Batch::code`]; past the caches where asked.
#[target_feature(enable = "avx2,fma")]
#[expect(
    clippy::redundant_closure,
    reason = "a closure of this function is compiled for AVX2, and what is inlined into it"
)]
pub(super) fn code<const BITS: usize>(
    batch: &mut Batch,
    groups: &[Group<'_>],
    codes: &mut [MaybeUninit<u8>],
    (stream, ahead): (bool, &mut Ahead<'_>),
) {
    batch.code::<BITS>(
        groups,
        codes,
        ahead,
        |groups, elements, _, _| plain::fix(groups, elements),
        |groups, steps, elements, ahead| plain::attempt::<BITS>(groups, steps, elements, ahead),
        (
            |fixed, inverse, into| plain::pack::<BITS>(fixed, inverse, into),
            |packed, into| registers::store(packed, into, stream),
        ),
    );
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

/// As `plain::mean`; `avx512::mean` says why this is exact.
#[target_feature(enable = "avx2,fma")]
pub(super) fn mean(rows: &[&[f32]], into: &mut [f32], ahead: &mut Ahead<'_>) {
    let n = rows.len() as f64;
    let (count, inverse) = (_mm256_set1_pd(n), _mm256_set1_pd(1.0 / n));
    for (strip, into) in into.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut sums = [_mm256_setzero_pd(); 2 * SIDES];
        for row in rows {
            let row = &row.as_chunks::<LANES>().0[strip];
            if (strip * LANES).is_multiple_of(COLUMNS) {
                ahead.ask();
            }
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
