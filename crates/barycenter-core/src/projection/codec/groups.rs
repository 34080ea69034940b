//! Coding of several groups, step by step: each step is a short loop over all of them, so that the divisions and roots of one
//! group, which wait for each other, are made while others are at work, and nothing is guessed wrong by the processor.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use std::mem::MaybeUninit;

use super::{GROUP, Reconstruction, SMALLEST_STEP, gaussian_step};
use crate::projection::packing;

/// Groups that are coded together: few enough to stay in the near caches with all that is kept of them, and so many that what
/// waits for the last of them is soon forgotten.
pub(in crate::projection) const BATCH: usize = 24;

/// Running sums kept apart while a group is summed.
pub(super) const LANES: usize = 16;

/// Steps that are tried: the Gaussian one, and the one that just covers the largest value.
pub(super) const STEPS: usize = 2;

/// What coding a group found, beside its codes.
#[derive(Clone, Copy)]
pub(in crate::projection) struct Coded {
    /// Δ.
    pub(in crate::projection) scale: f32,
    /// Squared length of the deviations.
    pub(in crate::projection) square: f64,
    /// Inner product of the deviations and what they decode to, which is also the squared length of that.
    pub(in crate::projection) explained: f64,
}

impl Coded {
    const NOTHING: Self = Self { scale: 0.0, square: 0.0, explained: 0.0 };
}

/// What the codes under the steps sum up to.
#[derive(Clone, Copy)]
pub(super) struct Attempts {
    /// Squared levels.
    pub(super) lengths: [f64; STEPS],
    /// Levels times values.
    pub(super) products: [f64; STEPS],
}

/// Room for the bytes of a group's codes under each of the steps.
pub(super) type Packed = [[u8; GROUP]; STEPS];

/// A group to code: the first `len` elements of the values, less their centre.
#[derive(Clone, Copy)]
pub(in crate::projection) struct Group<'a> {
    /// As the centre, equal to it after `len`.
    pub(in crate::projection) values: &'a Reconstruction,
    pub(in crate::projection) centre: &'a Reconstruction,
    pub(in crate::projection) len: usize,
    /// How many elements behind these values those lie that are coded soon: they are asked for while these are coded.
    pub(in crate::projection) ahead: usize,
}

/// Room for coding groups, one batch after the other.
pub(in crate::projection) struct Batch {
    elements: Vec<Elements>,
    numbers: Numbers,
    /// What was found, a group of the last batch each.
    pub(in crate::projection) coded: [Coded; BATCH],
}

/// What is kept of the elements of a group.
#[derive(Clone)]
#[repr(C, align(64))]
struct Elements {
    values: Reconstruction,
    packed: Packed,
}

/// The numbers of a batch that are not sums over elements.
struct Numbers {
    /// Number of elements.
    lens: [f64; BATCH],
    /// Largest magnitudes, as the bits of them.
    largest: [i32; BATCH],
    /// What the values were divided by.
    units: [f64; BATCH],
    /// Squared lengths of the values.
    squares: [f64; BATCH],
    /// Whether there is anything to code.
    coded: [bool; BATCH],
    steps: [[f64; BATCH]; STEPS],
    /// One over the steps.
    inverses: [[f32; STEPS]; BATCH],
    lengths: [[f64; BATCH]; STEPS],
    products: [[f64; BATCH]; STEPS],
}

