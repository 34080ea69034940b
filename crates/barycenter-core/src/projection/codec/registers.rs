//! Loads and stores of registers of AVX2, and copies past the caches: for `avx2` and `avx512` alike.

use std::{
    arch::x86_64::{
        __m256, __m256i, _mm_sfence, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_storeu_ps, _mm256_storeu_si256,
        _mm256_stream_ps, _mm256_stream_si256,
    },
    mem::MaybeUninit,
};

/// Numbers of a register.
pub(super) const WIDTH: usize = 8;

/// Writes packed codes, past the caches where asked: whoever stores so ends with [`fence`].
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn store(packed: &[u8], into: &mut [MaybeUninit<u8>], stream: bool) {
    let stream = stream && into.as_ptr().addr().is_multiple_of(32);
    for (packed, into) in packed.as_chunks::<32>().0.iter().zip(into.as_chunks_mut::<32>().0) {
        #[expect(unsafe_code, reason = "loads and stores take pointers")]
        // SAFETY: the arrays have exactly the bytes that are read and written; the alignment that one of the stores asks for was found.
        unsafe {
            let packed = _mm256_loadu_si256(packed.as_ptr().cast());
            if stream {
                _mm256_stream_si256(into.as_mut_ptr().cast(), packed);
            } else {
                _mm256_storeu_si256(into.as_mut_ptr().cast(), packed);
            }
        }
    }
}

/// Copies numbers past the caches.
#[target_feature(enable = "avx2,fma")]
pub(super) fn stream(from: &[f32], into: &mut [MaybeUninit<f32>]) {
    let is_aligned = into.as_ptr().addr().is_multiple_of(32);
    let ((from, last), (into, rest)) = (from.as_chunks::<WIDTH>(), into.as_chunks_mut::<WIDTH>());
    for (from, into) in from.iter().zip(into) {
        if is_aligned {
            #[expect(unsafe_code, reason = "loads and stores take pointers")]
            // SAFETY: the arrays have exactly the numbers that are read and written, and the latter was found aligned.
            unsafe {
                _mm256_stream_ps(into.as_mut_ptr().cast(), _mm256_loadu_ps(from.as_ptr()));
            }
        } else {
            into.write_copy_of_slice(from);
        }
    }
    rest.write_copy_of_slice(last);
}

/// What was stored past the caches is seen by other threads after this.
#[target_feature(enable = "avx2,fma")]
pub(super) fn fence() {
    _mm_sfence();
}

#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn load(values: &[f32], register: usize) -> __m256 {
    let values = &values.as_chunks::<WIDTH>().0[register];
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array has exactly the numbers that are read; no alignment is asked for.
    unsafe {
        _mm256_loadu_ps(values.as_ptr())
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn put(numbers: __m256, into: &mut [f32], register: usize) {
    let into = &mut into.as_chunks_mut::<WIDTH>().0[register];
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly the numbers that are written; no alignment is asked for.
    unsafe {
        _mm256_storeu_ps(into.as_mut_ptr(), numbers);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn put_bytes(register: __m256i, into: &mut [u8]) {
    let into: &mut [u8; 32] = into.first_chunk_mut().expect("room for a register's bytes");
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly the bytes that are written; no alignment is asked for.
    unsafe {
        _mm256_storeu_si256(into.as_mut_ptr().cast(), register);
    }
}
