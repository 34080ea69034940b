//! The loops over a group's elements for AVX-512. They give the bits of `plain`: what is summed are whole numbers, and what is
//! rounded is rounded alike.

mod attempt;
mod mean;
mod round;

use std::{
    arch::{
        asm,
        x86_64::{__m512, __m512i, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_storeu_ps, _mm512_storeu_si512},
    },
    mem::MaybeUninit,
};

pub(super) use self::mean::mean;
use self::{attempt::attempt, round::fix};
use super::{
    GROUP, Reconstruction,
    ahead::Ahead,
    groups::{Batch, Fixed, Group},
    registers,
};
use crate::projection::packing::slots;

/// Numbers of f32 in a register.
const LANES: usize = 16;

/// Registers of a group.
const VECTORS: usize = GROUP / LANES;

/// As [`Batch::code`]; past the caches where asked.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
pub(super) fn code<const BITS: usize>(
    batch: &mut Batch,
    groups: &[Group<'_>],
    codes: &mut [MaybeUninit<u8>],
    (stream, ahead): (bool, &mut Ahead<'_>),
) {
    batch.code::<BITS>(
        groups,
        codes,
        ahead,
        |groups, elements, deviations, ahead| fix::<BITS>(groups, elements, deviations, ahead),
        |groups, steps, elements, ahead| attempt::<BITS>(groups, steps, elements, ahead),
        (|_, _, _| {}, |packed, into| registers::store(packed, into, stream)),
    );
}

/// The vectors of deviations whose codes lie in the lower and the upper halves of the same words: a register of 16 bits each holds
/// them so, too.
const fn vectors_of_pair(bits: usize, pair: usize) -> (usize, usize) {
    let half = pairs_of_run(bits);
    let low = pair / half * 2 * half + pair % half;
    (low, low + half)
}

/// Pairs of vectors whose codes lie in the same words.
const fn pairs_of_run(bits: usize) -> usize {
    if bits == 1 { VECTORS / 2 } else { slots(bits) / 2 }
}

/// Adds the products of pairs of 16 bits to sums of 32.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn dot(mut sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
    #[expect(
        unsafe_code,
        reason = "the compiler takes the intrinsic apart into two operations, whose latency it finds shorter"
    )]
    // SAFETY: only registers are read and written, by an instruction that the processor was asked for.
    unsafe {
        asm!(
            "vpdpwssd {sums}, {a}, {b}",
            sums = inout(zmm_reg) sums,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn load(values: &Reconstruction, vector: usize) -> __m512 {
    let values = &values.as_chunks::<LANES>().0[vector];
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array has exactly the numbers that are read; no alignment is asked for.
    unsafe {
        _mm512_loadu_ps(values.as_ptr())
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn put(register: __m512, into: &mut Reconstruction, vector: usize) {
    let into = &mut into.as_chunks_mut::<LANES>().0[vector];
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly the numbers that are written; no alignment is asked for.
    unsafe {
        _mm512_storeu_ps(into.as_mut_ptr(), register);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn load_pair(fixed: &Fixed, pair: usize) -> __m512i {
    let fixed = &fixed.as_chunks::<{ 2 * LANES }>().0[pair];
    #[expect(unsafe_code, reason = "a load takes a pointer")]
    // SAFETY: the array has exactly the numbers that are read; no alignment is asked for.
    unsafe {
        _mm512_loadu_si512(fixed.as_ptr().cast())
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vnni")]
fn put_pair(register: __m512i, into: &mut Fixed, pair: usize) {
    let into = &mut into.as_chunks_mut::<{ 2 * LANES }>().0[pair];
    #[expect(unsafe_code, reason = "a store takes a pointer")]
    // SAFETY: the array has exactly the numbers that are written; no alignment is asked for.
    unsafe {
        _mm512_storeu_si512(into.as_mut_ptr().cast(), register);
    }
}
