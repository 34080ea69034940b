//! Learning rate over the steps of a fit.

use std::f64::consts::PI;

use crate::{Error, Result};

/// How the learning rate goes, as a factor of its peak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// Of `T` steps the first `W = round(warm_up · T)` rise linearly, step `t` (from 0) at `(t + 1) / W`; the others fall as
    /// `½ (1 + cos(π (t − W) / (T − W)))`, from 1 towards the 0 that step `T` would have.
    Cosine {
        /// Part of the steps that warm up, in `[0, 1]`.
        warm_up: f64,
    },
    /// The peak rate throughout.
    Constant,
}

impl Schedule {
    /// Factor of step `step`, counted from 0, of `steps`.
    pub fn factor(self, step: u64, steps: u64) -> f64 {
        let Self::Cosine { warm_up } = self else {
            return 1.0;
        };
        let warm = (warm_up * steps as f64).round() as u64;
        if step < warm {
            return (step + 1) as f64 / warm as f64;
        }
        let rest = steps.saturating_sub(warm).max(1);
        0.5 * (1.0 + (PI * (step - warm) as f64 / rest as f64).cos())
    }

    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Cosine { warm_up } if !(0.0..=1.0).contains(&warm_up) => {
                Err(Error::input(format!("warm_up: {warm_up} is not between 0 and 1")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_linearly_and_falls_as_a_cosine() {
        let rates: Vec<f64> = (0..10).map(|t| Schedule::Cosine { warm_up: 0.2 }.factor(t, 10)).collect();
        let cosine = |t: f64| 0.5 * (1.0 + (PI * t / 8.0).cos());
        assert_eq!(rates[..3], [0.5, 1.0, 1.0]);
        for (t, rate) in rates[2..].iter().enumerate() {
            assert!((rate - cosine(t as f64)).abs() < 1e-15, "step {}", t + 2);
        }
        assert!(rates[9] < 0.04, "{}", rates[9]);
    }

    #[test]
    fn a_warm_up_of_nothing_or_everything_is_fine() {
        let cosine = |warm_up, step, steps| Schedule::Cosine { warm_up }.factor(step, steps);
        let factors = [cosine(0.0, 0, 5), cosine(1.0, 4, 5), cosine(0.2, 0, 1), Schedule::Constant.factor(4, 5)];
        assert!(factors.iter().all(|factor| (factor - 1.0).abs() < 1e-15), "{factors:?}");
    }
}
