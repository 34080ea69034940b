//! `project` for AVX-512 with VNNI, 64 bytes at a time; groups of 1 bit have their own kernel (`avx512_one_bit`).

use std::arch::x86_64::{
    __m128i, __m256i, __m512, __m512i, _MM_HINT_T0, _mm_add_epi32, _mm_prefetch, _mm_srli_si128, _mm_storeu_si128,
    _mm_unpacklo_epi32, _mm256_add_epi32, _mm256_add_ps, _mm256_castpd_ps, _mm256_castsi256_si128,
    _mm256_extracti128_si256, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm512_add_epi32, _mm512_and_si512,
    _mm512_castpd512_pd256, _mm512_castps_pd, _mm512_castsi512_si256, _mm512_dpbusd_epi32, _mm512_extractf64x4_pd,
    _mm512_extracti64x4_epi64, _mm512_loadu_si512, _mm512_reduce_add_epi32, _mm512_set1_epi8, _mm512_setzero_si512,
    _mm512_slli_epi32, _mm512_srli_epi16, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use super::{
    Packed, avx512_digits,
    digits::{DIGITS, Digits},
    project_tiles,
};

/// Candidates that share the loads of digits and the adding up of their lanes.
pub(super) const QUAD: usize = 4;

/// As [`project_tiles`].
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
pub(super) fn project<const BITS: usize, const BYTES: usize>(packed: &Packed<'_>, gradient: &[f32]) -> Vec<f64> {
    project_tiles::<BITS>(
        packed,
        gradient,
        |digits, gradient| avx512_digits::fill::<BITS>(digits, gradient),
        |codes, digits, into| products::<BITS, BYTES>(codes, digits, into),
    )
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn products<const BITS: usize, const BYTES: usize>(codes: &[u8], digits: &Digits, into: &mut [i32]) {
    let (codes, _) = codes.as_chunks::<BYTES>();
    let (several, last) = codes.as_chunks::<QUAD>();
    let (into_several, into_last) = into.as_chunks_mut::<QUAD>();
    for (group, into) in several.iter().zip(into_several) {
        // The processor follows the bytes of 8-bit codes better by itself.
        if BITS < 8 {
            ask_ahead(group.as_flattened());
        }
        products_of::<BITS, BYTES, QUAD>(group, digits, into);
    }
    for (candidate, into) in last.iter().zip(into_last) {
        products_of::<BITS, BYTES, 1>(std::array::from_ref(candidate), digits, std::array::from_mut(into));
    }
}

/// Registers of a group's codes, at 8 bits.
const MOST_VECTORS: usize = 4;

/// So many bytes ahead codes are asked for: most of them lie in the same page, and the rest are found in time.
const AHEAD: usize = 1024;

/// Asks for as many bytes that come soon.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
pub(super) fn ask_ahead(bytes: &[u8]) {
    for line in (0..bytes.len()).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(line + AHEAD).cast());
    }
}

/// Sums of products with each of the digits, for `R` candidates.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
#[expect(clippy::needless_range_loop, reason = "closures and iterators over registers are not compiled for AVX-512")]
fn products_of<const BITS: usize, const BYTES: usize, const R: usize>(
    codes: &[[u8; BYTES]; R],
    digits: &Digits,
    into: &mut [i32; R],
) {
    let mask = _mm512_set1_epi8((u8::MAX >> (8 - BITS)) as i8);
    let mut sums = [[_mm512_setzero_si512(); DIGITS]; R];
    // In the order in which they lie: the processor guesses what comes next from it.
    let mut bytes = [[mask; MOST_VECTORS]; R];
    for i in 0..R {
        for vector in 0..BITS / 2 {
            bytes[i][vector] = load_bytes(&codes[i], vector);
        }
    }
    for vector in 0..BITS / 2 {
        for code in 0..8 / BITS {
            for i in 0..R {
                let codes = _mm512_and_si512(shifted_codes::<BITS>(bytes[i][vector], code), mask);
                for digit in 0..DIGITS {
                    let digits = load_digits::<BITS>(digits, vector, code, digit);
                    sums[i][digit] = _mm512_dpbusd_epi32(sums[i][digit], codes, digits);
                }
            }
        }
    }
    let mut whole = [_mm512_setzero_si512(); R];
    for i in 0..R {
        whole[i] = _mm512_add_epi32(sums[i][0], _mm512_slli_epi32::<8>(sums[i][1]));
    }
    if let Some(quad) = whole.first_chunk::<QUAD>() {
        into.copy_from_slice(&totals(*quad)[..R]);
    } else {
        for i in 0..R {
            into[i] = _mm512_reduce_add_epi32(whole[i]);
        }
    }
}

