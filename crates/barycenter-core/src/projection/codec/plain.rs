//! The loops over a group's elements, for processors without kernels of their own; the compiler makes registers of the lanes.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use std::mem::MaybeUninit;

use super::{
    GROUP,
    ahead::{Ahead, COLUMNS},
    groups::{
        Attempts, Batch, Elements, Fixed, Group, LAST_BITS, Measured, STEPS, Steps, TOGETHER, fraction, inverse_of_unit,
    },
};
use crate::projection::packing;

/// As [`Batch::code`]; never past the caches, which not every processor can.
pub(super) fn code<const BITS: usize>(
    batch: &mut Batch,
    groups: &[Group<'_>],
    codes: &mut [MaybeUninit<u8>],
    (_stream, ahead): (bool, &mut Ahead<'_>),
) {
    let store = |packed: &[u8], codes: &mut [MaybeUninit<u8>]| {
        codes.write_copy_of_slice(packed);
    };
    batch.code::<BITS>(
        groups,
        codes,
        ahead,
        |groups, elements, _, _| fix(groups, elements),
        attempt::<BITS>,
        (pack::<BITS>, store),
    );
}

/// Rounds deviations to whole units and measures them.
#[inline(always)]
pub(super) fn fix(groups: &[Group<'_>], into: &mut [Elements]) -> Measured {
    let magnitude = |(value, centre): (&f32, &f32)| ((value - centre).to_bits() & 0x7fff_ffff) as i32;
    let mut found = Measured { largest: [0; TOGETHER], squares: [0; TOGETHER] };
    for (g, (group, into)) in groups.iter().zip(into).enumerate() {
        let largest = group.values.iter().zip(group.centre).map(magnitude).fold(0, i32::max);
        let inverse = inverse_of_unit(largest);
        for ((fixed, value), centre) in into.fixed.iter_mut().zip(group.values).zip(group.centre) {
            *fixed = ((value - centre) * inverse + LAST_BITS).to_bits() as i16;
        }
        let square = |fixed: &i16| (i32::from(*fixed) * i32::from(*fixed)) as u64;
        (found.largest[g], found.squares[g]) = (largest, into.fixed.iter().map(square).sum());
    }
    found
}

/// Tries deviations under one over the first step, and the second where it is of use; their codes are left to [`pack`].
#[inline(always)]
pub(super) fn attempt<const BITS: usize>(
    groups: usize,
    steps: &[Steps; TOGETHER],
    elements: &mut [Elements],
    ahead: &mut Ahead<'_>,
) -> [Attempts; TOGETHER] {
    let mut found = [Attempts { lengths: [1; STEPS], products: [0; STEPS] }; TOGETHER];
    for ((steps, Elements { fixed, .. }), found) in steps.iter().zip(elements).zip(&mut found).take(groups) {
        for _ in 0..3 * (GROUP / COLUMNS) {
            ahead.ask();
        }
        let tried = if BITS > 1 && steps.both { STEPS } else { 1 };
        for (step, inverse) in steps.inverses.into_iter().enumerate().take(tried) {
            (found.lengths[step], found.products[step]) = sums::<BITS>(fixed, inverse);
        }
    }
    found
}

/// Sums of the squares of the levels, and of these times the deviations.
#[inline(always)]
fn sums<const BITS: usize>(fixed: &Fixed, inverse: i16) -> (i32, i32) {
    let one = 1 << fraction(BITS);
    let levels = fixed.map(|fixed| (place::<BITS>(fixed, inverse) & -one) | (one / 2));
    // Overflow is for groups that are not finite, of whose sums nobody makes anything.
    let dot = |a: &Fixed, b: &Fixed| {
        let product = |(a, b): (&i16, &i16)| i32::from(*a) * i32::from(*b);
        a.iter().zip(b).map(product).fold(0, i32::wrapping_add)
    };
    (dot(&levels, &levels), dot(&levels, fixed))
}

/// Packs the codes of deviations under one over a step.
#[inline(always)]
pub(super) fn pack<const BITS: usize>(fixed: &Fixed, inverse: i16, into: &mut [u8]) {
    let first = 1 << (BITS - 1);
    let codes = fixed.map(|fixed| ((place::<BITS>(fixed, inverse) >> fraction(BITS)) + first) as u8);
    packing::pack::<BITS>(|element| u32::from(codes[element]), into);
}

/// A deviation in steps, of which `inverse` is the reciprocal, with [`fraction`] bits behind the point: rounded down, and between
/// the ends of the levels.
#[inline(always)]
fn place<const BITS: usize>(fixed: i16, inverse: i16) -> i16 {
    let end = 1 << (BITS as u32 - 1 + fraction(BITS));
    (((i32::from(fixed) * i32::from(inverse)) >> 16) as i16).clamp(-end, end - 1)
}

/// The mean of the rows, each column by itself.
pub(super) fn mean(rows: &[&[f32]], into: &mut [f32], ahead: &mut Ahead<'_>) {
    for (strip, into) in into.as_chunks_mut::<COLUMNS>().0.iter_mut().enumerate() {
        let mut totals = [0.0; COLUMNS];
        for row in rows {
            let row = &row.as_chunks::<COLUMNS>().0[strip];
            ahead.ask();
            for (sum, value) in totals.iter_mut().zip(row) {
                *sum += f64::from(*value);
            }
        }
        *into = totals.map(|sum| (sum / rows.len() as f64) as f32);
    }
}
