//! The kernels for AVX2: eight floats or 32 bytes at a time.

use std::arch::x86_64::{
    __m256, __m256i, _MM_HINT_T0, _mm_add_epi32, _mm_prefetch, _mm_sfence, _mm_storeu_si128, _mm_stream_ps,
    _mm256_add_epi16, _mm256_add_epi32, _mm256_add_ps, _mm256_and_ps, _mm256_and_si256, _mm256_castps_si256,
    _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_castsi256_si128, _mm256_cvtepi32_ps, _mm256_extractf128_ps,
    _mm256_extracti128_si256, _mm256_hadd_epi32, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_max_epi32, _mm256_mul_ps, _mm256_or_si256, _mm256_set1_epi8, _mm256_set1_epi16,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_slli_epi32, _mm256_srli_epi16,
    _mm256_srli_epi32, _mm256_storeu_ps, _mm256_storeu_si256, _mm256_sub_epi32, _mm256_unpackhi_epi8,
    _mm256_unpackhi_epi16, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi8, _mm256_unpacklo_epi16,
    _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
};

use super::{
    super::{GROUP, packing},
    Packed, Target,
    digits::{self, Content, DIGITS, Digits, ROUNDING},
    factors::Block,
    project_tiles, reconstruct_tiles,
};

/// As [`project_tiles`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn project<const BITS: usize, const BYTES: usize>(packed: &Packed<'_>, gradient: &[f32]) -> Vec<f64> {
    project_tiles::<BITS>(
        packed,
        gradient,
        |digits, gradient| fill::<BITS>(digits, gradient),
        |codes, digits, into| products::<BITS, BYTES>(codes, digits, into),
    )
}

/// As [`reconstruct_tiles`].
#[target_feature(enable = "avx2,fma")]
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

/// As [`Digits::fill`].
#[target_feature(enable = "avx2,fma")]
pub(super) fn fill<const BITS: usize>(digits: &mut Digits, gradient: &[f32; GROUP]) -> Content {
    let magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
    let mut largest = [_mm256_setzero_si256(); 4];
    for columns in gradient.as_chunks::<8>().0.as_chunks::<4>().0 {
        for (largest, columns) in largest.iter_mut().zip(columns) {
            let magnitudes = _mm256_castps_si256(_mm256_and_ps(load_floats(columns), magnitude));
            *largest = _mm256_max_epi32(*largest, magnitudes);
        }
    }
    let largest = _mm256_max_epi32(_mm256_max_epi32(largest[0], largest[1]), _mm256_max_epi32(largest[2], largest[3]));
    let factor = match digits::factor(lanes(largest).into_iter().fold(0, i32::max)) {
        Ok(factor) => factor,
        Err(content) => return content,
    };
    let sums = split::<BITS>(digits, gradient, factor);
    // Every whole number still has the bits of `ROUNDING` on it; sums wrap, and are right in the end.
    let sum = lanes(sums).into_iter().fold(0, i32::wrapping_add);
    let sum = sum.wrapping_sub((ROUNDING.to_bits() as i32).wrapping_mul(GROUP as i32));
    Content::Whole { unit: 1.0 / f64::from(factor), sum: f64::from(sum) }
}

