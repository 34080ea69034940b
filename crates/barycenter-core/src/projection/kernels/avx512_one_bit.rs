//! The kernels of 1 bit for AVX-512 with VNNI. A group is half a register: `project` takes two candidates in one, `reconstruct`
//! puts the bytes of four side by side, whose products one instruction adds up.

use std::arch::x86_64::{
    __m256i, __m512i, _mm_sfence, _mm256_loadu_si256, _mm256_unpackhi_epi8, _mm256_unpackhi_epi16,
    _mm256_unpacklo_epi8, _mm256_unpacklo_epi16, _mm512_add_epi32, _mm512_and_si512, _mm512_broadcast_i64x4,
    _mm512_castsi256_si512, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_inserti64x4, _mm512_mul_ps,
    _mm512_permutex2var_epi32, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32,
    _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_sub_epi32,
};

use super::{
    super::GROUP,
    Packed, Target,
    avx512::{self, QUAD},
    avx512_digits, avx512_reconstruct,
    digits::{DIGITS, Digits},
    factors::{BLOCK, Block},
    project_tiles, reconstruct_tiles,
};

/// Bytes of a group.
const BYTES: usize = 32;
/// Codes of a byte.
const CODES: usize = 8;
/// Codes of a byte whose sums are in registers at a time.
const AT_ONCE: usize = 4;

/// As [`project_tiles`].
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
pub(super) fn project(packed: &Packed<'_>, gradient: &[f32]) -> Vec<f64> {
    project_tiles::<1>(
        packed,
        gradient,
        |digits, gradient| avx512_digits::fill::<1>(digits, gradient),
        |codes, digits, into| products(codes, digits, into),
    )
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn products(codes: &[u8], digits: &Digits, into: &mut [i32]) {
    let (codes, _) = codes.as_chunks::<BYTES>();
    let (several, last) = codes.as_chunks::<QUAD>();
    let (into_several, into_last) = into.as_chunks_mut::<QUAD>();
    for (quad, into) in several.iter().zip(into_several) {
        let [a, b, c, d] = quad;
        // Two tiles ahead: one is soon reached.
        avx512::prefetch(a, 2 * codes.len());
        avx512::prefetch(c, 2 * codes.len());
        let [first, second] = products_of_pairs([joined(load(a), load(b)), joined(load(c), load(d))], digits);
        *into = avx512::halves(first, second);
    }
    for (candidate, into) in last.iter().zip(into_last) {
        let [sums] = products_of_pairs([joined(load(candidate), load(candidate))], digits);
        *into = avx512::halves(sums, sums)[0];
    }
}

/// Sums of products of the candidates in both halves of each register, in the halves of the result.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
#[expect(clippy::needless_range_loop, reason = "closures and iterators over registers are not compiled for AVX-512")]
fn products_of_pairs<const R: usize>(bytes: [__m512i; R], digits: &Digits) -> [__m512i; R] {
    let mut sums = [[_mm512_setzero_si512(); DIGITS]; R];
    for code in 0..CODES {
        for digit in 0..DIGITS {
            let plane: &[u32; 8] = digits.planes[(code * DIGITS + digit) * 8..].first_chunk().expect("a plane");
            #[expect(unsafe_code, reason = "a load takes a pointer")]
            // SAFETY: the array has exactly the words that are read; no alignment is asked for.
            let plane = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(plane.as_ptr().cast()) });
            for i in 0..R {
                sums[i][digit] = _mm512_dpbusd_epi32(sums[i][digit], bit(bytes[i], code), plane);
            }
        }
    }
    let mut whole = bytes;
    for i in 0..R {
        whole[i] = _mm512_add_epi32(sums[i][0], _mm512_slli_epi32::<8>(sums[i][1]));
    }
    whole
}

/// As [`reconstruct_tiles`].
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
pub(super) fn reconstruct(packed: &Packed<'_>, target: &mut Target<'_>) {
    reconstruct_tiles::<1>(
        packed,
        target,
        |codes, block, first, into| combine(codes, block, first, into),
        |sums, centre, weights, stream| avx512_reconstruct::store(sums, centre, weights, stream),
    );
    if target.stream {
        // Stores past the caches are seen by other threads after this.
        _mm_sfence();
    }
}

