//! Gaussian error linear units (Hendrycks and Gimpel 2016, arXiv 1606.08415), in the three forms that networks use.

use super::functions::{logistic, normal};
use super::simd::{Arithmetic, kernel};

/// A function applied to each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · Φ(x)`, with the normal distribution itself (`nn.GELU()`); absolute error below 4e-7 · max(1, |x|).
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))` (`gelu_new`, `nn.GELU(approximate="tanh")`); error as above.
    GeluTanh,
    /// `x · σ(1.702 x)` (CLIP's `QuickGELU`); error as above.
    QuickGelu,
}

impl Activation {
    /// Writes the function's value at each input.
    pub(super) fn apply(self, inputs: &[f32], values: &mut [f32]) {
        match self {
            Self::Gelu => apply_gelu(inputs, values),
            Self::GeluTanh => apply_gelu_tanh(inputs, values),
            Self::QuickGelu => apply_quick_gelu(inputs, values),
        }
    }

    /// Writes the function's value at each input, and multiplies the gradient by its derivative there.
    pub(super) fn apply_and_derive(self, inputs: &[f32], values: &mut [f32], gradient: &mut [f32]) {
        match self {
            Self::Gelu => derive_gelu(inputs, values, gradient),
            Self::GeluTanh => derive_gelu_tanh(inputs, values, gradient),
            Self::QuickGelu => derive_quick_gelu(inputs, values, gradient),
        }
    }
}

/// `x Φ(x)` and its derivative `Φ(x) + x φ(x)`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be compiled with its caller's instruction set")]
fn gelu<A: Arithmetic>(x: f32) -> (f32, f32) {
    let (below, density) = normal::<A>(x);
    (x * below, A::multiply_add(x, density, below))
}

/// `x σ(z)` and its derivative `σ(z) + x z' σ(z) (1 - σ(z))`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be compiled with its caller's instruction set")]
fn gated<A: Arithmetic>(x: f32, z: f32, slope: f32) -> (f32, f32) {
    let gate = logistic::<A>(z);
    let value = x * gate;
    (value, A::multiply_add(value * slope, 1.0 - gate, gate))
}

/// The tanh form: `(1 + tanh(u)) / 2` is `σ(2u)`.
#[inline(always)]
fn gelu_tanh<A: Arithmetic>(x: f32) -> (f32, f32) {
    /// `2 √(2/π)`.
    const SLOPE: f32 = 2.0 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    const CUBIC: f32 = 0.044_715;
    let square = x * x;
    let z = SLOPE * x * A::multiply_add(square, CUBIC, 1.0);
    gated::<A>(x, z, SLOPE * A::multiply_add(square, 3.0 * CUBIC, 1.0))
}

#[inline(always)]
fn quick_gelu<A: Arithmetic>(x: f32) -> (f32, f32) {
    const SLOPE: f32 = 1.702;
    gated::<A>(x, SLOPE * x, SLOPE)
}

/// The two loops of one function.
macro_rules! activation {
    ($function:ident, $apply:ident, $derive:ident) => {
        kernel! {
            fn $apply<A>(inputs: &[f32], values: &mut [f32]) {
                for (value, x) in values.iter_mut().zip(inputs) {
                    *value = $function::<A>(*x).0;
                }
            }
        }

        kernel! {
            fn $derive<A>(inputs: &[f32], values: &mut [f32], gradient: &mut [f32]) {
                for ((value, gradient), x) in values.iter_mut().zip(gradient).zip(inputs) {
                    let (at_x, derivative) = $function::<A>(*x);
                    *value = at_x;
                    *gradient *= derivative;
                }
            }
        }
    };
}

activation!(gelu, apply_gelu, derive_gelu);
activation!(gelu_tanh, apply_gelu_tanh, derive_gelu_tanh);
activation!(quick_gelu, apply_quick_gelu, derive_quick_gelu);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::simd::Separate;

    const ALL: [Activation; 3] = [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu];

    fn inputs() -> Vec<f32> {
        (-4000..4000).map(|i| i as f32 * 0.0031).collect()
    }

    fn values(activation: Activation) -> Vec<f32> {
        let mut values = vec![0.0; inputs().len()];
        activation.apply(&inputs(), &mut values);
        values
    }

    #[test]
    fn published_values_are_met() {
        // `torch.nn.functional.gelu` (both forms) and `x * sigmoid(1.702 x)` in float64.
        for (activation, expected) in ALL.into_iter().zip([
            [-0.045_500_263_896_358_44, 0.841_344_746_068_542_8, -0.154_268_769_362_993_44],
            [-0.045_402_305_912_224_94, 0.841_191_990_608_276_8, -0.154_285_990_174_856_06],
            [-0.064_341_376_855_791_86, 0.845_795_765_932_821_2, -0.149_611_563_393_619_9],
        ]) {
            let mut got = [0.0; 3];
            activation.apply(&[-2.0, 1.0, -0.5], &mut got);
            for (got, expected) in got.into_iter().zip(expected) {
                assert!((f64::from(got) - expected).abs() < 4e-7, "{activation:?}: {got} {expected}");
            }
        }
    }

    #[test]
    fn derivatives_agree_with_central_differences_in_f64() {
        let exact = |activation, x: f64| match activation {
            Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Activation::GeluTanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + u.tanh())
            }
            Activation::Gelu => {
                // ∫ of the density by Simpson's rule from 0.
                let density = |t: f64| (-0.5 * t * t).exp() / std::f64::consts::TAU.sqrt();
                let step = x / 2000.0;
                let inner: f64 = (1..2000).map(|i| density(f64::from(i) * step) * f64::from(2 + 2 * (i % 2))).sum();
                x * (0.5 + (density(0.0) + inner + density(x)) * step / 3.0)
            }
        };
        for activation in ALL {
            let points: Vec<f32> = (-60..60).map(|i| i as f32 * 0.13 + 0.01).collect();
            let (mut values, mut gradient) = (vec![0.0; points.len()], vec![1.0; points.len()]);
            activation.apply_and_derive(&points, &mut values, &mut gradient);
            for ((x, value), slope) in points.iter().zip(&values).zip(&gradient) {
                let x = f64::from(*x);
                let value_error = (f64::from(*value) - exact(activation, x)).abs();
                let difference = (exact(activation, x + 1e-4) - exact(activation, x - 1e-4)) / 2e-4;
                assert!(value_error < 4e-7 * x.abs().max(1.0), "{activation:?}({x}): {value_error:e}");
                assert!((f64::from(*slope) - difference).abs() < 3e-6, "{activation:?}'({x}): {slope} {difference}");
            }
        }
    }

    #[test]
    fn every_instruction_set_computes_the_same_function() {
        let plain = [gelu::<Separate>, gelu_tanh::<Separate>, quick_gelu::<Separate>];
        for (activation, plain) in ALL.into_iter().zip(plain) {
            for (value, x) in values(activation).into_iter().zip(inputs()) {
                assert!((value - plain(x).0).abs() < 5e-7 * x.abs().max(1.0), "{activation:?}({x})");
            }
        }
    }
}