/// The sums of four registers' lanes.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn totals([a, b, c, d]: [__m512i; QUAD]) -> [i32; QUAD] {
    // In every quarter first sums of two lanes, a b a b and c d c d, then those of all four: a b c d.
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
    stored(_mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half)))
}

/// The sums of the lanes of two registers' halves: low and high of the first, low and high of the second.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
pub(super) fn halves(first: __m512i, second: __m512i) -> [i32; QUAD] {
    // Every quarter becomes first, second, first, second.
    let pairs = _mm512_add_epi32(_mm512_unpacklo_epi32(first, second), _mm512_unpackhi_epi32(first, second));
    let [low, high] = [_mm512_castsi512_si256(pairs), _mm512_extracti64x4_epi64::<1>(pairs)];
    let quarter = |half: __m256i| _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
    let (low, high) = (quarter(low), quarter(high));
    stored(_mm_unpacklo_epi32(
        _mm_add_epi32(low, _mm_srli_si128::<8>(low)),
        _mm_add_epi32(high, _mm_srli_si128::<8>(high)),
    ))
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn stored(sums: __m128i) -> [i32; QUAD] {
    let mut result = [0; QUAD];
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly the four integers that are written.
    unsafe {
        _mm_storeu_si128(result.as_mut_ptr().cast(), sums);
    }
    result
}

/// Adds half of a register to eight columns, which are not read where this is the `first` of their sums.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
pub(super) fn add_half(sums: __m512, half: usize, first: bool, columns: &mut [f32; 8]) {
    let sums = _mm512_castps_pd(sums);
    let half = if half == 0 { _mm512_castpd512_pd256(sums) } else { _mm512_extractf64x4_pd::<1>(sums) };
    let sums = _mm256_castpd_ps(half);
    #[expect(unsafe_code, reason = "loads and stores take pointers")]
    // SAFETY: the array has exactly the eight floats that are read and written; no alignment is asked for.
    unsafe {
        let before = if first { _mm256_setzero_ps() } else { _mm256_loadu_ps(columns.as_ptr()) };
        _mm256_storeu_ps(columns.as_mut_ptr(), _mm256_add_ps(before, sums));
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
pub(super) fn shifted_codes<const BITS: usize>(bytes: __m512i, code: usize) -> __m512i {
    match code * BITS {
        0 => bytes,
        2 => _mm512_srli_epi16::<2>(bytes),
        4 => _mm512_srli_epi16::<4>(bytes),
        _ => _mm512_srli_epi16::<6>(bytes),
    }
}

/// Asks for the same candidate's codes in the next tile of `candidates`.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
pub(super) fn prefetch<const BYTES: usize>(codes: &[u8; BYTES], candidates: usize) {
    for line in (0..BYTES).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(line + candidates * BYTES).cast());
    }
}

/// The digits that go with the `code`-th codes of the bytes of a register.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn load_digits<const BITS: usize>(digits: &Digits, vector: usize, code: usize, digit: usize) -> __m512i {
    let plane = (vector * (8 / BITS) + code) * DIGITS + digit;
    let words: &[u32; 16] = digits.planes[plane * 16..].first_chunk().expect("planes hold whole registers");
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array has exactly the words that are read; no alignment is asked for.
    unsafe {
        _mm512_loadu_si512(words.as_ptr().cast())
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
pub(super) fn load_bytes<const BYTES: usize>(codes: &[u8; BYTES], vector: usize) -> __m512i {
    let bytes: &[u8; 64] = codes[64 * vector..].first_chunk().expect("a register's worth of bytes");
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array has exactly the bytes that are read; no alignment is asked for.
    unsafe {
        _mm512_loadu_si512(bytes.as_ptr().cast())
    }
}
