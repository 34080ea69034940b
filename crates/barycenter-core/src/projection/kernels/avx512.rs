//! The kernels for AVX-512 with VNNI: sixteen floats or 64 bytes at a time. Groups of 1 bit are too short for its
//! registers and stay with AVX2.

use std::arch::x86_64::{
    __m512i, _MM_HINT_T0, _mm_prefetch, _mm_sfence, _mm512_add_epi32, _mm512_and_si512, _mm512_cvtepi32_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_reduce_add_epi32, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srli_epi16,
    _mm512_srli_epi32, _mm512_storeu_ps,
};

use super::{
    super::{GROUP, packing},
    BLOCK, Packed, Target, avx2,
    digits::{DIGITS, Digits},
    project_tiles, reconstruct_tiles,
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

/// As [`reconstruct_tiles`].
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
pub(super) fn reconstruct<const BITS: usize, const BYTES: usize>(packed: &Packed<'_>, target: &mut Target<'_>) {
    reconstruct_tiles::<BITS>(
        packed,
        target,
        |codes, factors, offsets, into| combine::<BITS, BYTES>(codes, (factors, offsets), into),
        |sums, centre, weights, stream| avx2::store(sums, centre, weights, stream),
    );
    if target.stream {
        // Stores past the caches are seen by other threads after this.
        _mm_sfence();
    }
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

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn combine<const BITS: usize, const BYTES: usize>(codes: &[u8], factors: (&[f32], &[f32]), into: &mut [f32; GROUP]) {
    let (codes, _) = codes.as_chunks::<BYTES>();
    for vector in 0..BITS / 2 {
        match BITS {
            2 => combine_slots::<BITS, BYTES, 16>(codes, factors, vector, into),
            4 => combine_slots::<BITS, BYTES, 8>(codes, factors, vector, into),
            _ => combine_slots::<BITS, BYTES, 4>(codes, factors, vector, into),
        }
    }
}

/// Sums of all `SLOTS` slots of the sixteen words in one register of codes; step by step as AVX2 does it.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vnni")]
fn combine_slots<const BITS: usize, const BYTES: usize, const SLOTS: usize>(
    codes: &[[u8; BYTES]],
    (factors, offsets): (&[f32], &[f32]),
    vector: usize,
    into: &mut [f32; GROUP],
) {
    let half = 16 / BITS;
    let mut sums = [_mm512_setzero_ps(); SLOTS];
    for ((factors, candidates), offset) in factors.chunks(BLOCK).zip(codes.chunks(BLOCK)).zip(offsets) {
        let offset = _mm512_set1_ps(*offset);
        for (slot, sum) in sums.iter_mut().enumerate() {
            let place = (1_u32 << (slot % half * BITS)) as f32;
            *sum = _mm512_fmadd_ps(offset, _mm512_set1_ps(place), *sum);
        }
        for (factor, candidate) in factors.iter().zip(candidates) {
            if vector == 0 {
                prefetch(candidate, codes.len());
            }
            let factor = _mm512_set1_ps(*factor);
            let words = load_bytes(candidate, vector);
            let halves = [words, _mm512_srli_epi32::<16>(words)];
            for (slot, sum) in sums.iter_mut().enumerate() {
                let mask = _mm512_set1_epi32(((1 << BITS) - 1) << (slot % half * BITS));
                let code = _mm512_and_si512(halves[slot / half], mask);
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(code), factor, *sum);
            }
        }
    }
    let run = packing::run_words(BITS);
    let columns = into[vector * run * SLOTS..].as_chunks_mut::<16>().0;
    for ((slot, sum), columns) in sums.into_iter().enumerate().zip(columns) {
        let share = 1.0 / (1_u32 << (slot % half * BITS)) as f32;
        let sum = _mm512_mul_ps(sum, _mm512_set1_ps(share));
        #[expect(unsafe_code, reason = "a store takes a pointer")]
        // SAFETY: the array has exactly as many floats as are written; no alignment is asked for.
        unsafe {
            _mm512_storeu_ps(columns.as_mut_ptr(), sum);
        }
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
