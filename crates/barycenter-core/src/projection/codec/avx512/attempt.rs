//! Codes under the steps that are tried: the second of the two loops over a group.

use std::arch::x86_64::{
    __m512i, _mm_cvtsi32_si128, _mm256_or_si256, _mm256_slli_epi32, _mm512_add_epi32, _mm512_castsi512_si256,
    _mm512_extracti64x4_epi64, _mm512_max_epi16, _mm512_min_epi16, _mm512_mulhi_epi16, _mm512_set1_epi16,
    _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_sll_epi16, _mm512_srl_epi16, _mm512_storeu_si512,
    _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use super::{VECTORS, dot, load_pair, pairs_of_run};
use crate::projection::codec::{
    GROUP,
    ahead::Ahead,
    groups::{Attempts, Elements, STEPS, Steps, TOGETHER, fraction},
    registers,
};

/// As `plain::attempt`, and packs the codes of every step meanwhile: they are in registers.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
pub(super) fn attempt<const BITS: usize>(
    groups: usize,
    steps: &[Steps; TOGETHER],
    elements: &mut [Elements],
    ahead: &mut Ahead<'_>,
) -> [Attempts; TOGETHER] {
    let mut found = [_mm512_setzero_si512(); TOGETHER];
    for g in 0..groups {
        let Steps { inverses, both } = steps[g];
        // At 8 bits the second step is seldom needed; at fewer, whether it is cannot be guessed, and a wrong guess costs as much.
        found[g] = if BITS == 1 || (BITS == 8 && !both) {
            let [[lengths, products]] = attempts::<BITS, 1>([inverses[0]], &mut elements[g], ahead);
            side_by_side([lengths, lengths, products, products])
        } else {
            let [first, second] = attempts::<BITS, STEPS>(inverses, &mut elements[g], ahead);
            side_by_side([first[0], second[0], first[1], second[1]])
        };
    }
    totals(found)
}

/// Codes a group under each of the steps into its bytes, and sums up squares of levels and products.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn attempts<const BITS: usize, const N: usize>(
    inverses: [i16; N],
    Elements { fixed, packed }: &mut Elements,
    ahead: &mut Ahead<'_>,
) -> [[__m512i; 2]; N] {
    let mut inverse = [_mm512_setzero_si512(); N];
    for n in 0..N {
        inverse[n] = _mm512_set1_epi16(inverses[n]);
    }
    let mut sums = [[_mm512_setzero_si512(); 2]; N];
    let pairs = pairs_of_run(BITS);
    let lines = ahead.lines();
    for run in 0..VECTORS / 2 / pairs {
        let mut words = [_mm512_setzero_si512(); N];
        for slot in 0..pairs {
            let pair = run * pairs + slot;
            if pair.is_multiple_of(2) {
                lines.ask(pair / 2);
            }
            let fixed = load_pair(fixed, pair);
            for n in 0..N {
                let place = _mm512_mulhi_epi16(fixed, inverse[n]);
                // The second step is so large that nothing lies outside the levels.
                let place = if n == 0 { between_ends::<BITS>(place) } else { place };
                let level = level::<BITS>(place);
                sums[n][0] = dot(sums[n][0], level, level);
                sums[n][1] = dot(sums[n][1], level, fixed);
                words[n] = with_code::<BITS>(words[n], place, slot);
            }
        }
        for n in 0..N {
            put_codes::<BITS>(words[n], run, &mut packed[n]);
        }
    }
    sums
}

/// Places that lie beyond the levels, moved to the last of these.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn between_ends<const BITS: usize>(place: __m512i) -> __m512i {
    let end = 1_i16 << (BITS as u32 - 1 + fraction(BITS));
    _mm512_max_epi16(_mm512_min_epi16(place, _mm512_set1_epi16(end - 1)), _mm512_set1_epi16(-end))
}

/// Places without what is behind the point, and with a half.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn level<const BITS: usize>(place: __m512i) -> __m512i {
    let one = 1_i16 << fraction(BITS);
    _mm512_ternarylogic_epi32::<OR_AND>(_mm512_set1_epi16(one / 2), place, _mm512_set1_epi16(-one))
}

/// `a | b & c`.
const OR_AND: i32 = 0b1111_1000;

/// Bits between the codes of a word's halves; at 1 bit the others lie in the other half of the register, as [`put_codes`] knows.
const fn width(bits: usize) -> usize {
    if bits == 1 { 2 } else { bits }
}

/// Words to which the codes of some places are added. The first bit of each is still that of a number with a sign.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn with_code<const BITS: usize>(words: __m512i, place: __m512i, slot: usize) -> __m512i {
    let bits = slot * width(BITS);
    let shift = bits as i32 - fraction(BITS) as i32;
    let code = match shift {
        0 => place,
        1.. => _mm512_sll_epi16(place, _mm_cvtsi32_si128(shift)),
        _ => _mm512_srl_epi16(place, _mm_cvtsi32_si128(-shift)),
    };
    let own = ((1 << BITS) - 1) << bits;
    _mm512_ternarylogic_epi32::<OR_AND>(words, code, _mm512_set1_epi16(own as i16))
}

/// Writes the words of a run.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn put_codes<const BITS: usize>(words: __m512i, run: usize, into: &mut [u8; GROUP]) {
    let mut first_bits = 0_u16;
    for slot in 0..pairs_of_run(BITS) {
        first_bits |= 1 << (slot * width(BITS) + BITS - 1);
    }
    let words = _mm512_xor_si512(words, _mm512_set1_epi16(first_bits as i16));
    if BITS == 1 {
        let odd = _mm256_slli_epi32::<1>(_mm512_extracti64x4_epi64::<1>(words));
        registers::put_bytes(_mm256_or_si256(_mm512_castsi512_si256(words), odd), into);
        return;
    }
    let into: &mut [u8; 64] = &mut into.as_chunks_mut().0[run];
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly the bytes that are written; no alignment is asked for.
    unsafe {
        _mm512_storeu_si512(into.as_mut_ptr().cast(), words);
    }
}

/// Adds up lanes, so that each quarter of the register has a part of the sum of each.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn side_by_side([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// Adds up the quarters of each register.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn totals([a, b, c, d]: [__m512i; TOGETHER]) -> [Attempts; TOGETHER] {
    let ab = _mm512_add_epi32(_mm512_shuffle_i32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b));
    let cd = _mm512_add_epi32(_mm512_shuffle_i32x4::<0b01_00_01_00>(c, d), _mm512_shuffle_i32x4::<0b11_10_11_10>(c, d));
    let all =
        _mm512_add_epi32(_mm512_shuffle_i32x4::<0b10_00_10_00>(ab, cd), _mm512_shuffle_i32x4::<0b11_01_11_01>(ab, cd));
    let mut found = [0; 4 * TOGETHER];
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly the numbers that are written; no alignment is asked for.
    unsafe {
        _mm512_storeu_si512(found.as_mut_ptr().cast(), all);
    }
    let of_group = |g: usize| Attempts {
        lengths: [found[4 * g], found[4 * g + 1]],
        products: [found[4 * g + 2], found[4 * g + 3]],
    };
    [of_group(0), of_group(1), of_group(2), of_group(3)]
}
