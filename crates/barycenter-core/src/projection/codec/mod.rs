//! The codec of directions: symmetric mid-rise levels at 1, 2, 4 or 8 bits, one scale per 256 elements.
//!
//! A level is `(k + ½) · Δ` with `k = −2^(b−1) … 2^(b−1) − 1`, stored as the unsigned code `k + 2^(b−1)`.
//! Where the codes lie in their bytes stands in `packing`. Coding gives the same bits on every processor.

mod ahead;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod groups;
mod plain;
#[cfg(target_arch = "x86_64")]
mod registers;
#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;

pub(super) use self::ahead::Ahead;
pub(super) use self::groups::{BATCH, Batch, Coded, Group};
use super::packing;
use crate::processor::{Processor, for_processor};

/// Version of the codec and of the order of bytes; part of every cache key.
pub const CODEC_VERSION: u32 = 5;

/// Elements that share one scale; also the columns of a tile.
pub const GROUP: usize = 256;

/// What a group decodes to.
pub type Reconstruction = [f32; GROUP];

/// Step of the best uniform quantiser of a Gaussian, in standard deviations.
const fn gaussian_step(bits: usize) -> f64 {
    match bits {
        1 => 1.596,
        2 => 0.996,
        4 => 0.335,
        _ => 0.031,
    }
}

/// Quantises up to 256 deviations into `codes` (32 · `bits` bytes) and returns the scale Δ.
///
/// Δ starts at the Gaussian optimum for the group's root mean square and is refitted once by least squares. Where the
/// group's largest value lies outside that range, the range that just covers it is tried as well and the smaller
/// squared error wins: a heavy tail then costs resolution, not the tail itself.
/// Deviations count as whole numbers of a unit, the power of two of which the largest has 2^13 to 2^14: every sum is exact then, on
/// every processor, and the root mean square is 2^9 units at least.
/// A group of zeros (or of numbers below 2^-114) has Δ = 0. Elements that are not there (a short group) get the code 0 and count for nothing.
/// A group with a value that is not finite, or whose Δ would not be, has Δ = NaN.
///
/// # Panics
/// Where `bits` is not 1, 2, 4 or 8, or the lengths do not fit.
pub fn quantise(deviations: &[f32], bits: u8, codes: &mut [u8]) -> f32 {
    assert!(matches!(bits, 1 | 2 | 4 | 8), "{bits} bits are no codes");
    code_group(Processor::detected(), deviations, bits, codes).scale
}

/// Codes up to 256 deviations, as [`quantise`] does; at 32 bits their codes are themselves.
pub(super) fn code_group(processor: Processor, deviations: &[f32], bits: u8, codes: &mut [u8]) -> Coded {
    assert!(deviations.len() <= GROUP && codes.len() == 32 * usize::from(bits), "a group is 256 elements");
    let mut values = [0.0; GROUP];
    values[..deviations.len()].copy_from_slice(deviations);
    let mut batch = Batch::new();
    let group = Group { values: &values, centre: &[0.0; GROUP], len: deviations.len() };
    #[expect(unsafe_code, reason = "numbers that are there, seen as room for them")]
    // SAFETY: nothing but codes is written, so that every byte stays one that is there.
    let codes = unsafe { &mut *(std::ptr::from_mut(codes) as *mut [MaybeUninit<u8>]) };
    code_groups(processor, bits, &mut batch, &[group], codes, (false, &mut Ahead::behind(&[])));
    batch.coded[0]
}

