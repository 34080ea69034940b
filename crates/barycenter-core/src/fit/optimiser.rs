//! Optimisers on `θ`, in f64, with the update rules of PyTorch.

use super::FitState;
use crate::{Error, Result};

/// Optimiser on `θ`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimiser {
    /// `AdamW` (Loshchilov and Hutter 2019) with bias correction; the decay is applied to `θ` directly.
    AdamW {
        /// Decay of the two moments.
        betas: [f64; 2],
        /// Added to the root of the corrected second moment.
        epsilon: f64,
        /// Decoupled weight decay.
        weight_decay: f64,
    },
    /// Stochastic gradient descent with momentum, without dampening.
    Sgd {
        /// Momentum.
        momentum: f64,
        /// Weight decay added to the gradient.
        weight_decay: f64,
    },
}

impl Default for Optimiser {
    fn default() -> Self {
        Self::AdamW { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.0 }
    }
}

impl Optimiser {
    /// Numbers of the second moment that this optimiser keeps for so many numbers of `θ`.
    pub(super) fn second_moments(self, len: usize) -> usize {
        match self {
            Self::AdamW { .. } => len,
            Self::Sgd { .. } => 0,
        }
    }

    pub(super) fn check(self) -> Result<()> {
        let part = |name: &str, value: f64| {
            let ok = (0.0..1.0).contains(&value);
            ok.then_some(()).ok_or_else(|| Error::input(format!("{name}: {value} is not in [0, 1)")))
        };
        let not_negative = |name: &str, value: f64| {
            let ok = value.is_finite() && value >= 0.0;
            ok.then_some(()).ok_or_else(|| Error::input(format!("{name}: {value} is not a number of at least 0")))
        };
        match self {
            Self::AdamW { betas, epsilon, weight_decay } => {
                part("betas[0]", betas[0])?;
                part("betas[1]", betas[1])?;
                if epsilon == 0.0 {
                    // A null deviation has no gradient: its update would be 0 / 0.
                    return Err(Error::input("epsilon: 0 is not a positive number"));
                }
                not_negative("epsilon", epsilon)?;
                not_negative("weight_decay", weight_decay)
            }
            Self::Sgd { momentum, weight_decay } => {
                part("momentum", momentum)?;
                not_negative("weight_decay", weight_decay)
            }
        }
    }

    /// Updates `θ` and the moments; `state.step` counts the updates before this one, `rates` is one a number of `θ`.
    pub(super) fn update(self, state: &mut FitState, gradient: &[f64], rates: &[f64]) {
        match self {
            Self::AdamW { betas, epsilon, weight_decay } => {
                let count = i32::try_from(state.step + 1).unwrap_or(i32::MAX);
                let [correction1, correction2] = betas.map(|beta| 1.0 - beta.powi(count));
                let moments = state.first_moment.iter_mut().zip(&mut state.second_moment);
                for (((x, (m, v)), g), rate) in state.theta.iter_mut().zip(moments).zip(gradient).zip(rates) {
                    *x *= 1.0 - rate * weight_decay;
                    *m = betas[0] * *m + (1.0 - betas[0]) * g;
                    *v = betas[1] * *v + (1.0 - betas[1]) * g * g;
                    *x -= rate / correction1 * *m / ((*v / correction2).sqrt() + epsilon);
                }
            }
            Self::Sgd { momentum, weight_decay } => {
                for (((x, m), g), rate) in state.theta.iter_mut().zip(&mut state.first_moment).zip(gradient).zip(rates)
                {
                    *m = momentum * *m + (g + weight_decay * *x);
                    *x -= rate * *m;
                }
            }
        }
    }
}
