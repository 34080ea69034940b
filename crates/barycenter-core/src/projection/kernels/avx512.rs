//! The kernels for AVX-512 with VNNI: 64 bytes at a time. Groups of 1 bit are too short for its registers
//! and stay with AVX2, as does `reconstruct`, which waits for memory there.

use std::arch::x86_64::{
    __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_add_epi32, _mm512_and_si512, _mm512_dpbusd_epi32, _mm512_loadu_si512,
    _mm512_reduce_add_epi32, _mm512_set1_epi8, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srli_epi16,
};

use super::{
    Packed, avx2,
    digits::{DIGITS, Digits},
    project_tiles,
};

/// Candidates that share the loads of digits.
const SHARING: usize = 4;

/// As [`project_tiles`].
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
pub(super) fn project<const BITS: usize, const BYTES: usize>(packed: &Packed<'_>, gradient: &[f32]) -> Vec<f64> {
    project_tiles::<BITS>(
        packed,
        gradient,
        |digits, gradient| avx2::fill::<BITS>(digits, gradient),
        |codes, digits, into| products::<BITS, BYTES>(codes, digits, into),
    )
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn products<const BITS: usize, const BYTES: usize>(codes: &[u8], digits: &Digits, into: &mut [i32]) {
    let (codes, _) = codes.as_chunks::<BYTES>();
    let (several, last) = codes.as_chunks::<SHARING>();
    let (into_several, into_last) = into.as_chunks_mut::<SHARING>();
    for (group, into) in several.iter().zip(into_several) {
        for candidate in group {
            prefetch(candidate, codes.len());
        }
        products_of::<BITS, BYTES, SHARING>(group, digits, into);
    }
    for (candidate, into) in last.iter().zip(into_last) {
        products_of::<BITS, BYTES, 1>(std::array::from_ref(candidate), digits, std::array::from_mut(into));
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
    for vector in 0..BITS / 2 {
        let mut bytes = [mask; R];
        for i in 0..R {
            bytes[i] = load_bytes(&codes[i], vector);
        }
        for code in 0..8 / BITS {
            for i in 0..R {
                let codes = _mm512_and_si512(shifted_codes::<BITS>(bytes[i], code), mask);
                for digit in 0..DIGITS {
                    let digits = load_digits::<BITS>(digits, vector, code, digit);
                    sums[i][digit] = _mm512_dpbusd_epi32(sums[i][digit], codes, digits);
                }
            }
        }
    }
    for i in 0..R {
        into[i] = _mm512_reduce_add_epi32(_mm512_add_epi32(sums[i][0], _mm512_slli_epi32::<8>(sums[i][1])));
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn shifted_codes<const BITS: usize>(bytes: __m512i, code: usize) -> __m512i {
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
fn prefetch<const BYTES: usize>(codes: &[u8; BYTES], candidates: usize) {
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
fn load_bytes<const BYTES: usize>(codes: &[u8; BYTES], vector: usize) -> __m512i {
    let bytes: &[u8; 64] = codes[64 * vector..].first_chunk().expect("a register's worth of bytes");
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array has exactly the bytes that are read; no alignment is asked for.
    unsafe {
        _mm512_loadu_si512(bytes.as_ptr().cast())
    }
}
