//! Orders of samples.

use super::Draws;
use crate::{Error, Result};

const SHUFFLE: u64 = 0x5f1e;
const SPLIT: u64 = 0x5817;

/// The indices, or samples, in an order that depends on seed and epoch (Fisher and Yates).
pub fn shuffled<T: Copy>(indices: &[T], seed: u64, epoch: u64) -> Vec<T> {
    permuted(indices.to_vec(), &mut Draws::keyed(&[seed, SHUFFLE, epoch]))
}

fn permuted<T>(mut indices: Vec<T>, draws: &mut Draws) -> Vec<T> {
    for last in (1..indices.len()).rev() {
        indices.swap(last, draws.below(last + 1));
    }
    indices
}

/// Cuts `count` samples in two at random: the fit part, and a select part that holds `select_fraction` of them, rounded,
/// but at least one. Both are in ascending order.
///
/// Errors where the fraction is not between 0 and 1, or where a part would be empty.
pub fn split(count: usize, select_fraction: f64, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    if !(select_fraction > 0.0 && select_fraction < 1.0) {
        return Err(Error::input(format!("select fraction is {select_fraction}, it must lie between 0 and 1")));
    }
    let selected = ((count as f64 * select_fraction).round() as usize).max(1);
    if selected >= count {
        return Err(Error::input(format!("{count} samples cannot be split into a fit and a select part")));
    }
    let mut fit = permuted((0..count).collect(), &mut Draws::keyed(&[seed, SPLIT]));
    let mut select = fit.split_off(count - selected);
    fit.sort_unstable();
    select.sort_unstable();
    Ok((fit, select))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_depends_on_seed_and_epoch_and_loses_no_sample() {
        let indices: Vec<usize> = (0..100).collect();
        let order = shuffled(&indices, 1, 0);
        assert_eq!(order, shuffled(&indices, 1, 0));
        assert_ne!(order, shuffled(&indices, 1, 1));
        assert_ne!(order, shuffled(&indices, 2, 0));
        let mut sorted = order;
        sorted.sort_unstable();
        assert_eq!(sorted, indices);
    }

    #[test]
    fn a_split_holds_every_sample_once() {
        let (fit, select) = split(50, 0.2, 3).unwrap();
        assert_eq!((fit.len(), select.len()), (40, 10));
        let mut all = [fit, select].concat();
        all.sort_unstable();
        assert_eq!(all, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn a_split_that_leaves_a_part_empty_is_refused() {
        assert!(split(1, 0.5, 0).is_err());
        assert!(split(10, 0.0, 0).is_err());
        assert!(split(10, 0.99, 0).is_err());
        assert!(split(10, f64::NAN, 0).is_err());
    }
}