/// Fills the planes and returns sums of the rounded numbers' bits.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn split<const BITS: usize>(digits: &mut Digits, gradient: &[f32; GROUP], factor: f32) -> __m256i {
    let (run, codes) = (packing::run_words(BITS), packing::slots(BITS) / 4);
    let (factor, rounding) = (_mm256_set1_ps(factor), _mm256_set1_ps(ROUNDING));
    let mut sums = _mm256_setzero_si256();
    for plane in 0..GROUP / (4 * run) {
        let (block, code) = (plane / codes, plane % codes);
        let columns = &gradient[block * 4 * codes * run..][..4 * codes * run];
        for word in (0..run).step_by(8) {
            // Bytes 0 to 3 of a word of codes hold the slots `code`, `codes + code`, …
            let mut bytes = [_mm256_setzero_si256(); 4];
            for (byte, whole) in bytes.iter_mut().enumerate() {
                let columns = columns[(byte * codes + code) * run + word..].first_chunk().expect("eight columns");
                *whole = _mm256_castps_si256(_mm256_add_ps(_mm256_mul_ps(load_floats(columns), factor), rounding));
                sums = _mm256_add_epi32(sums, *whole);
            }
            let into = &mut digits.planes[plane * DIGITS * run + word..];
            store_words(low_bytes(bytes), into);
            let half = _mm256_set1_epi32(0x80);
            let carried = [
                _mm256_srli_epi32::<8>(_mm256_add_epi32(bytes[0], half)),
                _mm256_srli_epi32::<8>(_mm256_add_epi32(bytes[1], half)),
                _mm256_srli_epi32::<8>(_mm256_add_epi32(bytes[2], half)),
                _mm256_srli_epi32::<8>(_mm256_add_epi32(bytes[3], half)),
            ];
            store_words(low_bytes(carried), &mut into[run..]);
        }
    }
    sums
}

