//! A tile of a gradient as whole numbers, so that its products with codes are exact.
//!
//! The 256 floats share a step, 2⁻¹⁵ of the largest, and are rounded to whole steps. That moves the tile by less than 10⁻⁴ of
//! its length, where the noise of a batch moves it by about its whole length and 8 bits move a direction by a hundredth.
//! Sums of whole numbers do not depend on their order, so every processor and every number of threads gets the same bits.
//! Each number is two signed bytes, its digits to base 256: processors multiply bytes fastest.

#![expect(clippy::inline_always, reason = "a copy for each processor is made by inlining the code into it")]

use super::super::{GROUP, packing};

/// Digits of a whole number.
pub(super) const DIGITS: usize = 2;

/// The largest whole number: 127 in both digits.
pub(super) const LARGEST: f32 = 32_639.0;

/// Gradients and factors below this count as zeros: the factor would leave the range of f32.
pub(super) const SMALLEST: f32 = 1e-31;

/// Added to a small number, leaves it rounded to a whole one, ties to even, in the low bits of the sum.
pub(super) const ROUNDING: f32 = 12_582_912.0;

/// The whole numbers of a tile.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Digits {
    /// For every run of words, and every code of a byte: a plane for each digit, the lowest first, in the order of the
    /// run's bytes.
    pub(super) planes: [u32; DIGITS * GROUP / 4],
    /// The numbers in the order of the elements; the kernels for AVX2 and AVX-512 leave them out.
    pub(super) whole: [i32; GROUP],
}

/// What a tile of a gradient is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Content {
    /// Zeros.
    Nothing,
    /// Some element is NaN or infinite.
    NotFinite,
    /// The numbers in [`Digits`], whose sum is `sum`, times `unit`.
    Whole { unit: f64, sum: f64 },
}

impl Digits {
    pub(super) fn new() -> Self {
        Self { planes: [0; DIGITS * GROUP / 4], whole: [0; GROUP] }
    }

    /// Takes a tile, laid out for codes of `BITS` bits.
    #[inline(always)]
    pub(super) fn fill<const BITS: usize>(&mut self, gradient: &[f32; GROUP]) -> Content {
        let magnitude = |g: &f32| (g.to_bits() & 0x7fff_ffff) as i32;
        let largest = gradient.iter().fold(0, |largest, g| magnitude(g).max(largest));
        let factor = match factor(largest) {
            Ok(factor) => factor,
            Err(content) => return content,
        };
        for (whole, g) in self.whole.iter_mut().zip(gradient) {
            *whole = (g * factor + ROUNDING).to_bits().wrapping_sub(ROUNDING.to_bits()) as i32;
        }
        self.split::<BITS>();
        // 256 numbers of at most `LARGEST` sum up within an i32.
        let sum: i32 = self.whole.iter().sum();
        Content::Whole { unit: 1.0 / f64::from(factor), sum: f64::from(sum) }
    }

    /// Fills the planes from the whole numbers.
    #[inline(always)]
    fn split<const BITS: usize>(&mut self) {
        let (run, slots) = (packing::run_words(BITS), packing::slots(BITS));
        let codes = slots / 4;
        for (block, whole) in self.whole.chunks_exact(run * slots).enumerate() {
            for code in 0..codes {
                let planes = &mut self.planes[(block * codes + code) * DIGITS * run..][..DIGITS * run];
                let (first, second) = planes.split_at_mut(run);
                for word in 0..run {
                    // Bytes 0 to 3 of a word of codes hold the slots `code`, `codes + code`, …
                    let bytes: [u32; 4] =
                        std::array::from_fn(|byte| balanced(whole[(byte * codes + code) * run + word]));
                    // A transposition of four by two bytes: first of pairs of bytes, then of bytes.
                    let [a, b] = [bytes[0] & 0xffff | bytes[2] << 16, bytes[1] & 0xffff | bytes[3] << 16];
                    first[word] = a & 0x00ff_00ff | (b & 0x00ff_00ff) << 8;
                    second[word] = (a >> 8) & 0x00ff_00ff | b & 0xff00_ff00;
                }
            }
        }
    }
}

/// What turns gradients whose largest has this magnitude (its bits without the sign) into whole numbers; the content of the
/// tile where there is no such factor.
#[inline(always)]
pub(super) fn factor(largest: i32) -> Result<f32, Content> {
    if largest >= 0x7f80_0000 {
        return Err(Content::NotFinite);
    }
    let largest = f32::from_bits(largest as u32);
    if largest < SMALLEST {
        return Err(Content::Nothing);
    }
    Ok(LARGEST / largest)
}

/// The digits −128 … 127 of a number to base 256, one a byte; the upper two bytes are not used.
#[inline(always)]
fn balanced(whole: i32) -> u32 {
    (whole as u32).wrapping_add(0x8080) ^ 0x8080
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use super::*;

    fn check<const BITS: usize>(gradient: &[f32; GROUP]) {
        let mut digits = Digits::new();
        let Content::Whole { unit, sum } = digits.fill::<BITS>(gradient) else { panic!("the tile is finite") };
        let largest = gradient.iter().fold(0f32, |largest, g| largest.max(g.abs()));
        for (g, whole) in gradient.iter().zip(&digits.whole) {
            let error = (f64::from(*g) - unit * f64::from(*whole)).abs();
            assert!(error <= f64::from(largest) * 2f64.powi(-15), "{g}: {error}");
        }
        assert_eq!(sum, digits.whole.iter().map(|whole| f64::from(*whole)).sum::<f64>());
        // A group whose only code is 1, at one element after the other, picks that element's digits.
        let bytes = 32 * BITS;
        for element in 0..GROUP {
            let mut packed = vec![0; bytes];
            packing::pack::<BITS>(|other| u32::from(other == element), &mut packed);
            let run = 4 * packing::run_words(BITS);
            let mut value = 0;
            for (place, byte) in packed.iter().enumerate().filter(|(_, byte)| **byte != 0) {
                let vector = place / run * (8 / BITS) + byte.trailing_zeros() as usize / BITS;
                for digit in 0..DIGITS {
                    let word = digits.planes[(vector * DIGITS + digit) * run / 4 + place % run / 4];
                    value += i64::from(word.to_le_bytes()[place % 4] as i8) << (8 * digit);
                }
            }
            assert_eq!(value, i64::from(digits.whole[element]), "{BITS} bits, element {element}");
        }
    }

    #[test]
    fn digits_stand_for_the_gradient_in_the_order_of_the_codes() {
        for scale in [1e-30, 1e-12, 1.0, 3e38] {
            let gradient = std::array::from_fn(|e| ((e * 37 % 101) as f32 / 101.0 - 0.5) * scale * (e % 3) as f32);
            check::<1>(&gradient);
            check::<2>(&gradient);
            check::<4>(&gradient);
            check::<8>(&gradient);
        }
    }

    #[test]
    fn zeros_and_numbers_that_are_not_finite_are_told_apart() {
        let mut gradient = [0.0; GROUP];
        assert_eq!(Digits::new().fill::<4>(&gradient), Content::Nothing);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            gradient[200] = bad;
            assert_eq!(Digits::new().fill::<4>(&gradient), Content::NotFinite);
        }
    }
}
