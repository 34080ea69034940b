//! The codec of directions: symmetric mid-rise levels at 1, 2, 4 or 8 bits, one scale per 256 elements.
//!
//! A level is `(k + ½) · Δ` with `k = −2^(b−1) … 2^(b−1) − 1`, stored as the unsigned code `k + 2^(b−1)`.
//! Where the codes lie in their bytes stands in `packing`. Coding gives the same bits on every processor.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod groups;
mod plain;

pub(super) use self::groups::{BATCH, Batch, Coded, Group};
use super::packing;
use crate::processor::{Processor, for_processor};

/// Version of the codec and of the order of bytes; part of every cache key.
pub const CODEC_VERSION: u32 = 4;

/// Elements that share one scale; also the columns of a tile.
pub const GROUP: usize = 256;

/// What a group decodes to.
pub type Reconstruction = [f32; GROUP];

/// Groups whose step is below this are stored as zeros: near the end of the range of f32 its reciprocal overflows.
const SMALLEST_STEP: f64 = 1e-36;

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
/// A group of zeros (or of numbers below 1e-36) has Δ = 0. Elements that are not there (a short group) get the code 0 and count for nothing.
/// A group with a value that is not finite has Δ = NaN.
///
/// # Panics
/// Where `bits` is not 1, 2, 4 or 8, or the lengths do not fit.
pub fn quantise(deviations: &[f32], bits: u8, codes: &mut [u8]) -> f32 {
    code_group(Processor::detected(), deviations, bits, codes).scale
}

/// Codes up to 256 deviations, as [`quantise`] does; at 32 bits their codes are themselves.
pub(super) fn code_group(processor: Processor, deviations: &[f32], bits: u8, codes: &mut [u8]) -> Coded {
    assert!(deviations.len() <= GROUP && codes.len() == 32 * usize::from(bits), "a group is 256 elements");
    let mut values = [0.0; GROUP];
    values[..deviations.len()].copy_from_slice(deviations);
    let mut batch = Batch::new();
    let group = Group { values: &values, centre: &[0.0; GROUP], len: deviations.len(), ahead: 0 };
    code_groups(processor, bits, &mut batch, &[group], codes);
    batch.coded[0]
}

/// Codes up to [`BATCH`] groups into 32 · `bits` bytes each; what was found is then in `batch.coded`.
pub(super) fn code_groups(processor: Processor, bits: u8, batch: &mut Batch, groups: &[Group<'_>], codes: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if processor == Processor::Avx512 {
        #[expect(unsafe_code, reason = "functions compiled for AVX-512")]
        // SAFETY: this `Processor` exists only where it was detected.
        return unsafe {
            match bits {
                1 => avx512::code::<1>(batch, groups, codes),
                2 => avx512::code::<2>(batch, groups, codes),
                4 => avx512::code::<4>(batch, groups, codes),
                8 => avx512::code::<8>(batch, groups, codes),
                32 => avx512::copy(batch, groups, codes),
                other => unreachable!("{other} bits are refused before anything is coded"),
            }
        };
    }
    macro_rules! on_processor {
        ($body:path) => {
            for_processor!(processor, $body, (batch: &mut Batch, groups: &[Group<'_>], codes: &mut [u8]))
        };
    }
    match bits {
        1 => on_processor!(plain::code::<1>),
        2 => on_processor!(plain::code::<2>),
        4 => on_processor!(plain::code::<4>),
        8 => on_processor!(plain::code::<8>),
        32 => on_processor!(plain::copy),
        other => unreachable!("{other} bits are refused before anything is coded"),
    }
}

/// The mean of the rows, each column by itself, rounded from an exact sum's like: n equal numbers give themselves back.
pub(super) fn mean(processor: Processor, rows: &[&[f32]], into: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if processor == Processor::Avx512 {
        #[expect(unsafe_code, reason = "a function compiled for AVX-512")]
        // SAFETY: this `Processor` exists only where it was detected.
        return unsafe { avx512::mean(rows, into) };
    }
    for_processor!(processor, plain::mean, (rows: &[&[f32]], into: &mut [f32]));
}

/// Half of the levels there are.
const fn half_levels(bits: usize) -> f32 {
    (1_u32 << (bits - 1)) as f32
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coding_gives_the_same_bits_on_every_processor() {
        let mut state = 5_u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        for case in 0..400 {
            let len = if case % 3 == 0 { 1 + case % 256 } else { GROUP };
            let tail = if case % 2 == 0 { 1.0 } else { 30.0 };
            let scale = [1.0, 1e-30, 1e-37, 1e30, 3e38][case % 5];
            let values: Vec<f32> =
                (0..len).map(|e| number() * scale * if e == 7 { tail } else { 1.0 / 30.0 }).collect();
            for bits in [1_u8, 2, 4, 8] {
                let mut portable = vec![0; 32 * usize::from(bits)];
                let scale = code_group(Processor::Portable, &values, bits, &mut portable).scale;
                for processor in Processor::available() {
                    let mut codes = portable.clone();
                    codes.fill(9);
                    let other = code_group(processor, &values, bits, &mut codes).scale;
                    assert_eq!((other.to_bits(), &codes), (scale.to_bits(), &portable), "{processor:?} {bits} {case}");
                }
            }
        }
    }

    #[test]
    fn a_group_that_is_not_finite_has_no_step() {
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(quantise(&[1.0, bad], 4, &mut [0; 128]).is_nan());
        }
    }
}