/// The lowest bytes of four words as one word.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn low_bytes([a, b, c, d]: [__m256i; 4]) -> __m256i {
    let low = _mm256_set1_epi32(0xff);
    let (a, b, c) = (_mm256_and_si256(a, low), _mm256_and_si256(b, low), _mm256_and_si256(c, low));
    let pair = _mm256_or_si256(a, _mm256_slli_epi32::<8>(b));
    _mm256_or_si256(pair, _mm256_or_si256(_mm256_slli_epi32::<16>(c), _mm256_slli_epi32::<24>(d)))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn lanes(register: __m256i) -> [i32; 8] {
    let mut lanes = [0; 8];
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly the eight integers that are written.
    unsafe {
        _mm256_storeu_si256(lanes.as_mut_ptr().cast(), register);
    }
    lanes
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn store_words(register: __m256i, words: &mut [u32]) {
    let words: &mut [u32; 8] = words.first_chunk_mut().expect("room for a register's worth of words");
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly the eight words that are written; no alignment is asked for.
    unsafe {
        _mm256_storeu_si256(words.as_mut_ptr().cast(), register);
    }
}

/// Candidates whose sums are added up together.
const SHARING: usize = 4;

#[target_feature(enable = "avx2,fma")]
fn products<const BITS: usize, const BYTES: usize>(codes: &[u8], digits: &Digits, into: &mut [i32]) {
    let (codes, _) = codes.as_chunks::<BYTES>();
    let (several, last) = codes.as_chunks::<SHARING>();
    let (into_several, into_last) = into.as_chunks_mut::<SHARING>();
    for (group, into) in several.iter().zip(into_several) {
        for line in (0..SHARING * BYTES).step_by(64) {
            prefetch(&group[0], line, codes.len());
        }
        *into = if BITS == 8 {
            reduce([
                bytes_with_digits(&group[0], digits),
                bytes_with_digits(&group[1], digits),
                bytes_with_digits(&group[2], digits),
                bytes_with_digits(&group[3], digits),
            ])
        } else {
            // Two at a time: their sums and codes fill the registers there are.
            let [a, b, c, d] = group;
            let [a, b] = codes_with_digits::<BITS, BYTES, 2>([a, b], digits);
            let [c, d] = codes_with_digits::<BITS, BYTES, 2>([c, d], digits);
            reduce([a, b, c, d])
        };
    }
    for (codes, into) in last.iter().zip(into_last) {
        let sums = if BITS == 8 {
            bytes_with_digits(codes, digits)
        } else {
            codes_with_digits::<BITS, BYTES, 1>([codes], digits)[0]
        };
        *into = reduce([sums; SHARING])[0];
    }
}

/// Sums of products with each of the digits, for `R` candidates; up to 4 bits.
#[inline]
#[target_feature(enable = "avx2,fma")]
#[expect(clippy::needless_range_loop, reason = "closures and iterators over registers are not compiled for AVX2")]
fn codes_with_digits<const BITS: usize, const BYTES: usize, const R: usize>(
    codes: [&[u8; BYTES]; R],
    digits: &Digits,
) -> [[__m256i; DIGITS]; R] {
    let mask = _mm256_set1_epi8(((1 << BITS) - 1) as i8);
    // 16-bit sums: 8 additions of two products of at most 15 · 128 stay below 32768.
    let mut sums = [[_mm256_setzero_si256(); DIGITS]; R];
    for vector in 0..BITS {
        let mut bytes = [mask; R];
        for i in 0..R {
            bytes[i] = load_bytes(codes[i], vector);
        }
        for code in 0..8 / BITS {
            let mut codes = [mask; R];
            for i in 0..R {
                codes[i] = _mm256_and_si256(shifted_codes::<BITS>(bytes[i], code), mask);
            }
            for digit in 0..DIGITS {
                let digits = load_digits::<BITS>(digits, vector, code, digit);
                for i in 0..R {
                    sums[i][digit] = _mm256_add_epi16(sums[i][digit], _mm256_maddubs_epi16(codes[i], digits));
                }
            }
        }
    }
    let ones = _mm256_set1_epi16(1);
    for sums in &mut sums {
        for sum in sums {
            *sum = _mm256_madd_epi16(*sum, ones);
        }
    }
    sums
}

/// As [`codes_with_digits`] for 8 bits, half a byte after the other: whole bytes would overflow 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn bytes_with_digits<const BYTES: usize>(codes: &[u8; BYTES], digits: &Digits) -> [__m256i; DIGITS] {
    let mask = _mm256_set1_epi8(0xf);
    let mut sums = [[_mm256_setzero_si256(); DIGITS]; 2];
    for vector in 0..BYTES / 32 {
        let bytes = load_bytes(codes, vector);
        let halves = [_mm256_and_si256(bytes, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask)];
        for digit in 0..DIGITS {
            let digits = load_digits::<8>(digits, vector, 0, digit);
            for (sums, half) in sums.iter_mut().zip(halves) {
                sums[digit] = _mm256_add_epi16(sums[digit], _mm256_maddubs_epi16(half, digits));
            }
        }
    }
    let (one, sixteen) = (_mm256_set1_epi16(1), _mm256_set1_epi16(16));
    let mut both = [_mm256_setzero_si256(); DIGITS];
    for (digit, both) in both.iter_mut().enumerate() {
        *both = _mm256_add_epi32(_mm256_madd_epi16(sums[0][digit], one), _mm256_madd_epi16(sums[1][digit], sixteen));
    }
    both
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn shifted_codes<const BITS: usize>(bytes: __m256i, code: usize) -> __m256i {
    match code * BITS {
        0 => bytes,
        1 => _mm256_srli_epi16::<1>(bytes),
        2 => _mm256_srli_epi16::<2>(bytes),
        3 => _mm256_srli_epi16::<3>(bytes),
        4 => _mm256_srli_epi16::<4>(bytes),
        5 => _mm256_srli_epi16::<5>(bytes),
        6 => _mm256_srli_epi16::<6>(bytes),
        _ => _mm256_srli_epi16::<7>(bytes),
    }
}

/// Sums up the lanes of four candidates' digit sums.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn reduce(sums: [[__m256i; DIGITS]; SHARING]) -> [i32; SHARING] {
    let [a, b, c, d] = sums;
    let (first, second) = (_mm256_hadd_epi32(whole(a), whole(b)), _mm256_hadd_epi32(whole(c), whole(d)));
    let all = _mm256_hadd_epi32(first, second);
    let all = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
    let mut result = [0; SHARING];
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly the four integers that are written.
    unsafe {
        _mm_storeu_si128(result.as_mut_ptr().cast(), all);
    }
    result
}

/// Both digits' sums as one: each lane is a part of at most 256 · 255 · 32639.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn whole(sums: [__m256i; DIGITS]) -> __m256i {
    _mm256_add_epi32(sums[0], _mm256_slli_epi32::<8>(sums[1]))
}

