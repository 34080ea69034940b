//! The 8-bit floats of the Open Compute Project (OFP8, revision 1.0, 2023): exact decoding, correctly rounded encoding.

/// A layout of one sign bit, exponent and mantissa.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    mantissa_bits: u32,
    /// Exponent of the smallest normal number.
    least_exponent: i32,
    /// Code of the largest finite number.
    largest: u8,
    /// Code of the infinity, where there is one.
    infinity: Option<u8>,
}

/// 4 exponent and 3 mantissa bits; no infinity, one NaN of either sign, finite up to 448.
pub(super) const E4M3: Format = Format { mantissa_bits: 3, least_exponent: -6, largest: 0x7e, infinity: None };
/// 5 exponent and 2 mantissa bits, as IEEE numbers have them, finite up to 57344.
pub(super) const E5M2: Format = Format { mantissa_bits: 2, least_exponent: -14, largest: 0x7b, infinity: Some(0x7c) };

/// NaN in both formats.
const NAN: u8 = 0x7f;
const SIGN: u8 = 0x80;

impl Format {
    /// What each code stands for, exactly.
    pub(super) fn table(self) -> [f64; 256] {
        std::array::from_fn(|code| self.decode(code as u8))
    }

    fn decode(self, code: u8) -> f64 {
        let magnitude = code & !SIGN;
        let (exponent, mantissa) = (magnitude >> self.mantissa_bits, magnitude & ((1 << self.mantissa_bits) - 1));
        let step = |exponent: i32| power_of_two(exponent - self.mantissa_bits as i32);
        let value = match magnitude {
            _ if Some(magnitude) == self.infinity => f64::INFINITY,
            _ if magnitude > self.largest => f64::NAN,
            _ if exponent == 0 => f64::from(mantissa) * step(self.least_exponent),
            _ => f64::from(mantissa + (1 << self.mantissa_bits)) * step(self.least_exponent + i32::from(exponent) - 1),
        };
        if code & SIGN == 0 { value } else { -value }
    }

    /// Rounds to the nearest code, ties to the even one.
    ///
    /// A finite value beyond the largest finite number becomes that number, as is usual for weights: the alternative would put a
    /// NaN (E4M3) or an infinity into a model. Infinity stays what it is where the format has one and else becomes NaN.
    pub(super) fn encode(self, value: f64) -> u8 {
        let sign = if value.is_sign_negative() { SIGN } else { 0 };
        let magnitude = if value.is_nan() {
            NAN
        } else if value.is_infinite() {
            self.infinity.unwrap_or(NAN)
        } else {
            self.encode_finite(value.abs())
        };
        sign | magnitude
    }

    fn encode_finite(self, value: f64) -> u8 {
        // The exponent field of an f64; numbers that are subnormal there are far below the least step here.
        let exponent = ((value.to_bits() >> 52) as i32 - 1023).max(self.least_exponent);
        let largest_exponent = self.least_exponent + i32::from(self.largest >> self.mantissa_bits) - 1;
        if exponent > largest_exponent {
            return self.largest;
        }
        let digits = self.mantissa_bits as i32;
        // A power of two scales exactly, so that this is the one rounding.
        let steps = (value * power_of_two(digits - exponent)).round_ties_even() as u16;
        // Codes of neighbouring numbers are neighbours, across exponents too: a carry out of the mantissa needs no care, and
        // a subnormal (exponent field 0) lies one mantissa range below the least normal.
        let code = (((exponent - self.least_exponent) as u16) << self.mantissa_bits) + steps;
        code.min(u16::from(self.largest)) as u8
    }
}

/// `2^exponent`, for exponents of normal numbers.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORMATS: [Format; 2] = [E4M3, E5M2];

    #[test]
    fn every_code_survives_a_round_trip_and_every_nan_stays_one() {
        for format in FORMATS {
            for code in 0..=u8::MAX {
                let value = format.decode(code);
                let back = format.encode(value);
                assert!(back == code || value.is_nan() && format.decode(back).is_nan(), "{format:?} {code:#x}");
            }
        }
    }

    #[test]
    fn codes_stand_for_what_the_standard_says() {
        let cases = [(0x7e, 448.0), (0x08, 2f64.powi(-6)), (0x07, 0.875 * 2f64.powi(-6)), (0x01, 2f64.powi(-9))];
        for (code, value) in cases {
            assert_eq!(E4M3.decode(code), value);
            assert_eq!(E4M3.decode(code | SIGN), -value);
        }
        let cases = [(0x7b, 57344.0), (0x04, 2f64.powi(-14)), (0x03, 0.75 * 2f64.powi(-14)), (0x01, 2f64.powi(-16))];
        for (code, value) in cases {
            assert_eq!(E5M2.decode(code), value);
        }
        assert!(E4M3.decode(0x7f).is_nan() && E5M2.decode(0x7d).is_nan() && E5M2.decode(0x7c) == f64::INFINITY);
    }

    #[test]
    fn values_too_large_saturate_and_nan_stays_nan() {
        for (format, largest) in [(E4M3, 448.0), (E5M2, 57344.0)] {
            for value in [largest * 1.01, largest * 1.9, 1e300] {
                assert_eq!(format.decode(format.encode(value)), largest);
                assert_eq!(format.decode(format.encode(-value)), -largest);
            }
            assert!(format.decode(format.encode(f64::NAN)).is_nan());
        }
        assert!(E4M3.decode(E4M3.encode(f64::INFINITY)).is_nan());
        assert_eq!(E5M2.decode(E5M2.encode(f64::NEG_INFINITY)), f64::NEG_INFINITY);
    }

    /// By search among all codes; of two equally near ones the even.
    fn nearest(format: Format, value: f64) -> u8 {
        let fits = |code: u8| code & !SIGN <= format.largest && (code & SIGN != 0) == value.is_sign_negative();
        let codes = (0..=u8::MAX).filter(|code| fits(*code));
        let distance = |code: u8| (format.decode(code) - value).abs();
        codes.min_by(|a, b| distance(*a).total_cmp(&distance(*b)).then((a & 1).cmp(&(b & 1)))).unwrap()
    }

    proptest! {
        #[test]
        fn a_value_becomes_the_nearest_code(mantissa in -1.0..1.0f64, exponent in -20..18i32) {
            for format in FORMATS {
                let value = mantissa * 2f64.powi(exponent);
                prop_assert_eq!(format.encode(value), nearest(format, value));
            }
        }

        #[test]
        fn the_middle_of_two_codes_becomes_the_even_one(code in 0u8..0x7b, sign in 0u8..2) {
            for format in FORMATS {
                let (a, b) = (format.decode(code), format.decode(code + 1));
                let middle = f64::midpoint(a, b) * if sign == 1 { -1.0 } else { 1.0 };
                prop_assert_eq!(format.encode(middle) & !SIGN, code + code % 2);
                // The least step off the middle decides.
                let above = f64::from_bits(middle.to_bits() + 1);
                prop_assert_eq!(format.encode(above) & !SIGN, code + 1);
            }
        }
    }
}
