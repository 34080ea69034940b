//! The loops over a group's elements, for any processor; the compiler makes registers of the lanes.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use std::mem::MaybeUninit;

use super::{
    GROUP, Reconstruction,
    groups::{Attempts, Batch, Group, LANES, STEPS, Words, total},
    half_levels,
};
use crate::{
    memory::{LINE, prefetch},
    projection::packing::{run_words, slots},
};

/// As [`Batch::code`].
#[inline(always)]
pub(super) fn code<const BITS: usize>(batch: &mut Batch, groups: &[Group<'_>], codes: &mut [MaybeUninit<u8>]) {
    batch.code::<BITS>(groups, codes, (deviate, scale), attempt::<BITS>, store);
}

/// Codes at 32 bits, where the deviations are their own codes.
#[inline(always)]
pub(super) fn copy(batch: &mut Batch, groups: &[Group<'_>], codes: &mut [MaybeUninit<u8>]) {
    batch.copy(groups, codes, (deviate, scale));
}

/// Values less their centre, and the largest magnitude of these as the bits of it.
#[inline(always)]
pub(super) fn deviate(group: &Group<'_>, values: &mut Reconstruction) -> i32 {
    for ((d, value), centre) in values.iter_mut().zip(group.values).zip(group.centre) {
        *d = value - centre;
    }
    values.iter().fold(0, |largest, d| ((d.to_bits() & 0x7fff_ffff) as i32).max(largest))
}

/// Multiplies values and returns the sum of their squares.
#[inline(always)]
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

/// Codes values under one over each of the steps.
#[inline(always)]
pub(super) fn attempt<const BITS: usize>(
    values: &Reconstruction,
    inverses: [f32; STEPS],
    into: &mut Words,
    ahead: *const f32,
) -> Attempts {
    for line in (0..GROUP).step_by(LINE) {
        prefetch(ahead.wrapping_add(line));
    }
    let mut found = Attempts { lengths: [0.0; STEPS], products: [0.0; STEPS] };
    let tried = if BITS == 1 { 1 } else { STEPS };
    // A run of words as wide as the lanes; at 1 bit, where a run is half as wide, two slots lie side by side.
    let (vectors, shift) = if BITS == 1 { (GROUP / LANES, 2) } else { (slots(BITS), BITS) };
    for attempt in 0..tried {
        let (mut lengths, mut products) = ([0f32; LANES], [0f32; LANES]);
        for (run, values) in values.chunks_exact(vectors * LANES).enumerate() {
            let mut words = [0; LANES];
            for (vector, values) in values.as_chunks::<LANES>().0.iter().enumerate() {
                for lane in 0..LANES {
                    let code = whole::<BITS>(values[lane], inverses[attempt]);
                    let level = code as f32 + (0.5 - half_levels(BITS));
                    lengths[lane] += level * level;
                    products[lane] += level * values[lane];
                    words[lane] |= (code as u32) << (vector * shift);
                }
            }
            let into = &mut into[attempt][run * run_words(BITS)..][..run_words(BITS)];
            if BITS == 1 {
                for (word, into) in into.iter_mut().enumerate() {
                    *into = words[word] | words[word + LANES / 2] << 1;
                }
            } else {
                into.copy_from_slice(&words);
            }
        }
        (found.lengths[attempt], found.products[attempt]) = (total(&lengths), total(&products));
    }
    found
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

/// Writes words in the order of their bytes.
#[inline(always)]
pub(super) fn store(words: &[u32], into: &mut [MaybeUninit<u8>]) {
    for (bytes, word) in into.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes().map(MaybeUninit::new);
    }
}

/// The mean of the rows, each column by itself.
#[inline(always)]
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