impl Batch {
    pub(in crate::projection) fn new() -> Self {
        let (none, both) = ([0.0; BATCH], [[0.0; BATCH]; STEPS]);
        Self {
            elements: vec![Elements { values: [0.0; GROUP], packed: [[0; GROUP]; STEPS] }; BATCH],
            numbers: Numbers {
                lens: [1.0; BATCH],
                largest: [0; BATCH],
                units: none,
                squares: none,
                coded: [false; BATCH],
                steps: both,
                inverses: [[0.0; STEPS]; BATCH],
                lengths: both,
                products: both,
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
        loops: (impl Fn(&Group<'_>, &mut Reconstruction) -> i32, impl Fn(f32, &mut Reconstruction) -> f64),
        attempt: impl Fn(&Reconstruction, ([f32; STEPS], bool), &mut Packed, *const f32) -> Attempts,
        (pack, store): (impl Fn(&Reconstruction, f32, &mut [u8]), impl Fn(&[u8], &mut [MaybeUninit<u8>])),
    ) {
        self.measure(groups, loops);
        self.take_steps::<BITS>();
        let Numbers { steps, inverses, lengths, products, .. } = &mut self.numbers;
        for (g, (group, Elements { values, packed })) in groups.iter().zip(&mut self.elements).enumerate() {
            let ahead = group.values.as_ptr().wrapping_add(group.ahead);
            let found = attempt(values, (inverses[g], steps[1][g] > steps[0][g]), packed, ahead);
            for step in 0..STEPS {
                (lengths[step][g], products[step][g]) = (found.lengths[step], found.products[step]);
            }
        }
        let best = self.choose::<BITS>();
        for (g, (group, codes)) in groups.iter().zip(codes.chunks_exact_mut(32 * BITS)).enumerate() {
            if !self.numbers.coded[g] {
                codes.fill(MaybeUninit::new(0));
                continue;
            }
            let (step, Elements { values, packed }) = (usize::from(best[g]), &mut self.elements[g]);
            let packed = &mut packed[step][..32 * BITS];
            pack(values, self.numbers.inverses[g][step], packed);
            if group.len < GROUP {
                let all = packing::unpack::<BITS>(packed);
                packing::pack::<BITS>(|element| if element < group.len { all[element] } else { 0 }, packed);
            }
            store(packed, codes);
        }
    }

    /// Writes the deviations of up to [`BATCH`] groups into their bytes.
    #[inline(always)]
    pub(super) fn copy(
        &mut self,
        groups: &[Group<'_>],
        codes: &mut [MaybeUninit<u8>],
        loops: (impl Fn(&Group<'_>, &mut Reconstruction) -> i32, impl Fn(f32, &mut Reconstruction) -> f64),
    ) {
        self.measure(groups, loops);
        for coded in &mut self.coded {
            *coded = Coded { scale: 1.0, explained: coded.square, ..*coded };
        }
        for (group, codes) in groups.iter().zip(codes.as_chunks_mut::<{ 4 * GROUP }>().0) {
            for ((code, value), centre) in codes.as_chunks_mut::<4>().0.iter_mut().zip(group.values).zip(group.centre) {
                *code = (value - centre).to_le_bytes().map(MaybeUninit::new);
            }
        }
    }

    /// Measures the groups: their squared lengths are then in `coded`, and nothing else.
    #[inline(always)]
    pub(super) fn measure(
        &mut self,
        groups: &[Group<'_>],
        (deviate, scale): (impl Fn(&Group<'_>, &mut Reconstruction) -> i32, impl Fn(f32, &mut Reconstruction) -> f64),
    ) {
        let Numbers { lens, largest, units, squares, coded, .. } = &mut self.numbers;
        for (g, (group, elements)) in groups.iter().zip(&mut self.elements).enumerate() {
            largest[g] = deviate(group, &mut elements.values);
            lens[g] = group.len as f64;
        }
        for (g, elements) in self.elements.iter_mut().enumerate().take(groups.len()) {
            squares[g] = scale(scaling(largest[g]).1, &mut elements.values);
        }
        for g in 0..BATCH {
            units[g] = f64::from_bits(((1023 + i64::from(scaling(largest[g]).0)) as u64) << 52);
        }
        for g in 0..BATCH {
            let (square, largest) = (squares[g] * units[g] * units[g], largest[g]);
            // Without an exponent, numbers are too small to tell from zero; with the last one, no numbers.
            coded[g] = (0x0080_0000..0x7f80_0000).contains(&largest);
            self.coded[g] = match largest {
                ..0x0080_0000 => Coded::NOTHING,
                0x0080_0000..0x7f80_0000 => Coded { scale: 0.0, square, explained: 0.0 },
                _ => Coded { scale: f32::NAN, square: f64::NAN, explained: 0.0 },
            };
        }
    }

    /// Starting steps of what was measured.
    #[inline(always)]
    fn take_steps<const BITS: usize>(&mut self) {
        let Numbers { lens, largest, units, squares, coded, steps, inverses, .. } = &mut self.numbers;
        for g in 0..BATCH {
            let largest = f32::from_bits(largest[g] as u32) * scaling(largest[g]).1;
            steps[1][g] = f64::from(largest) / f64::from(1_u32 << (BITS - 1));
        }
        for g in 0..BATCH {
            steps[0][g] = gaussian_step(BITS) * (squares[g] / lens[g]).sqrt();
            coded[g] &= steps[0][g] * units[g] >= SMALLEST_STEP;
        }
        for g in 0..BATCH {
            inverses[g] = [(1.0 / steps[0][g]) as f32, (1.0 / steps[1][g]) as f32];
        }
    }

    /// Which of the attempts explains more, and what it found.
    #[inline(always)]
    fn choose<const BITS: usize>(&mut self) -> [bool; BATCH] {
        let Numbers { lens, units, coded, steps, lengths, products, .. } = &self.numbers;
        let mut best = [false; BATCH];
        let (mut scales, mut explained) = ([0.0; BATCH], [0.0; BATCH]);
        for g in 0..BATCH {
            // Squares of levels are whole quarters and their sum below 2^24 of them: exact. Zeros after `len` are level ½.
            let absent = 0.25 * (GROUP as f64 - lens[g]);
            let length = [lengths[0][g] - absent, lengths[1][g] - absent];
            let product = [products[0][g], products[1][g]];
            let by = [product[0] * product[0] / length[0], product[1] * product[1] / length[1]];
            let other = BITS > 1 && steps[1][g] > steps[0][g] && by[1] > by[0];
            let (length, product) = if other { (length[1], product[1]) } else { (length[0], product[0]) };
            best[g] = other;
            // Least squares: the Δ that minimises Σ (d − Δ·level)² for these codes.
            scales[g] = product / length * units[g];
            explained[g] = (if other { by[1] } else { by[0] }) * units[g] * units[g];
        }
        for g in 0..BATCH {
            if coded[g] {
                self.coded[g] = Coded { scale: scales[g] as f32, explained: explained[g], ..self.coded[g] };
            }
        }
        best
    }
}

/// The exponent of the power of two below a magnitude, given as its bits, and one over that power. Numbers so large that this
/// is no normal number are divided by half of it.
#[inline(always)]
pub(super) fn scaling(largest: i32) -> (i32, f32) {
    let exponent = ((largest >> 23) - 127).min(126);
    (exponent, f32::from_bits(((127 - exponent) << 23) as u32))
}

/// Sum of the lanes. Apart from the loops on purpose: seen together, the compiler arranges them for the few additions here, at a
/// third of their speed.
#[inline(never)]
pub(super) fn total(lanes: &[f32; LANES]) -> f64 {
    let mut sums = [0.0; 4];
    for lanes in lanes.as_chunks::<4>().0 {
        for (sum, lane) in sums.iter_mut().zip(lanes) {
            *sum += f64::from(*lane);
        }
    }
    (sums[0] + sums[2]) + (sums[1] + sums[3])
}