/// As `portable::combine`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn combine<const BITS: usize, const BYTES: usize>(codes: &[u8], block: &Block, first: bool, into: &mut [f32; GROUP]) {
    let (codes, _) = codes.as_chunks::<BYTES>();
    for vector in 0..BITS {
        combine_codes::<BITS, BYTES, 0>(codes, block, (vector, first), into);
        if BITS < 4 {
            combine_codes::<BITS, BYTES, 2>(codes, block, (vector, first), into);
        }
        if BITS == 1 {
            combine_codes::<BITS, BYTES, 4>(codes, block, (vector, first), into);
            combine_codes::<BITS, BYTES, 6>(codes, block, (vector, first), into);
        }
    }
}

/// Sums of the codes `CODE` and `CODE + 1` of the bytes in one register; of 8 bits both halves, one after the other, as
/// whole bytes would overflow 16 bits.
///
/// The bytes of two candidates are put side by side, so that a product of bytes adds up both.
#[inline]
#[target_feature(enable = "avx2,fma")]
#[expect(clippy::needless_range_loop, reason = "closures and iterators over registers are not compiled for AVX2")]
fn combine_codes<const BITS: usize, const BYTES: usize, const CODE: usize>(
    codes: &[[u8; BYTES]],
    block: &Block,
    (vector, first): (usize, bool),
    into: &mut [f32; GROUP],
) {
    let mask = _mm256_set1_epi8(((1 << BITS.min(4)) - 1) as i8);
    let mut sums = [[[_mm256_setzero_si256(); DIGITS]; 2]; 2];
    for (pair, digits) in codes.chunks(2).zip(&block.pairs) {
        // A candidate alone stands beside itself; its double has digits of zero.
        let (a, b) = (&pair[0], &pair[pair.len() - 1]);
        if CODE == 0 && (BITS == 1 || vector.is_multiple_of(2)) {
            prefetch(a, 32 * vector, codes.len());
            prefetch(b, 32 * vector, codes.len());
        }
        let (a, b) = (load_bytes(a, vector), load_bytes(b, vector));
        let bytes = [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)];
        let digits = [_mm256_set1_epi32(digits[0]), _mm256_set1_epi32(digits[1])];
        for code in 0..2 {
            for half in 0..2 {
                let codes = match BITS {
                    8 => shifted_codes::<4>(bytes[half], code),
                    _ => shifted_codes::<BITS>(bytes[half], CODE + code),
                };
                let codes = _mm256_and_si256(codes, mask);
                for digit in 0..DIGITS {
                    let products = _mm256_maddubs_epi16(codes, digits[digit]);
                    sums[code][half][digit] = _mm256_add_epi16(sums[code][half][digit], products);
                }
            }
        }
    }
    let (low, high) = (transposed(sums[0]), transposed(sums[1]));
    for byte in 0..4 {
        if BITS == 8 {
            let sum = _mm256_add_epi32(low[byte], _mm256_slli_epi32::<4>(high[byte]));
            add_columns::<BITS>(sum, block, (vector, byte, first), into);
        } else {
            let slot = byte * (8 / BITS) + CODE;
            add_columns::<BITS>(low[byte], block, (vector, slot, first), into);
            add_columns::<BITS>(high[byte], block, (vector, slot + 1, first), into);
        }
    }
}

/// Twice the whole sums of the digits' sums, by bytes of the eight words: bytes 0 of all words, bytes 1, …
#[inline]
#[target_feature(enable = "avx2,fma")]
fn transposed(sums: [[__m256i; DIGITS]; 2]) -> [__m256i; 4] {
    // The halves hold the bytes of words 0, 1, 4, 5 and those of words 2, 3, 6, 7.
    let [low, high] = sums;
    let worth = _mm256_set1_epi32(512 << 16 | 2);
    let words = [
        _mm256_madd_epi16(_mm256_unpacklo_epi16(low[0], low[1]), worth),
        _mm256_madd_epi16(_mm256_unpackhi_epi16(low[0], low[1]), worth),
        _mm256_madd_epi16(_mm256_unpacklo_epi16(high[0], high[1]), worth),
        _mm256_madd_epi16(_mm256_unpackhi_epi16(high[0], high[1]), worth),
    ];
    let (first, second) = (_mm256_unpacklo_epi32(words[0], words[1]), _mm256_unpacklo_epi32(words[2], words[3]));
    let (third, fourth) = (_mm256_unpackhi_epi32(words[0], words[1]), _mm256_unpackhi_epi32(words[2], words[3]));
    [
        _mm256_unpacklo_epi64(first, second),
        _mm256_unpackhi_epi64(first, second),
        _mm256_unpacklo_epi64(third, fourth),
        _mm256_unpackhi_epi64(third, fourth),
    ]
}

