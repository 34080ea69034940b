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
    /// The same warm-up, then down in a line: `(T − t) / (T − W)`.
    Linear {
        /// Part of the steps that warm up, in `[0, 1]`.
        warm_up: f64,
    },
    /// The peak rate for half of the steps, a tenth of it up to three quarters, a hundredth after.
    Step,
    /// The peak rate throughout.
    Constant,
}

impl Schedule {
    /// Factor of step `step`, counted from 0, of `steps`.
    pub fn factor(self, step: u64, steps: u64) -> f64 {
        match self {
            Self::Cosine { warm_up } => after_warm_up(warm_up, step, steps, |part| 0.5 * (1.0 + (PI * part).cos())),
            Self::Linear { warm_up } => after_warm_up(warm_up, step, steps, |part| 1.0 - part),
            Self::Step => match 4 * step / steps.max(1) {
                0 | 1 => 1.0,
                2 => 0.1,
                _ => 0.01,
            },
            Self::Constant => 1.0,
        }
    }

    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Cosine { warm_up } | Self::Linear { warm_up } if !(0.0..=1.0).contains(&warm_up) => {
                Err(Error::input(format!("warm_up: {warm_up} is not between 0 and 1")))
            }
            _ => Ok(()),
        }
    }
}

/// Linear rise over the first part of the steps, then `fall` of the part of the others that is over.
fn after_warm_up(warm_up: f64, step: u64, steps: u64, fall: impl Fn(f64) -> f64) -> f64 {
    let warm = (warm_up * steps as f64).round() as u64;
    if step < warm {
        return (step + 1) as f64 / warm as f64;
    }
    let rest = steps.saturating_sub(warm).max(1);
    fall((step - warm) as f64 / rest as f64)
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
    fn the_other_schedules_fall_in_a_line_and_in_steps() {
        let rates = |schedule: Schedule| -> Vec<f64> { (0..8).map(|t| schedule.factor(t, 8)).collect() };
        assert_eq!(rates(Schedule::Linear { warm_up: 0.5 }), [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(Schedule::Step), [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]);
    }

    #[test]
    fn a_warm_up_of_nothing_or_everything_is_fine() {
        let cosine = |warm_up, step, steps| Schedule::Cosine { warm_up }.factor(step, steps);
        let factors = [cosine(0.0, 0, 5), cosine(1.0, 4, 5), cosine(0.2, 0, 1), Schedule::Constant.factor(4, 5)];
        assert!(factors.iter().all(|factor| (factor - 1.0).abs() < 1e-15), "{factors:?}");
    }
}
