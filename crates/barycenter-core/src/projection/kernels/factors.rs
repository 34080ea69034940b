//! The factors of a tile's candidates as whole numbers, so that their sums of products with codes are exact.
//!
//! A block of [`BLOCK`] candidates shares a step, 2⁻¹⁵ of the largest factor, and the factors are rounded to whole steps:
//! the counterpart, on the way back, of the tile's gradient in `digits`. It moves a candidate's part of the weights by less
//! than 2⁻¹⁵ of the largest one's, where 8 bits move a direction by a hundredth.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use super::digits::{DIGITS, LARGEST, ROUNDING, SMALLEST};

/// Candidates whose products a 16-bit sum holds: sixteen of at most 15 · 128.
pub(super) const BLOCK: usize = 16;

/// Two candidates' digits as processors multiply them with the bytes of their codes in turn: one word a digit, the lowest
/// first, that holds the first candidate's digit in bytes 0 and 2, the second's in bytes 1 and 3.
pub(super) type Pair = [i32; DIGITS];

/// The factors of one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// Half of what a whole number is worth; NaN where a factor is not finite.
    pub(super) half_unit: f32,
    /// (2^b − 1) · Σ whole: what twice the sum of code · whole exceeds the sum of 2 · level · whole by.
    pub(super) offset: i32,
    /// Zeros for candidates that are not there.
    pub(super) whole: [i32; BLOCK],
    /// The same, laid out for products of bytes.
    pub(super) pairs: [Pair; BLOCK / 2],
}

impl Block {
    pub(super) const NOTHING: Self =
        Self { half_unit: 0.0, offset: 0, whole: [0; BLOCK], pairs: [[0; DIGITS]; BLOCK / 2] };

    /// Takes the factors `x · scale` of up to [`BLOCK`] candidates.
    #[inline(always)]
    pub(super) fn fill<const BITS: usize>(&mut self, x: &[f32], scales: &[f32]) {
        let mut factors = [0.0; BLOCK];
        for ((factor, x), scale) in factors.iter_mut().zip(x).zip(scales) {
            *factor = x * scale;
        }
        let largest = factors.iter().fold(0, |largest, f| ((f.to_bits() & 0x7fff_ffff) as i32).max(largest));
        let largest = f32::from_bits(largest as u32);
        if !(SMALLEST..=f32::MAX).contains(&largest) {
            *self = Self { half_unit: if largest < SMALLEST { 0.0 } else { f32::NAN }, ..Self::NOTHING };
            return;
        }
        let inverse = LARGEST / largest;
        self.half_unit = (0.5 / f64::from(inverse)) as f32;
        for (whole, factor) in self.whole.iter_mut().zip(&factors) {
            *whole = (factor * inverse + ROUNDING).to_bits().wrapping_sub(ROUNDING.to_bits()) as i32;
        }
        self.offset = ((1 << BITS) - 1) * self.whole.iter().sum::<i32>();
        for (pair, whole) in self.pairs.iter_mut().zip(self.whole.as_chunks::<2>().0) {
            let bytes = |[a, b]: [i32; 2]| {
                let pair = a & 0xff | (b & 0xff) << 8;
                pair | pair << 16
            };
            // Digits −128 … 127: the upper one takes what the lower one lacks.
            *pair = [bytes(*whole), bytes(whole.map(|whole| (whole + 128) >> 8))];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_and_their_digits_stand_for_the_factors() {
        for scale in [1e-30, 1e-3, 1.0, 1e38] {
            let x: Vec<f32> = (0..BLOCK - 1).map(|i| (i * 29 % 17) as f32 / 17.0 - 0.4).collect();
            let mut block = Block::NOTHING;
            block.fill::<4>(&x, &[scale; BLOCK]);
            let unit = 2.0 * f64::from(block.half_unit);
            for (i, x) in x.iter().enumerate() {
                let (factor, whole) = (f64::from(x * scale), block.whole[i]);
                assert!((factor - unit * f64::from(whole)).abs() <= 0.6 * unit, "{i}: {factor}");
                let digits = block.pairs[i / 2].map(|word| i32::from(word.to_le_bytes()[i % 2 + 2] as i8));
                assert_eq!(digits[0] + 256 * digits[1], whole);
            }
            assert_eq!(block.whole[BLOCK - 1], 0, "no candidate");
            assert_eq!(block.offset, 15 * block.whole.iter().sum::<i32>());
        }
    }

    #[test]
    fn factors_of_zero_give_nothing_and_others_that_are_not_finite_give_nan() {
        let mut block = Block::NOTHING;
        block.fill::<2>(&[0.0, 1.0], &[1.0, 0.0]);
        assert_eq!((block.half_unit, block.whole), (0.0, [0; BLOCK]));
        for bad in [f32::NAN, f32::INFINITY] {
            block.fill::<2>(&[1.0, bad], &[1.0, 1.0]);
            assert!(block.half_unit.is_nan());
        }
    }
}
