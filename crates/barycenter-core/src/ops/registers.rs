//! Registers of AVX-512, and the memory they are loaded from and stored to.

use std::{
    arch::x86_64::{__m512, _mm512_loadu_ps, _mm512_storeu_ps},
    mem::MaybeUninit,
};

/// Floats in a register.
pub(super) const LANES: usize = 16;

/// What a register holds, in a cache line of its own: a load that crosses two takes twice as long.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [f32; LANES]);

impl Line {
    pub(super) const ZERO: Self = Self([0.0; LANES]);
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(values: &[f32]) -> __m512 {
    let values: &[f32; LANES] = values.first_chunk().expect("a register's worth of values");
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array has exactly as many floats as are read; no alignment is asked for.
    unsafe {
        _mm512_loadu_ps(values.as_ptr())
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(register: __m512, values: &mut [f32]) {
    let values: &mut [f32; LANES] = values.first_chunk_mut().expect("room for a register's worth of values");
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly as many floats as are written; no alignment is asked for.
    unsafe {
        _mm512_storeu_ps(values.as_mut_ptr(), register);
    }
}

/// As [`store`], into room that may hold nothing yet.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn write(register: __m512, room: &mut [MaybeUninit<f32>]) {
    let room: &mut [MaybeUninit<f32>; LANES] = room.first_chunk_mut().expect("room for a register's worth of values");
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has room for exactly as many floats as are written; no alignment is asked for.
    unsafe {
        _mm512_storeu_ps(room.as_mut_ptr().cast(), register);
    }
}
