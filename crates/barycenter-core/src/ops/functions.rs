//! Exponential, logistic function and normal distribution, without branches, so that a loop over a slice becomes vector code.
//!
//! Error bounds are against `f64` and hold with and without a fused multiply-add; the tests go through all exponents.
//! A NaN gives a NaN.

use super::simd::Arithmetic;

/// Below this the exponential stays at `e^-87`, the last whole number whose exponential is a normal `f32`.
const LOWEST: f32 = -87.0;
/// Above this the exponential stays at `e^88`.
const HIGHEST: f32 = 88.0;
/// Adding it to a number below 2²² leaves the nearest whole number in the lowest bits.
const ROUNDER: f32 = 12_582_912.0;
/// ln 2 as a short number, whose product with a whole number below 2⁹ is exact, and the rest.
const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);

/// `e^x` for x in [-87, 88], and the value at the nearer end outside; relative error below 1.5e-7.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` by its Taylor polynomial of degree 7, whose remainder is 6e-9.
#[inline(always)]
pub(super) fn exp<A: Arithmetic>(x: f32) -> f32 {
    const INVERSE_FACTORIALS: [f32; 6] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];
    let x = if x < LOWEST { LOWEST } else { x };
    let x = if x > HIGHEST { HIGHEST } else { x };
    let shifted = A::multiply_add(x, std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = A::multiply_add(n, -LN_2.1, A::multiply_add(n, -LN_2.0, x));
    let mut series = 1.0 / 5040.0;
    for coefficient in INVERSE_FACTORIALS {
        series = A::multiply_add(series, r, coefficient);
    }
    // The lowest bits of `shifted` are n in two's complement: pushed up to the exponent they are 2^n without its bias.
    let power_of_two = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    A::multiply_add(series, r, 1.0) * power_of_two
}

/// `1 / (1 + e^-x)`; absolute error below 1.5e-7.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be compiled with its caller's instruction set")]
pub(super) fn logistic<A: Arithmetic>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<A>(-x))
}

/// Distribution function and density of the standard normal distribution; absolute errors below 3.5e-7 and 1e-7.
///
/// Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), formula 7.1.26: erf to 1.5e-7.
#[inline(always)]
pub(super) fn normal<A: Arithmetic>(x: f32) -> (f32, f32) {
    /// `1 / sqrt(2 pi)`.
    const DENSITY_AT_0: f32 = 0.398_942_3;
    let size = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / A::multiply_add(size, 0.327_591_1, 1.0);
    let mut series = 1.061_405_4;
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_72, 0.254_829_6] {
        series = A::multiply_add(series, t, coefficient);
    }
    let bell = exp::<A>(-size * size);
    let tail = 0.5 * t * series * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, DENSITY_AT_0 * bell)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::simd::{Fused, Separate};

    /// Numbers of every exponent and both signs, and the whole numbers and halves near 0.
    fn arguments() -> impl Iterator<Item = f32> {
        let patterns = (0..=u32::MAX).step_by(997).map(f32::from_bits).filter(|x| x.is_finite());
        patterns.chain((-400..400).map(|i| i as f32 * 0.25))
    }

    fn worst(error: impl Fn(f32) -> f64) -> f64 {
        arguments().map(error).fold(0.0, |worst, error| if error > worst { error } else { worst })
    }

    /// `erfc` for positive arguments, by its continued fraction or its series, in `f64`.
    fn erfc(x: f64) -> f64 {
        if x < 2.5 {
            let (mut term, mut sum) = (x, x);
            for n in 1..80 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
        }
        let fraction = (1..120).rev().fold(x, |below, n| x + 0.5 * f64::from(n) / below);
        (-x * x).exp() / fraction * 0.5 * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn the_exponential_is_within_its_bound() {
        let relative = |got: f32, x: f32| (f64::from(got) / f64::from(x.clamp(-87.0, 88.0)).exp() - 1.0).abs();
        let (fused, separate) = (worst(|x| relative(exp::<Fused>(x), x)), worst(|x| relative(exp::<Separate>(x), x)));
        println!("{fused:e} {separate:e}");
        assert!(fused < 1.5e-7 && separate < 1.5e-7);
    }

    #[test]
    fn the_logistic_function_is_within_its_bound() {
        let error = |got: f32, x: f32| (f64::from(got) - 1.0 / (1.0 + (-f64::from(x)).exp())).abs();
        let fused = worst(|x| error(logistic::<Fused>(x), x));
        let separate = worst(|x| error(logistic::<Separate>(x), x));
        println!("{fused:e} {separate:e}");
        assert!(fused < 1.5e-7 && separate < 1.5e-7);
    }

    #[test]
    fn the_normal_distribution_is_within_its_bounds() {
        let errors = |(below, density): (f32, f32), x: f32| {
            let x = f64::from(x);
            let tail = 0.5 * erfc(x.abs() / std::f64::consts::SQRT_2);
            let exact = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
            ((f64::from(below) - if x < 0.0 { tail } else { 1.0 - tail }).abs(), (f64::from(density) - exact).abs())
        };
        let of_below = [worst(|x| errors(normal::<Fused>(x), x).0), worst(|x| errors(normal::<Separate>(x), x).0)];
        let of_density = [worst(|x| errors(normal::<Fused>(x), x).1), worst(|x| errors(normal::<Separate>(x), x).1)];
        println!("{of_below:?} {of_density:?}");
        assert!(of_below.iter().all(|error| *error < 3.5e-7) && of_density.iter().all(|error| *error < 1e-7));
    }

    #[test]
    fn a_nan_stays_a_nan() {
        assert!(exp::<Fused>(f32::NAN).is_nan() && logistic::<Fused>(f32::NAN).is_nan());
        assert!(normal::<Separate>(f32::NAN).0.is_nan());
    }
}
