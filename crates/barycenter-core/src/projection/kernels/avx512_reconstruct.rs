//! `reconstruct` for AVX-512, 2 bits and more; groups of 1 bit have their own kernel (`avx512_one_bit`).

use std::arch::x86_64::{
    __m512i, _mm_sfence, _mm512_add_epi16, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512, _mm512_cvtepi32_ps,
    _mm512_loadu_ps, _mm512_madd_epi16, _mm512_maddubs_epi16, _mm512_mul_ps, _mm512_set1_epi8, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_stream_ps,
    _mm512_sub_epi32, _mm512_unpackhi_epi8, _mm512_unpackhi_epi16, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi8, _mm512_unpacklo_epi16, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use super::{
    super::{GROUP, packing::slots},
    Packed, Target, avx2,
    avx512::{ask_ahead, load_bytes, shifted_codes},
    digits::DIGITS,
    factors::Block,
    reconstruct_tiles,
};

/// Codes of the bytes of a register whose sums are in registers at a time, of one register or of two.
const UNITS: usize = 4;

/// Words of a register.
const WORDS: usize = 16;

/// As [`reconstruct_tiles`].
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
pub(super) fn reconstruct<const BITS: usize, const BYTES: usize>(packed: &Packed<'_>, target: &mut Target<'_>) {
    reconstruct_tiles::<BITS>(
        packed,
        target,
        |codes, block, first, into| combine::<BITS, BYTES>(codes, block, first, into),
        |sums, centre, weights, stream| store(sums, centre, weights, stream),
    );
    if target.stream {
        // Stores past the caches are seen by other threads after this.
        _mm_sfence();
    }
}

/// As `portable::combine`.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn combine<const BITS: usize, const BYTES: usize>(codes: &[u8], block: &Block, first: bool, into: &mut [f32; GROUP]) {
    let (codes, _) = codes.as_chunks::<BYTES>();
    match BITS {
        2 => combine_vectors::<BITS, BYTES, 1>(codes, block, (0, first), into),
        4 => combine_vectors::<BITS, BYTES, 2>(codes, block, (0, first), into),
        _ => {
            combine_vectors::<BITS, BYTES, 2>(codes, block, (0, first), into);
            combine_vectors::<BITS, BYTES, 2>(codes, block, (2, first), into);
        }
    }
}

/// Sums of the codes in `VECTORS` registers of each candidate, from the one at `from` on; of 8 bits both halves of the codes, one
/// after the other, as whole bytes would overflow 16 bits.
///
/// The bytes of two candidates are put side by side, so that a product of bytes adds up both.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
#[expect(clippy::needless_range_loop, reason = "closures and iterators over registers are not compiled for AVX-512")]
fn combine_vectors<const BITS: usize, const BYTES: usize, const VECTORS: usize>(
    codes: &[[u8; BYTES]],
    block: &Block,
    (from, first): (usize, bool),
    into: &mut [f32; GROUP],
) {
    let mask = _mm512_set1_epi8(((1 << BITS.min(4)) - 1) as i8);
    let mut sums = [[[_mm512_setzero_si512(); DIGITS]; 2]; UNITS];
    for (pair, digits) in codes.chunks(2).zip(&block.pairs) {
        if from == 0 {
            ask_ahead(pair.as_flattened());
        }
        // A candidate alone stands beside itself; its double has digits of zero.
        let (a, b) = (&pair[0], &pair[pair.len() - 1]);
        let digits = [_mm512_set1_epi32(digits[0]), _mm512_set1_epi32(digits[1])];
        for vector in 0..VECTORS {
            let (a, b) = (load_bytes(a, from + vector), load_bytes(b, from + vector));
            let bytes = [_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)];
            for code in 0..UNITS / VECTORS {
                for half in 0..2 {
                    let codes = match BITS {
                        8 => shifted_codes::<4>(bytes[half], code),
                        _ => shifted_codes::<BITS>(bytes[half], code),
                    };
                    let codes = _mm512_and_si512(codes, mask);
                    let sums = &mut sums[vector * (UNITS / VECTORS) + code][half];
                    for digit in 0..DIGITS {
                        sums[digit] = _mm512_add_epi16(sums[digit], _mm512_maddubs_epi16(codes, digits[digit]));
                    }
                }
            }
        }
    }
    for vector in 0..VECTORS {
        let mut whole = [[_mm512_setzero_si512(); 4]; UNITS];
        for code in 0..UNITS / VECTORS {
            whole[code] = transposed(sums[vector * (UNITS / VECTORS) + code]);
        }
        for byte in 0..4 {
            if BITS == 8 {
                let sum = _mm512_add_epi32(whole[0][byte], _mm512_slli_epi32::<4>(whole[1][byte]));
                add_columns::<BITS>(sum, block, (from + vector, byte, first), into);
            } else {
                for code in 0..UNITS / VECTORS {
                    let slot = byte * (8 / BITS) + code;
                    add_columns::<BITS>(whole[code][byte], block, (from + vector, slot, first), into);
                }
            }
        }
    }
}

