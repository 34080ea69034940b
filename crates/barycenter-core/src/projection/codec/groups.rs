//! Coding of several groups, step by step: each step is a short loop over all of them, so that the divisions and roots of one
//! group, which wait for each other, are made while others are at work, and nothing is guessed wrong by the processor.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use std::mem::MaybeUninit;

use super::{GROUP, Reconstruction, ahead::Ahead, gaussian_step};
use crate::projection::packing;

/// Groups that are coded together: few enough to stay in the near caches with all that is kept of them, and so many that what
/// waits for the last of them is soon forgotten.
pub(in crate::projection) const BATCH: usize = 24;

/// Groups whose sums are added up together, so that the additions across a register's lanes are shared.
pub(super) const TOGETHER: usize = 4;

const _: () = assert!(BATCH.is_multiple_of(TOGETHER), "a batch is whole so often");

/// Running sums kept apart while squares are summed.
const LANES: usize = 16;

/// Steps that are tried: the Gaussian one, and the one that just covers the largest value.
pub(super) const STEPS: usize = 2;

/// What coding a group found, beside its codes.
#[derive(Clone, Copy)]
pub(in crate::projection) struct Coded {
    /// Δ.
    pub(in crate::projection) scale: f32,
    /// Squared length of the deviations, in whole units below 32 bits: within a thousandth of it, mostly a hundred-thousandth.
    pub(in crate::projection) square: f64,
    /// Inner product of the deviations and what they decode to, which is also the squared length of that.
    pub(in crate::projection) explained: f64,
}

impl Coded {
    const NOTHING: Self = Self { scale: 0.0, square: 0.0, explained: 0.0 };
}

/// Deviations in units: whole numbers, the largest of them from 2^13 to 2^14. Their order is that of the loops that made them.
pub(super) type Fixed = [i16; GROUP];

/// What the codes under the steps sum up to, with [`fraction`] bits of a level behind the point: whole numbers, so that the order
/// in which they are summed is all one.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Attempts {
    /// Squares of the levels.
    pub(super) lengths: [i32; STEPS],
    /// Levels times the deviations in units.
    pub(super) products: [i32; STEPS],
}

/// Room for the bytes of a group's codes under each of the steps.
pub(super) type Packed = [[u8; GROUP]; STEPS];

/// What the deviations of a few groups measure.
pub(super) struct Measured {
    /// Largest magnitudes, as the bits of them.
    pub(super) largest: [i32; TOGETHER],
    /// Squared lengths, in units.
    pub(super) squares: [u64; TOGETHER],
}

/// A group to code: the first `len` elements of the values, less their centre.
#[derive(Clone, Copy)]
pub(in crate::projection) struct Group<'a> {
    /// As the centre, equal to it after `len`.
    pub(in crate::projection) values: &'a Reconstruction,
    pub(in crate::projection) centre: &'a Reconstruction,
    pub(in crate::projection) len: usize,
}

/// Room for coding groups, one batch after the other.
pub(in crate::projection) struct Batch {
    elements: Vec<Elements>,
    /// Of groups that are being rounded.
    deviations: Box<[Deviations; 2]>,
    numbers: Numbers,
    /// What was found, a group of the last batch each.
    pub(in crate::projection) coded: [Coded; BATCH],
}

/// Deviations of a group, none of whose registers crosses a cache line.
#[repr(align(64))]
pub(super) struct Deviations(pub(super) Reconstruction);

/// What is kept of the elements of a group.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Elements {
    pub(super) fixed: Fixed,
    pub(super) packed: Packed,
}

/// Steps to try.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    /// One over each of them.
    pub(super) inverses: [i16; STEPS],
    /// Whether the second is larger than the first; else it is of no use.
    pub(super) both: bool,
}

/// The numbers of a batch that are not sums over elements.
struct Numbers {
    /// Number of elements.
    lens: [f64; BATCH],
    /// Largest magnitudes, as the bits of them.
    largest: [i32; BATCH],
    /// The deviation that is 1.
    units: [f64; BATCH],
    /// Squared lengths, in units.
    squares: [u64; BATCH],
    steps: [[f64; BATCH]; STEPS],
    tried: [Steps; BATCH],
    attempts: [Attempts; BATCH],
}