/// Codes up to [`BATCH`] groups into 32 · `bits` bytes each, all of which are written; what was found is then in `batch.coded`.
///
/// Writes past the caches where asked to `stream`, if the processor can: another thread may read it after [`fence`].
pub(super) fn code_groups(
    processor: Processor,
    bits: u8,
    batch: &mut Batch,
    groups: &[Group<'_>],
    codes: &mut [MaybeUninit<u8>],
    (stream, ahead): (bool, &mut Ahead<'_>),
) {
    macro_rules! at_bits {
        ($kernels:ident) => {
            match bits {
                1 => $kernels::code::<1>(batch, groups, codes, (stream, ahead)),
                2 => $kernels::code::<2>(batch, groups, codes, (stream, ahead)),
                4 => $kernels::code::<4>(batch, groups, codes, (stream, ahead)),
                8 => $kernels::code::<8>(batch, groups, codes, (stream, ahead)),
                other => unreachable!("{other} bits are refused before anything is coded"),
            }
        };
    }
    match processor {
        _ if bits == 32 => copy_groups(processor, batch, groups, codes),
        Processor::Portable => at_bits!(plain),
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "functions compiled for AVX2")]
        // SAFETY: this `Processor` exists only where it was detected.
        Processor::Avx2 => unsafe { at_bits!(avx2) },
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "functions compiled for AVX-512")]
        // SAFETY: as above.
        Processor::Avx512 => unsafe { at_bits!(avx512) },
    }
}

fn copy_groups(processor: Processor, batch: &mut Batch, groups: &[Group<'_>], codes: &mut [MaybeUninit<u8>]) {
    for_processor!(processor, Batch::copy, (batch: &mut Batch, groups: &[Group<'_>], codes: &mut [MaybeUninit<u8>]));
}

/// The mean of the rows, each column by itself. Summed in f64: n equal f32 values give
/// themselves back exactly, so that their deviations are exactly zero, and the order of the rows does not matter while their sum is
/// exact, which it is of values within a factor of some 2^25 of each other.
pub(super) fn mean(processor: Processor, rows: &[&[f32]], into: &mut [f32], ahead: &mut Ahead<'_>) {
    match processor {
        Processor::Portable => plain::mean(rows, into, ahead),
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "a function compiled for AVX2")]
        // SAFETY: this `Processor` exists only where it was detected.
        Processor::Avx2 => unsafe { avx2::mean(rows, into, ahead) },
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "a function compiled for AVX-512")]
        // SAFETY: as above.
        Processor::Avx512 => unsafe { avx512::mean(rows, into, ahead) },
    }
}

/// Copies numbers, past the caches if the processor can: another thread may read them after [`fence`].
pub(super) fn stream(processor: Processor, from: &[f32], into: &mut [MaybeUninit<f32>]) {
    #[cfg(target_arch = "x86_64")]
    if processor != Processor::Portable {
        #[expect(unsafe_code, reason = "a function compiled for AVX2")]
        // SAFETY: a `Processor` other than the portable one has AVX2.
        return unsafe { registers::stream(from, into) };
    }
    into.write_copy_of_slice(from);
}

/// What this thread stored past the caches is seen by those that wait for it after this.
pub(super) fn fence(processor: Processor) {
    #[cfg(target_arch = "x86_64")]
    if processor != Processor::Portable {
        #[expect(unsafe_code, reason = "a function compiled for AVX2")]
        // SAFETY: as above.
        unsafe {
            registers::fence();
        }
    }
}

/// Decodes a group that [`quantise`] made.
///
/// # Panics
/// Where `bits` is not 1, 2, 4 or 8, or `codes` is not 32 · `bits` bytes long.
pub fn unpack(codes: &[u8], bits: u8, scale: f32) -> Reconstruction {
    assert_eq!(codes.len(), 32 * usize::from(bits), "a group is 32 bytes a bit");
    let whole = match bits {
        1 => packing::unpack::<1>(codes),
        2 => packing::unpack::<2>(codes),
        4 => packing::unpack::<4>(codes),
        8 => packing::unpack::<8>(codes),
        other => unreachable!("{other} bits are refused before anything is coded"),
    };
    let lowest = 0.5 - (1_u32 << (bits - 1)) as f32;
    whole.map(|code| (code as f32 + lowest) * scale)
}