/// Adds to the columns of one slot of a register's words what twice their whole sums stand for.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_columns<const BITS: usize>(
    sums: __m256i,
    block: &Block,
    (vector, slot, first): (usize, usize, bool),
    into: &mut [f32; GROUP],
) {
    let run = packing::run_words(BITS);
    let registers = run / 8;
    let place = vector / registers * run * packing::slots(BITS) + vector % registers * 8 + slot * run;
    let sums = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums, _mm256_set1_epi32(block.offset)));
    let sums = _mm256_mul_ps(sums, _mm256_set1_ps(block.half_unit));
    let columns = into[place..].first_chunk_mut().expect("eight columns");
    let before = if first { _mm256_setzero_ps() } else { load_floats(columns) };
    store_floats(_mm256_add_ps(before, sums), columns);
}

/// `weights = centre + sums`, past the caches where `stream` says so and the weights are aligned.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn store(sums: &[f32; GROUP], centre: &[f32; GROUP], weights: &mut [f32; GROUP], stream: bool) {
    let stream = stream && weights.as_ptr().addr().is_multiple_of(16);
    let pieces = sums.as_chunks::<8>().0.iter().zip(centre.as_chunks::<8>().0);
    for ((sums, centre), weights) in pieces.zip(weights.as_chunks_mut::<8>().0) {
        let sum = _mm256_add_ps(load_floats(centre), load_floats(sums));
        if stream {
            #[expect(unsafe_code, reason = "a store takes a pointer")]
            // SAFETY: the array has exactly the eight floats that are written, and was found aligned to 16 bytes.
            unsafe {
                _mm_stream_ps(weights.as_mut_ptr(), _mm256_castps256_ps128(sum));
                _mm_stream_ps(weights.as_mut_ptr().add(4), _mm256_extractf128_ps::<1>(sum));
            }
        } else {
            store_floats(sum, weights);
        }
    }
}

/// Asks for the same candidate's codes in the next tile of `candidates`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn prefetch<const BYTES: usize>(codes: &[u8; BYTES], place: usize, candidates: usize) {
    _mm_prefetch::<_MM_HINT_T0>(codes.as_ptr().wrapping_add(place + candidates * BYTES).cast());
}

/// The digits that go with a register of codes: those of its lowest codes, or of the `code`-th codes of its bytes.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn load_digits<const BITS: usize>(digits: &Digits, vector: usize, code: usize, digit: usize) -> __m256i {
    let registers = packing::run_words(BITS) / 8;
    let plane = (vector / registers * (8 / BITS) + code) * DIGITS + digit;
    let words: &[u32; 8] = digits.planes[(plane * registers + vector % registers) * 8..]
        .first_chunk()
        .expect("planes hold whole registers");
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array has exactly the words that are read; no alignment is asked for.
    unsafe {
        _mm256_loadu_si256(words.as_ptr().cast())
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load_bytes<const BYTES: usize>(codes: &[u8; BYTES], vector: usize) -> __m256i {
    let bytes: &[u8; 32] = codes[32 * vector..].first_chunk().expect("a register's worth of bytes");
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array has exactly the bytes that are read; no alignment is asked for.
    unsafe {
        _mm256_loadu_si256(bytes.as_ptr().cast())
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load_floats(values: &[f32; 8]) -> __m256 {
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array has exactly the floats that are read; no alignment is asked for.
    unsafe {
        _mm256_loadu_ps(values.as_ptr())
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn store_floats(register: __m256, values: &mut [f32]) {
    let values: &mut [f32; 8] = values.first_chunk_mut().expect("room for a register's worth of values");
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly as many floats as are written; no alignment is asked for.
    unsafe {
        _mm256_storeu_ps(values.as_mut_ptr(), register);
    }
}
