//! The codec of directions: symmetric mid-rise levels at 1, 2, 4 or 8 bits, one scale per 256 elements.
//!
//! A level is `(k + ½) · Δ` with `k = −2^(b−1) … 2^(b−1) − 1`, stored as the unsigned code `k + 2^(b−1)`.
//! Where the codes lie in their bytes stands in `packing`. Coding gives the same bits on every processor.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

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

/// Running sums kept apart while a group is summed.
const LANES: usize = 16;

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
    let mut padded = [0.0; GROUP];
    padded[..deviations.len()].copy_from_slice(deviations);
    let len = deviations.len();
    let (group, scratch) = (&padded, &mut Scratch::new());
    macro_rules! on_processor {
        ($body:path) => {
            for_processor!(
                processor,
                $body,
                (group: &Reconstruction, len: usize, scratch: &mut Scratch, codes: &mut [u8]) -> Coded
            )
        };
    }
    if bits == 32 {
        for (code, d) in codes.as_chunks_mut::<4>().0.iter_mut().zip(group) {
            *code = d.to_le_bytes();
        }
        let square = square(group, scratch);
        return Coded { scale: 1.0, square, explained: square };
    }
    match bits {
        1 => on_processor!(code::<1>),
        2 => on_processor!(code::<2>),
        4 => on_processor!(code::<4>),
        8 => on_processor!(code::<8>),
        other => unreachable!("{other} bits are refused before anything is coded"),
    }
}

/// What coding a group found, beside its codes.
pub(super) struct Coded {
    /// Δ.
    pub(super) scale: f32,
    /// Squared length of the deviations.
    pub(super) square: f64,
    /// Inner product of the deviations and what they decode to, which is also the squared length of that.
    pub(super) explained: f64,
}

/// Room for coding one group after the other.
pub(super) struct Scratch {
    /// The group over the power of two below its largest value, so that squares stay in the range of f32.
    values: Reconstruction,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self { values: [0.0; GROUP] }
    }
}

/// What a group was divided by, and the largest magnitude and squared length of what is left.
struct Measure {
    unit: f64,
    largest: f32,
    square: f64,
}

impl Measure {
    /// Divides a group by the power of two below its largest value.
    ///
    /// Nothing where every value is zero or too small to tell from it; NaN in `square` where one is not finite.
    #[inline(always)]
    fn take(group: &Reconstruction, values: &mut Reconstruction) -> Option<Self> {
        let largest = group.iter().fold(0, |largest, d| ((d.to_bits() & 0x7fff_ffff) as i32).max(largest));
        let exponent = (largest >> 23) - 127;
        if exponent < -126 {
            return None;
        }
        if exponent > 127 {
            return Some(Self { unit: 1.0, largest: 0.0, square: f64::NAN });
        }
        let exponent = exponent.min(126);
        let factor = f32::from_bits(((127 - exponent) << 23) as u32);
        for (value, d) in values.iter_mut().zip(group) {
            *value = d * factor;
        }
        let unit = f64::from_bits(((1023 + exponent) as u64) << 52);
        Some(Self { unit, largest: f32::from_bits(largest as u32) * factor, square: dot(values, values) })
    }
}

/// Squared length of a group.
#[inline(always)]
pub(super) fn square(group: &Reconstruction, scratch: &mut Scratch) -> f64 {
    Measure::take(group, &mut scratch.values).map_or(0.0, |measure| measure.square * measure.unit * measure.unit)
}

