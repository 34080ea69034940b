//! History: the snapshots of a fit and where their vectors lie.

/// The numbers of one snapshot, without its coefficients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalars {
    /// Steps taken; 0 is the start.
    pub step: u64,
    /// Passes over the fit data, as a fraction.
    pub epoch: f64,
    /// Learning rate of the step that led here.
    pub learning_rate: f64,
    /// Loss of that step's batch; absent at step 0.
    pub fit_loss: Option<f64>,
    /// Loss on the select part, where it was evaluated.
    pub select_loss: Option<f64>,
}

/// Cuts coefficients into rows: one a candidate, one number a block. `values` is n x L, candidate by candidate.
pub fn rows_of(values: &[f64], block_count: usize) -> Vec<Vec<f64>> {
    values.chunks(block_count.max(1)).map(<[f64]>::to_vec).collect()
}

/// The first block whose coefficients are not finite or do not sum to 1 within `tolerance`, with what is wrong.
pub fn first_bad_block(values: &[f64], block_count: usize, tolerance: f64) -> Option<(usize, String)> {
    (0..block_count).find_map(|block| {
        let column = values.iter().skip(block).step_by(block_count);
        let sum: f64 = column.sum();
        if !sum.is_finite() {
            Some((block, "has a coefficient that is not finite".to_owned()))
        } else if (sum - 1.0).abs() > tolerance {
            Some((block, format!("has coefficients that sum to {sum}, not to 1")))
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_candidates() {
        assert_eq!(rows_of(&[0.25, 0.5, 0.75, 0.5], 2), [[0.25, 0.5], [0.75, 0.5]]);
    }

    #[test]
    fn the_first_block_at_fault_is_found() {
        assert_eq!(first_bad_block(&[0.25, 0.5, 0.75, 0.5], 2, 1e-6), None);
        let (block, what) = first_bad_block(&[0.25, 0.5, 0.75, 0.6], 2, 1e-6).expect("1.1 is not 1");
        assert_eq!(block, 1);
        assert!(what.contains("1.1"), "{what}");
        for bad in [f64::NAN, f64::INFINITY] {
            assert_eq!(first_bad_block(&[bad, 0.0], 1, 1e-6).map(|(block, _)| block), Some(0));
        }
        // Two infinities that would cancel are still refused.
        assert!(first_bad_block(&[f64::INFINITY, f64::NEG_INFINITY], 1, 1e-6).is_some());
    }
}