/// As `portable::combine`.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn combine(codes: &[u8], block: &Block, first: bool, into: &mut [f32; GROUP]) {
    let (codes, _) = codes.as_chunks::<BYTES>();
    let quads = codes.len().div_ceil(QUAD);
    let mut bytes = [[_mm512_setzero_si512(); 2]; BLOCK / QUAD];
    let mut factors = [[_mm512_setzero_si512(); DIGITS]; BLOCK / QUAD];
    for (index, (quad, pairs)) in codes.chunks(QUAD).zip(block.pairs.as_chunks::<2>().0).enumerate() {
        avx512::prefetch(&quad[0], codes.len());
        avx512::prefetch(&quad[quad.len() / 2], codes.len());
        // Candidates that are not there stand as others, with digits of zero.
        let of = |place: usize| &quad[place.min(quad.len() - 1)];
        bytes[index] = side_by_side(of(0), of(1), of(2), of(3));
        for digit in 0..DIGITS {
            let word = pairs[0][digit] & 0xffff | pairs[1][digit] << 16;
            factors[index][digit] = _mm512_set1_epi32(word);
        }
    }
    for from in (0..CODES).step_by(AT_ONCE) {
        let mut sums = [[[_mm512_setzero_si512(); DIGITS]; 2]; AT_ONCE];
        for (bytes, factors) in bytes.iter().zip(&factors).take(quads) {
            for (code, sums) in sums.iter_mut().enumerate() {
                for (sums, bytes) in sums.iter_mut().zip(bytes) {
                    let codes = bit(*bytes, from + code);
                    for (sum, factor) in sums.iter_mut().zip(factors) {
                        *sum = _mm512_dpbusd_epi32(*sum, codes, *factor);
                    }
                }
            }
        }
        for (code, sums) in sums.into_iter().enumerate() {
            add_columns(sums, block, (from + code, first), into);
        }
    }
}

/// Adds to the columns of one code of all bytes what their whole sums stand for.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn add_columns(sums: [[__m512i; DIGITS]; 2], block: &Block, (code, first): (usize, bool), into: &mut [f32; GROUP]) {
    let offset = _mm512_set1_epi32(block.offset);
    let [low, high] = [twice_whole(sums[0]), twice_whole(sums[1])];
    // The bytes of a word lie in four lanes; those of the words 0 to 7 start at 0, 8, 16, 24, 4, 12, 20, 28 of both registers.
    for bytes in 0..2 {
        let lanes = _mm512_add_epi32(
            _mm512_setr_epi32(0, 8, 16, 24, 4, 12, 20, 28, 1, 9, 17, 25, 5, 13, 21, 29),
            _mm512_set1_epi32(2 * bytes),
        );
        let whole = _mm512_sub_epi32(_mm512_permutex2var_epi32(low, lanes, high), offset);
        let sums = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), _mm512_set1_ps(block.half_unit));
        // Byte b of word w holds in bit k the element (8 b + k) · 8 + w.
        for (half, byte) in [2 * bytes as usize, 2 * bytes as usize + 1].into_iter().enumerate() {
            let columns: &mut [f32; 8] = into[(8 * byte + code) * 8..].first_chunk_mut().expect("eight columns");
            avx512::add_half(sums, half, first, columns);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn twice_whole(sums: [__m512i; DIGITS]) -> __m512i {
    _mm512_add_epi32(_mm512_slli_epi32::<1>(sums[0]), _mm512_slli_epi32::<9>(sums[1]))
}

/// The bytes of four groups, those of one place next to each other: places 0 to 3, 16 to 19, 4 to 7, 20 to 23 in the first
/// register; 8 to 11, 24 to 27, 12 to 15, 28 to 31 in the second.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn side_by_side(a: &[u8; BYTES], b: &[u8; BYTES], c: &[u8; BYTES], d: &[u8; BYTES]) -> [__m512i; 2] {
    let (a, b, c, d) = (load(a), load(b), load(c), load(d));
    let low = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
    let high = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
    [
        joined(_mm256_unpacklo_epi16(low.0, low.1), _mm256_unpackhi_epi16(low.0, low.1)),
        joined(_mm256_unpacklo_epi16(high.0, high.1), _mm256_unpackhi_epi16(high.0, high.1)),
    ]
}

/// One bit of every byte.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn bit(bytes: __m512i, code: usize) -> __m512i {
    let shifted = match code {
        0 => bytes,
        1 => _mm512_srli_epi16::<1>(bytes),
        2 => _mm512_srli_epi16::<2>(bytes),
        3 => _mm512_srli_epi16::<3>(bytes),
        4 => _mm512_srli_epi16::<4>(bytes),
        5 => _mm512_srli_epi16::<5>(bytes),
        6 => _mm512_srli_epi16::<6>(bytes),
        _ => _mm512_srli_epi16::<7>(bytes),
    };
    _mm512_and_si512(shifted, _mm512_set1_epi8(1))
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn joined(low: __m256i, high: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn load(bytes: &[u8; BYTES]) -> __m256i {
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array has exactly the bytes that are read; no alignment is asked for.
    unsafe {
        _mm256_loadu_si256(bytes.as_ptr().cast())
    }
}