/// Twice the whole sums of the digits' sums, by bytes of the words: bytes 0 of all words, bytes 1, …
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn transposed(sums: [[__m512i; DIGITS]; 2]) -> [__m512i; 4] {
    // In every quarter the first half holds the bytes of two words, the second those of the two after them.
    let [low, high] = sums;
    let worth = _mm512_set1_epi32(512 << 16 | 2);
    let words = [
        _mm512_madd_epi16(_mm512_unpacklo_epi16(low[0], low[1]), worth),
        _mm512_madd_epi16(_mm512_unpackhi_epi16(low[0], low[1]), worth),
        _mm512_madd_epi16(_mm512_unpacklo_epi16(high[0], high[1]), worth),
        _mm512_madd_epi16(_mm512_unpackhi_epi16(high[0], high[1]), worth),
    ];
    let (first, second) = (_mm512_unpacklo_epi32(words[0], words[1]), _mm512_unpacklo_epi32(words[2], words[3]));
    let (third, fourth) = (_mm512_unpackhi_epi32(words[0], words[1]), _mm512_unpackhi_epi32(words[2], words[3]));
    [
        _mm512_unpacklo_epi64(first, second),
        _mm512_unpackhi_epi64(first, second),
        _mm512_unpacklo_epi64(third, fourth),
        _mm512_unpackhi_epi64(third, fourth),
    ]
}

/// Adds to the columns of one slot of a register's words what twice their whole sums stand for.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn add_columns<const BITS: usize>(
    sums: __m512i,
    block: &Block,
    (vector, slot, first): (usize, usize, bool),
    into: &mut [f32; GROUP],
) {
    let sums = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, _mm512_set1_epi32(block.offset)));
    let sums = _mm512_mul_ps(sums, _mm512_set1_ps(block.half_unit));
    let columns: &mut [f32; WORDS] = &mut into.as_chunks_mut().0[vector * slots(BITS) + slot];
    #[expect(unsafe_code, reason = "loads and stores take pointers")]
    // SAFETY: the array has exactly the floats that are read and written; no alignment is asked for.
    unsafe {
        let before = if first { _mm512_setzero_ps() } else { _mm512_loadu_ps(columns.as_ptr()) };
        _mm512_storeu_ps(columns.as_mut_ptr(), _mm512_add_ps(before, sums));
    }
}

/// `weights = centre + sums`, past the caches where `stream` says so: a line at a time where the weights are aligned to lines.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
pub(super) fn store(sums: &[f32; GROUP], centre: &[f32; GROUP], weights: &mut [f32; GROUP], stream: bool) {
    if !(stream && weights.as_ptr().addr().is_multiple_of(64)) {
        return avx2::store(sums, centre, weights, stream);
    }
    let pieces = sums.as_chunks::<WORDS>().0.iter().zip(centre.as_chunks::<WORDS>().0);
    for ((sums, centre), weights) in pieces.zip(weights.as_chunks_mut::<WORDS>().0) {
        #[expect(unsafe_code, reason = "loads and stores take pointers")]
        // SAFETY: the arrays have exactly the floats that are read and written; the alignment that the store asks for was found.
        unsafe {
            let sum = _mm512_add_ps(_mm512_loadu_ps(centre.as_ptr()), _mm512_loadu_ps(sums.as_ptr()));
            _mm512_stream_ps(weights.as_mut_ptr(), sum);
        }
    }
}
