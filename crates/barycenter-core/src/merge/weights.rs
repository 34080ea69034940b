//! Weights of the baselines: averages that need no fit. One weight a candidate, summing to 1.

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
    fn baselines_are_weights_that_sum_to_one() {
        assert_eq!(uniform(4), [0.25; 4]);
        assert_eq!(last(3), [0.0, 0.0, 1.0]);
        assert_eq!(single(3, 0), [1.0, 0.0, 0.0]);
        assert_eq!(in_every_block(&[0.25, 0.75], 2), [0.25, 0.25, 0.75, 0.75]);
    }
}