impl Batch {
    pub(in crate::projection) fn new() -> Self {
        let attempts = Attempts { lengths: [1; STEPS], products: [0; STEPS] };
        Self {
            deviations: Box::new([const { Deviations([0.0; GROUP]) }; 2]),
            elements: vec![Elements { fixed: [0; GROUP], packed: [[0; GROUP]; STEPS] }; BATCH],
            numbers: Numbers {
                lens: [1.0; BATCH],
                largest: [0; BATCH],
                units: [0.0; BATCH],
                squares: [0; BATCH],
                steps: [[0.0; BATCH]; STEPS],
                tried: [Steps { inverses: [0; STEPS], both: false }; BATCH],
                attempts: [attempts; BATCH],
            },
            coded: [Coded::NOTHING; BATCH],
        }
    }

    /// Codes up to [`BATCH`] groups into their bytes, one after the other.
    #[inline(always)]
    pub(super) fn code<const BITS: usize>(
        &mut self,
        groups: &[Group<'_>],
        codes: &mut [MaybeUninit<u8>],
        ahead: &mut Ahead<'_>,
        fix: impl Fn(&[Group<'_>], &mut [Elements], &mut [Deviations; 2], &mut Ahead<'_>) -> Measured,
        attempt: impl Fn(usize, &[Steps; TOGETHER], &mut [Elements], &mut Ahead<'_>) -> [Attempts; TOGETHER],
        (pack, store): (impl Fn(&Fixed, i16, &mut [u8]), impl Fn(&[u8], &mut [MaybeUninit<u8>])),
    ) {
        let numbers = &mut self.numbers;
        let together = groups.chunks(TOGETHER).zip(self.elements.chunks_mut(TOGETHER));
        let measured = numbers.largest.as_chunks_mut().0.iter_mut().zip(numbers.squares.as_chunks_mut().0);
        for ((groups, elements), (largest, squares)) in together.zip(measured) {
            let found = fix(groups, elements, &mut self.deviations, ahead);
            (*largest, *squares) = (found.largest, found.squares);
        }
        for (len, group) in numbers.lens.iter_mut().zip(groups) {
            *len = group.len as f64;
        }
        numbers.take_steps::<BITS>();
        let together = groups.chunks(TOGETHER).zip(self.elements.chunks_mut(TOGETHER));
        let steps = numbers.tried.as_chunks().0.iter().zip(numbers.attempts.as_chunks_mut().0);
        for ((groups, elements), (steps, attempts)) in together.zip(steps) {
            *attempts = attempt(groups.len(), steps, elements, ahead);
        }
        let best = self.choose::<BITS>();
        for (g, (group, codes)) in groups.iter().zip(codes.chunks_exact_mut(32 * BITS)).enumerate() {
            if !is_coded(self.numbers.largest[g]) {
                codes.fill(MaybeUninit::new(0));
                continue;
            }
            let (step, Elements { fixed, packed }) = (usize::from(best[g]), &mut self.elements[g]);
            let packed = &mut packed[step][..32 * BITS];
            pack(fixed, self.numbers.tried[g].inverses[step], packed);
            if group.len < GROUP {
                let all = packing::unpack::<BITS>(packed);
                packing::pack::<BITS>(|element| if element < group.len { all[element] } else { 0 }, packed);
            }
            store(packed, codes);
        }
    }

    /// Writes the deviations of up to [`BATCH`] groups into their bytes.
    #[inline(always)]
    pub(super) fn copy(&mut self, groups: &[Group<'_>], codes: &mut [MaybeUninit<u8>]) {
        let codes = codes.as_chunks_mut::<{ 4 * GROUP }>().0;
        for ((group, coded), codes) in groups.iter().zip(&mut self.coded).zip(codes) {
            let mut squares = [0.0; LANES];
            let rows = group.values.as_chunks::<LANES>().0.iter().zip(group.centre.as_chunks::<LANES>().0);
            for ((values, centre), codes) in rows.zip(codes.as_chunks_mut::<{ 4 * LANES }>().0) {
                for lane in 0..LANES {
                    let deviation = values[lane] - centre[lane];
                    squares[lane] += f64::from(deviation) * f64::from(deviation);
                    codes.as_chunks_mut::<4>().0[lane] = deviation.to_le_bytes().map(MaybeUninit::new);
                }
            }
            let square = squares.iter().sum();
            *coded = Coded { scale: 1.0, square, explained: square };
        }
    }

    /// Which of the attempts explains more, and what it found.
    #[inline(always)]
    fn choose<const BITS: usize>(&mut self) -> [bool; BATCH] {
        let Numbers { lens, largest, units, squares, steps, attempts, .. } = &self.numbers;
        let mut best = [false; BATCH];
        let (mut scales, mut lengths, mut explained) = ([0.0; BATCH], [0.0; BATCH], [0.0; BATCH]);
        for g in 0..BATCH {
            let one = f64::from(1_u32 << fraction(BITS));
            // Zeros after the end are at level ½.
            let absent = 0.25 * (GROUP as f64 - lens[g]);
            let length = attempts[g].lengths.map(|length| f64::from(length) / (one * one) - absent);
            let product = attempts[g].products.map(|product| f64::from(product) / one);
            let scale = [product[0] / length[0], product[1] / length[1]];
            let by = [product[0] * scale[0], product[1] * scale[1]];
            best[g] = BITS > 1 && steps[1][g] > steps[0][g] && by[1] > by[0];
            // Least squares: the Δ that minimises Σ (d − Δ·level)² for these codes.
            scales[g] = scale[usize::from(best[g])] * units[g];
            explained[g] = by[usize::from(best[g])] * units[g] * units[g];
            lengths[g] = squares[g] as f64 * units[g] * units[g];
        }
        for g in 0..BATCH {
            let scale = scales[g] as f32;
            self.coded[g] = match largest[g] {
                ..SMALLEST => Coded::NOTHING,
                // A step at few bits may be larger than every number.
                largest if is_coded(largest) && scale.is_finite() => {
                    Coded { scale, square: lengths[g], explained: explained[g] }
                }
                _ => Coded { scale: f32::NAN, square: f64::NAN, explained: 0.0 },
            };
        }
        best
    }
}

impl Numbers {
    /// Starting steps of what was measured, in units.
    #[inline(always)]
    fn take_steps<const BITS: usize>(&mut self) {
        let Self { lens, largest, units, squares, steps, tried, .. } = self;
        for g in 0..BATCH {
            units[g] = f64::from_bits(((1023 + i64::from(exponent_of_unit(largest[g]))) as u64) << 52);
            // As it was rounded.
            let largest = f32::from_bits(largest[g] as u32) * inverse_of_unit(largest[g]) + LAST_BITS;
            let largest = largest.to_bits() as i16;
            steps[1][g] = f64::from(largest) / f64::from(1_u32 << (BITS - 1));
        }
        for g in 0..BATCH {
            steps[0][g] = gaussian_step(BITS) * (squares[g] as f64 / lens[g]).sqrt();
        }
        let one = f64::from(1_u32 << (16 + fraction(BITS)));
        // So little more that the largest value is below the end of the levels.
        let less = one - 1.0 / f64::from(1_u32 << (BITS - 1));
        for g in 0..BATCH {
            let inverses = [(one / steps[0][g] + 0.5) as i16, (less / steps[1][g]) as i16];
            tried[g] = Steps { inverses, both: steps[1][g] > steps[0][g] };
        }
    }
}

/// Added to a number of at most 2^22, this leaves it in the last bits, to the nearest whole number. A deviation over a power of
/// two is exact, or so small that this swallows it: it is all one whether the product and this sum are fused.
pub(super) const LAST_BITS: f32 = 12_582_912.0;

/// Bits of a place among the levels that lie behind the point. The largest deviation of a group is at most 16 times the root
/// mean square, so that one over a step, with these and 16 bits more, stays below 2^15; and sums of products below 2^31.
pub(super) const fn fraction(bits: usize) -> u32 {
    match bits {
        1 | 2 => 6,
        4 => 4,
        _ => 2,
    }
}

/// Groups whose largest magnitude, as its bits, is below this are stored as zeros: 2^-114, so that one over a unit is a number.
pub(super) const SMALLEST: i32 = (127 - 114) << 23;

/// Whether there is anything to code: not without numbers, nor where one is none.
#[inline(always)]
const fn is_coded(largest: i32) -> bool {
    SMALLEST <= largest && largest < 0x7f80_0000
}

/// The exponent of a group's unit, a power of two, from its largest magnitude as the bits of it.
#[inline(always)]
const fn exponent_of_unit(largest: i32) -> i32 {
    if is_coded(largest) { (largest >> 23) - 127 - 13 } else { 0 }
}

/// One over the unit of a group.
#[inline(always)]
pub(super) const fn inverse_of_unit(largest: i32) -> f32 {
    f32::from_bits(((127 - exponent_of_unit(largest)) << 23) as u32)
}
