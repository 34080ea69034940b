//! The loops over a group's elements, for processors without kernels of their own; the compiler makes registers of the lanes.

use std::mem::MaybeUninit;

use super::{
    GROUP, Reconstruction,
    groups::{Attempts, Batch, Group, LANES, Packed, STEPS, total},
    half_levels,
};
use crate::{
    memory::{LINE, prefetch},
    projection::packing,
};

/// As [`Batch::code`]; never past the caches, which not every processor can.
#[inline]
pub(super) fn code<const BITS: usize>(
    batch: &mut Batch,
    groups: &[Group<'_>],
    codes: &mut [MaybeUninit<u8>],
    _stream: bool,
) {
    batch.code::<BITS>(
        groups,
        codes,
        (deviate, scale),
        attempt::<BITS>,
        (pack::<BITS>, |packed, codes| {
            codes.write_copy_of_slice(packed);
        }),
    );
}

/// Codes at 32 bits, where the deviations are their own codes.
#[inline]
pub(super) fn copy(batch: &mut Batch, groups: &[Group<'_>], codes: &mut [MaybeUninit<u8>]) {
    batch.copy(groups, codes, (deviate, scale));
}

/// Values less their centre, and the largest magnitude of these as the bits of it.
#[inline]
pub(super) fn deviate(group: &Group<'_>, values: &mut Reconstruction) -> i32 {
    for ((d, value), centre) in values.iter_mut().zip(group.values).zip(group.centre) {
        *d = value - centre;
    }
    values.iter().fold(0, |largest, d| ((d.to_bits() & 0x7fff_ffff) as i32).max(largest))
}

/// Multiplies values and returns the sum of their squares.
#[inline]
pub(super) fn scale(factor: f32, values: &mut Reconstruction) -> f64 {
    let mut squares = [0.0; LANES];
    for values in values.as_chunks_mut::<LANES>().0 {
        for (value, square) in values.iter_mut().zip(&mut squares) {
            *value *= factor;
            *square += *value * *value;
        }
    }
    total(&squares)
}

/// Tries values under one over the first step, and the second where asked; their codes are left to [`pack`].
#[inline]
pub(super) fn attempt<const BITS: usize>(
    values: &Reconstruction,
    (inverses, both): ([f32; STEPS], bool),
    _packed: &mut Packed,
    ahead: *const f32,
) -> Attempts {
    for line in (0..GROUP).step_by(LINE) {
        prefetch(ahead.wrapping_add(line));
    }
    let mut found = Attempts { lengths: [0.0; STEPS], products: [0.0; STEPS] };
    // One after the other: the sums of both would not stay in registers.
    for (step, inverse) in inverses.into_iter().enumerate().take(if BITS > 1 && both { STEPS } else { 1 }) {
        (found.lengths[step], found.products[step]) = sums::<BITS>(values, inverse);
    }
    found
}

/// Sums of the squared levels and of levels times values.
#[inline]
fn sums<const BITS: usize>(values: &Reconstruction, inverse: f32) -> (f64, f64) {
    let (mut lengths, mut products) = ([0f32; LANES], [0f32; LANES]);
    for values in values.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let level = whole::<BITS>(values[lane], inverse) as f32 + (0.5 - half_levels(BITS));
            lengths[lane] += level * level;
            products[lane] += level * values[lane];
        }
    }
    (total(&lengths), total(&products))
}

/// Packs the codes of values under one over a step.
#[inline]
fn pack<const BITS: usize>(values: &Reconstruction, inverse: f32, into: &mut [u8]) {
    packing::pack::<BITS>(|element| whole::<BITS>(values[element], inverse) as u32, into);
}

/// The code of a value under a step, of which `inverse` is the reciprocal.
#[inline]
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

/// The mean of the rows, each column by itself.
#[inline]
pub(super) fn mean(rows: &[&[f32]], into: &mut [f32]) {
    for (strip, into) in into.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut totals = [0.0; LANES];
        for row in rows {
            for (sum, value) in totals.iter_mut().zip(&row.as_chunks::<LANES>().0[strip]) {
                *sum += f64::from(*value);
            }
        }
        *into = totals.map(|sum| (sum / rows.len() as f64) as f32);
    }
}
