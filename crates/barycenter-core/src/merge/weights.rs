//! Averages that need no fit: one weight a candidate, summing to 1.

use crate::{Error, Result};

/// Every candidate alike.
pub fn uniform(n: usize) -> Vec<f64> {
    over(n, &(0..n).collect::<Vec<_>>())
}

/// One candidate alone.
pub fn single(n: usize, candidate: usize) -> Vec<f64> {
    over(n, &[candidate])
}

/// The last candidate alone.
pub fn last(n: usize) -> Vec<f64> {
    over(n, &[n - 1])
}

/// These candidates alike, the others not at all.
pub fn over(n: usize, members: &[usize]) -> Vec<f64> {
    let mut weights = vec![0.0; n];
    for member in members {
        weights[*member] = 1.0 / members.len() as f64;
    }
    weights
}

/// These weights, divided by their sum.
///
/// # Errors
/// [`Error::Input`] where there is not one a candidate, one is not finite, or they sum to 0.
pub fn normalised(weights: &[f64], n: usize) -> Result<Vec<f64>> {
    if weights.len() != n {
        return Err(Error::input(format!("weights: {} of them do not fit {n} candidates", weights.len())));
    }
    if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
        return Err(Error::input(format!("weights: {weight} is not a number")));
    }
    let sum: f64 = weights.iter().sum();
    if sum.abs() < f64::EPSILON {
        return Err(Error::input("weights: they sum to 0"));
    }
    Ok(weights.iter().map(|weight| weight / sum).collect())
}

/// Exponential moving average over the candidates in order, which starts at the first: `decay^(n−1)` for it,
/// `(1 − decay) · decay^(n−1−i)` for the others.
///
/// # Errors
/// [`Error::Input`] where the decay is not in `[0, 1)`.
pub fn ema(n: usize, decay: f64) -> Result<Vec<f64>> {
    if !(0.0..1.0).contains(&decay) {
        return Err(Error::input(format!("decay: {decay} is not in [0, 1)")));
    }
    let mut weights = vec![1.0];
    for _ in 1..n {
        for weight in &mut weights {
            *weight *= decay;
        }
        weights.push(1.0 - decay);
    }
    Ok(weights)
}

/// How a learning rate would have decayed, from 1 at the first candidate to 0 after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// `1 − x`.
    Linear,
    /// `½ (1 + cos πx)`.
    Cosine,
    /// `1 − √x`.
    OneMinusSqrt,
}

/// The weights that stand for a decay of the learning rate over the candidates (WSM, arXiv 2507.17634): with the curve at
/// `x = i/n`, each candidate has the fall of the curve up to the next.
pub fn schedule(n: usize, curve: Curve) -> Vec<f64> {
    let at = |i: usize| {
        let x = i as f64 / n as f64;
        match curve {
            Curve::Linear => 1.0 - x,
            Curve::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * x).cos()),
            Curve::OneMinusSqrt => 1.0 - x.sqrt(),
        }
    };
    (0..n).map(|i| at(i) - at(i + 1)).collect()
}

/// The same weights in every block, (n, L).
pub fn in_every_block(weights: &[f64], block_count: usize) -> Vec<f64> {
    weights.iter().flat_map(|weight| std::iter::repeat_n(*weight, block_count)).collect()
}

/// A greedy soup (Wortsman et al. 2022): its members, in the order they were taken, and its loss.
///
/// `losses` are those of the single candidates; `loss_of` evaluates an average. The best candidate starts the soup; each
/// other, from better to worse, stays in it where the soup's loss does not rise. Ties go to the earlier candidate.
///
/// # Errors
/// [`Error::Input`] where there is no candidate or a loss is not a number; what `loss_of` returns.
pub fn greedy(losses: &[f64], loss_of: &mut dyn FnMut(&[f64]) -> Result<f64>) -> Result<(Vec<usize>, f64)> {
    if losses.iter().any(|loss| loss.is_nan()) {
        return Err(Error::input("the loss of a candidate is not a number"));
    }
    let mut order: Vec<usize> = (0..losses.len()).collect();
    order.sort_by(|a, b| losses[*a].total_cmp(&losses[*b]));
    let (first, others) = order.split_first().ok_or_else(|| Error::input("there is no candidate"))?;
    let (mut members, mut best) = (vec![*first], losses[*first]);
    for candidate in others {
        members.push(*candidate);
        let loss = loss_of(&over(losses.len(), &members))?;
        if loss <= best {
            best = loss;
        } else {
            members.pop();
        }
    }
    Ok((members, best))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greedy_soup_keeps_only_what_does_not_hurt() {
        // One weight per candidate, on the line; the loss is the distance from 0.
        let places = [1.0f64, -1.2, 8.0];
        let losses = places.map(f64::abs);
        let mut loss_of = |weights: &[f64]| Ok(weights.iter().zip(places).map(|(a, w)| a * w).sum::<f64>().abs());
        let (members, loss) = greedy(&losses, &mut loss_of).unwrap();
        assert_eq!(members, [0, 1]);
        assert!((loss - 0.1).abs() < 1e-12);
    }

    #[test]
    fn an_ema_keeps_its_decay_of_what_it_holds() {
        assert_eq!(ema(3, 0.5).unwrap(), [0.25, 0.25, 0.5]);
        assert_eq!(ema(2, 0.0).unwrap(), [0.0, 1.0]);
        assert!(ema(2, 1.0).unwrap_err().to_string().contains("decay"));
    }

    #[test]
    fn every_rule_sums_to_one_and_a_linear_decay_is_uniform() {
        for curve in [Curve::Linear, Curve::Cosine, Curve::OneMinusSqrt] {
            assert!((schedule(7, curve).iter().sum::<f64>() - 1.0).abs() < 1e-12, "{curve:?}");
        }
        assert!(schedule(4, Curve::Linear).iter().all(|weight| (weight - 0.25).abs() < 1e-12));
        let cosine = schedule(6, Curve::Cosine);
        assert!(cosine[2] > cosine[0] && cosine[3] > cosine[5], "most falls in the middle: {cosine:?}");
        assert!(schedule(6, Curve::OneMinusSqrt)[0] > 0.4, "most falls at the start");
    }

    #[test]
    fn given_weights_are_divided_by_their_sum_or_refused_by_what_is_wrong() {
        assert_eq!(normalised(&[1.0, 3.0], 2).unwrap(), [0.25, 0.75]);
        for (weights, word) in [(vec![1.0], "1 of them"), (vec![1.0, f64::NAN], "NaN"), (vec![1.0, -1.0], "sum to 0")] {
            assert!(normalised(&weights, 2).unwrap_err().to_string().contains(word), "{weights:?}");
        }
    }

    #[test]
    fn baselines_are_weights_that_sum_to_one() {
        assert_eq!(uniform(4), [0.25; 4]);
        assert_eq!(last(3), [0.0, 0.0, 1.0]);
        assert_eq!(single(3, 0), [1.0, 0.0, 0.0]);
        assert_eq!(in_every_block(&[0.25, 0.75], 2), [0.25, 0.25, 0.75, 0.75]);
    }
}
