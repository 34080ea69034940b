//! Deviations as whole numbers: the first of the two loops over a group.

use std::arch::x86_64::{
    __m512, __m512i, _mm_add_epi64, _mm_cvtsi128_si32, _mm_cvtsi128_si64, _mm_extract_epi64, _mm256_add_epi64,
    _mm256_castsi256_si128, _mm256_extracti128_si256, _mm512_add_epi64, _mm512_and_si512, _mm512_castps_si512,
    _mm512_castsi512_ps, _mm512_castsi512_si128, _mm512_castsi512_si256, _mm512_cmplt_epu32_mask,
    _mm512_extracti64x4_epi64, _mm512_fmadd_ps, _mm512_mask_blend_epi32, _mm512_max_epi32, _mm512_or_si512,
    _mm512_set1_epi32, _mm512_set1_epi64, _mm512_set1_ps, _mm512_setzero_si512, _mm512_shuffle_epi32,
    _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_srli_epi64, _mm512_sub_epi32, _mm512_sub_ps, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi64,
};

use super::{VECTORS, dot, load, put, put_pair, vectors_of_pair};
use crate::projection::codec::{
    Reconstruction,
    ahead::Ahead,
    groups::{Deviations, Elements, Fixed, Group, LAST_BITS, Measured, SMALLEST, TOGETHER},
};

/// As `plain::fix`, with the deviations in the order of `vectors_of_pair`.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
pub(super) fn fix<const BITS: usize>(
    groups: &[Group<'_>],
    into: &mut [Elements],
    deviations: &mut [Deviations; 2],
    ahead: &mut Ahead<'_>,
) -> Measured {
    let (mut largest, mut squares) = ([_mm512_setzero_si512(); TOGETHER], [_mm512_setzero_si512(); TOGETHER]);
    // A group's unit is known only when all of it is read, and takes a while: the next group is read meanwhile.
    largest[0] = deviate(&groups[0], &mut deviations[0].0, ahead);
    for g in 0..groups.len() {
        if let Some(next) = groups.get(g + 1) {
            largest[(g + 1) % TOGETHER] = deviate(next, &mut deviations[(g + 1) % 2].0, ahead);
        }
        squares[g] = round::<BITS>(largest[g], &deviations[g % 2].0, &mut into[g].fixed, ahead);
    }
    let largest = largest.map(|largest| _mm_cvtsi128_si32(_mm512_castsi512_si128(largest)));
    Measured { largest, squares: totals(squares) }
}

/// Values less their centre, and the largest magnitude of these as the bits of it, in every lane.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn deviate(group: &Group<'_>, into: &mut Reconstruction, ahead: &mut Ahead<'_>) -> __m512i {
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    let mut largest = [_mm512_setzero_si512(); 4];
    let lines = ahead.lines();
    for four in 0..VECTORS / 4 {
        lines.ask(four);
        for (part, largest) in largest.iter_mut().enumerate() {
            let vector = 4 * four + part;
            let deviation = _mm512_sub_ps(load(group.values, vector), load(group.centre, vector));
            put(deviation, into, vector);
            let bits = _mm512_and_si512(_mm512_castps_si512(deviation), magnitude);
            *largest = _mm512_max_epi32(*largest, bits);
        }
    }
    let halves = [_mm512_max_epi32(largest[0], largest[1]), _mm512_max_epi32(largest[2], largest[3])];
    let largest = _mm512_max_epi32(halves[0], halves[1]);
    let largest = _mm512_max_epi32(largest, _mm512_shuffle_i32x4::<0b01_00_11_10>(largest, largest));
    let largest = _mm512_max_epi32(largest, _mm512_shuffle_i32x4::<0b10_11_00_01>(largest, largest));
    let largest = _mm512_max_epi32(largest, _mm512_shuffle_epi32::<0b01_00_11_10>(largest));
    _mm512_max_epi32(largest, _mm512_shuffle_epi32::<0b10_11_00_01>(largest))
}

/// Rounds deviations to whole units; of the sum of their squares, every lane of 64 bits has a part.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn round<const BITS: usize>(
    largest: __m512i,
    deviations: &Reconstruction,
    into: &mut Fixed,
    ahead: &mut Ahead<'_>,
) -> __m512i {
    let (inverse, last_bits) = (inverse_of_unit(largest), _mm512_set1_ps(LAST_BITS));
    let lines = ahead.lines();
    let lower_half = _mm512_set1_epi32(0xffff);
    // Of 32 bits and no sign: eight squares stay below 2^32.
    let mut squares = [_mm512_setzero_si512(); 2];
    for pair in 0..VECTORS / 2 {
        if pair % 2 == 0 {
            lines.ask(pair / 2);
        }
        let (low, high) = vectors_of_pair(BITS, pair);
        let low = _mm512_fmadd_ps(load(deviations, low), inverse, last_bits);
        let high = _mm512_fmadd_ps(load(deviations, high), inverse, last_bits);
        let high = _mm512_slli_epi32::<16>(_mm512_castps_si512(high));
        let both = _mm512_or_si512(_mm512_and_si512(_mm512_castps_si512(low), lower_half), high);
        put_pair(both, into, pair);
        squares[pair % 2] = dot(squares[pair % 2], both, both);
    }
    let lower = _mm512_set1_epi64(0xffff_ffff);
    let low = _mm512_add_epi64(_mm512_and_si512(squares[0], lower), _mm512_and_si512(squares[1], lower));
    let high = _mm512_add_epi64(_mm512_srli_epi64::<32>(squares[0]), _mm512_srli_epi64::<32>(squares[1]));
    _mm512_add_epi64(low, high)
}

/// One over a unit, as `groups::inverse_of_unit` has it, in every lane.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn inverse_of_unit(largest: __m512i) -> __m512 {
    let is_coded = _mm512_cmplt_epu32_mask(
        _mm512_sub_epi32(largest, _mm512_set1_epi32(SMALLEST)),
        _mm512_set1_epi32(0x7f80_0000 - SMALLEST),
    );
    let exponent = _mm512_and_si512(largest, _mm512_set1_epi32(0x7f80_0000));
    let inverse = _mm512_sub_epi32(_mm512_set1_epi32((2 * 127 + 13) << 23), exponent);
    _mm512_castsi512_ps(_mm512_mask_blend_epi32(is_coded, _mm512_set1_epi32(127 << 23), inverse))
}

/// Adds up the lanes.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn totals([a, b, c, d]: [__m512i; TOGETHER]) -> [u64; TOGETHER] {
    let ab = _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    let cd = _mm512_add_epi64(_mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d));
    let mut totals = [0; TOGETHER];
    for (totals, two) in totals.as_chunks_mut().0.iter_mut().zip([ab, cd]) {
        let two = _mm256_add_epi64(_mm512_castsi512_si256(two), _mm512_extracti64x4_epi64::<1>(two));
        let two = _mm_add_epi64(_mm256_castsi256_si128(two), _mm256_extracti128_si256::<1>(two));
        *totals = [_mm_cvtsi128_si64(two) as u64, _mm_extract_epi64::<1>(two) as u64];
    }
    totals
}