/// Codes the first `len` of a group's deviations; the others are zero.
#[inline(always)]
pub(super) fn code<const BITS: usize>(
    group: &Reconstruction,
    len: usize,
    scratch: &mut Scratch,
    codes: &mut [u8],
) -> Coded {
    let values = &mut scratch.values;
    let Some(measure) = Measure::take(group, values) else {
        codes.fill(0);
        return Coded { scale: 0.0, square: 0.0, explained: 0.0 };
    };
    let square = measure.square * measure.unit * measure.unit;
    let gaussian = gaussian_step(BITS) * (measure.square / len as f64).sqrt();
    if square.is_nan() || gaussian * measure.unit < SMALLEST_STEP {
        codes.fill(0);
        return Coded { scale: if square.is_nan() { f32::NAN } else { 0.0 }, square, explained: 0.0 };
    }
    let covering = f64::from(measure.largest) / f64::from(1_u32 << (BITS - 1));
    let mut best;
    if BITS > 1 && covering > gaussian {
        let other;
        [best, other] = attempts::<BITS, 2>((values, len), [gaussian, covering]);
        if other.explained > best.explained {
            best = other;
        }
    } else {
        [best] = attempts::<BITS, 1>((values, len), [gaussian]);
    }
    if len == GROUP {
        packing::pack::<BITS>(|element| whole::<BITS>(values[element], best.inverse) as u32, codes);
    } else {
        let code = |element| if element < len { whole::<BITS>(values[element], best.inverse) as u32 } else { 0 };
        packing::pack::<BITS>(code, codes);
    }
    let explained = best.explained * measure.unit * measure.unit;
    Coded { scale: (best.scale * measure.unit) as f32, square, explained }
}

/// A group coded with one starting step.
#[derive(Clone, Copy)]
struct Attempt {
    /// One over the starting step.
    inverse: f32,
    scale: f64,
    /// Squared length that the codes explain; the squared error is the group's squared length less this.
    explained: f64,
}

/// Half of the levels there are.
const fn half_levels(bits: usize) -> f32 {
    (1_u32 << (bits - 1)) as f32
}

/// The code of a value under a step, of which `inverse` is the reciprocal.
#[inline(always)]
fn whole<const BITS: usize>(value: f32, inverse: f32) -> i32 {
    let half = half_levels(BITS);
    // Truncation of a number that is not negative is its floor, and needs no call where `floor` would.
    let place = (value * inverse + half).max(0.0).min(2.0 * half - 1.0);
    #[expect(unsafe_code, reason = "the checked conversion costs three operations more")]
    // SAFETY: the number is between 0 and 255.
    unsafe {
        place.to_int_unchecked::<i32>()
    }
}

/// What the codes under each of the steps explain of the values, of which those after `len` are zero.
#[inline(always)]
fn attempts<const BITS: usize, const N: usize>(
    (values, len): (&Reconstruction, usize),
    steps: [f64; N],
) -> [Attempt; N] {
    let inverses = steps.map(|step| (1.0 / step) as f32);
    let (mut lengths, mut products) = ([[0f32; LANES]; N], [[0f32; LANES]; N]);
    for values in values.as_chunks::<LANES>().0 {
        for attempt in 0..N {
            let (lengths, products) = (&mut lengths[attempt], &mut products[attempt]);
            for lane in 0..LANES {
                let level = whole::<BITS>(values[lane], inverses[attempt]) as f32 + (0.5 - half_levels(BITS));
                lengths[lane] += level * level;
                products[lane] += level * values[lane];
            }
        }
    }
    std::array::from_fn(|attempt| {
        // Squares of levels are whole quarters and their sum below 2^24 of them: exact. Zeros after `len` are level ½.
        let length = total(&lengths[attempt]) - 0.25 * (GROUP - len) as f64;
        let product = total(&products[attempt]);
        // Least squares: the Δ that minimises Σ (d − Δ·level)² for these codes.
        Attempt { inverse: inverses[attempt], scale: product / length, explained: product * product / length }
    })
}

/// Inner product of two groups, in an order that vectorises and never changes.
#[inline(always)]
fn dot(a: &Reconstruction, b: &Reconstruction) -> f64 {
    let mut lanes = [0f32; LANES];
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    total(&lanes)
}

/// Sum of the lanes. Apart from [`dot`] on purpose: seen together, the compiler arranges the loop for the few additions
/// here, at a third of its speed.
#[inline(never)]
fn total(lanes: &[f32; LANES]) -> f64 {
    let mut sums = [0.0; 4];
    for lanes in lanes.as_chunks::<4>().0 {
        for (sum, lane) in sums.iter_mut().zip(lanes) {
            *sum += f64::from(*lane);
        }
    }
    (sums[0] + sums[2]) + (sums[1] + sums[3])
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
