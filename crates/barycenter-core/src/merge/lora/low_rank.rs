//! Products of thin matrices: their exact sum, and the nearest one of a rank.

use nalgebra::DMatrix;

use super::AdaptedModule;
use crate::{Error, Result, checkpoint::CheckpointFile};

/// A matrix as a product of two thin ones.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// (outputs, r).
    b: DMatrix<f64>,
    /// (r, inputs).
    a: DMatrix<f64>,
}

/// A matrix cut to a rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Truncated {
    /// The nearest matrix of the rank.
    pub nearest: LowRank,
    /// Frobenius norm of what is lost over that of the whole; 0 where nothing is.
    pub relative_error: f64,
}

impl LowRank {
    /// `scale · B A` of one adapter's module.
    ///
    /// # Errors
    /// [`Error::Input`] where the factors are no matrices that can be multiplied.
    pub fn read(file: &CheckpointFile, module: &AdaptedModule, scale: f64) -> Result<Self> {
        let (b, a) = (matrix(file, &module.b)?, matrix(file, &module.a)?);
        if b.ncols() != a.nrows() {
            let (name, of_b, of_a) = (&module.module, b.ncols(), a.nrows());
            return Err(Error::input(format!("adapter of `{name}`: B has rank {of_b}, A has rank {of_a}")));
        }
        Ok(Self { b: b * scale, a })
    }

    /// `Σ_i weight_i · product_i`, exactly.
    ///
    /// # Errors
    /// [`Error::Input`] where there is nothing to sum, or shapes differ.
    pub fn sum(parts: &[(f64, Self)]) -> Result<Self> {
        let [(_, first), ..] = parts else { return Err(Error::input("there is no adapter to sum")) };
        let shape = first.shape();
        if let Some((_, other)) = parts.iter().find(|(_, part)| part.shape() != shape) {
            return Err(Error::input(format!("adapters are for matrices of {shape:?} and of {:?}", other.shape())));
        }
        let rank = parts.iter().map(|(_, part)| part.rank()).sum();
        let (mut b, mut a) = (DMatrix::zeros(shape.0, rank), DMatrix::zeros(rank, shape.1));
        let mut from = 0;
        for (weight, part) in parts {
            b.columns_mut(from, part.rank()).copy_from(&(&part.b * *weight));
            a.rows_mut(from, part.rank()).copy_from(&part.a);
            from += part.rank();
        }
        Ok(Self { b, a })
    }

    /// Outputs and inputs.
    pub fn shape(&self) -> (usize, usize) {
        (self.b.nrows(), self.a.ncols())
    }

    /// Columns of `B`, rows of `A`.
    pub fn rank(&self) -> usize {
        self.b.ncols()
    }

    /// `Aᵀ Bᵀ`.
    #[must_use]
    pub fn transposed(&self) -> Self {
        Self { b: self.a.transpose(), a: self.b.transpose() }
    }

    /// The whole matrix, row by row.
    pub fn delta(&self) -> Vec<f64> {
        row_major(&(&self.b * &self.a))
    }

    /// The factors `B` and `A`, row by row.
    pub fn factors(&self) -> (Vec<f64>, Vec<f64>) {
        (row_major(&self.b), row_major(&self.a))
    }

    /// The nearest matrix of this rank, its singular values shared between both factors; a rank beyond what the matrix can have is
    /// filled up with zeros.
    pub fn truncated(&self, rank: usize) -> Truncated {
        let (of_b, of_a) = (self.b.clone().qr(), self.a.transpose().qr());
        // B A = Q_b (R_b R_aᵀ) Q_aᵀ: the middle is as small as the rank.
        let middle = (of_b.r() * of_a.r().transpose()).svd(true, true);
        let (Some(u), Some(v)) = (middle.u, middle.v_t) else { unreachable!("both were asked for") };
        let mut order: Vec<usize> = (0..middle.singular_values.len()).collect();
        order.sort_by(|i, j| middle.singular_values[*j].total_cmp(&middle.singular_values[*i]));
        let (left, right) = (of_b.q() * u, v * of_a.q().transpose());
        let (outputs, inputs) = self.shape();
        let (mut b, mut a) = (DMatrix::zeros(outputs, rank), DMatrix::zeros(rank, inputs));
        let (mut whole, mut lost) = (0.0, 0.0);
        for (place, k) in order.into_iter().enumerate() {
            let value = middle.singular_values[k];
            whole += value * value;
            if place < rank {
                b.column_mut(place).copy_from(&(left.column(k) * value.sqrt()));
                a.row_mut(place).copy_from(&(right.row(k) * value.sqrt()));
            } else {
                lost += value * value;
            }
        }
        let relative_error = if whole > 0.0 { (lost / whole).sqrt() } else { 0.0 };
        Truncated { nearest: Self { b, a }, relative_error }
    }

    /// Squared Frobenius norm of the product.
    pub fn square(&self) -> f64 {
        // tr((BᵀB)(AAᵀ)): nothing of the size of the product is made.
        (self.b.tr_mul(&self.b)).component_mul(&(&self.a * self.a.transpose())).sum()
    }
}

fn matrix(file: &CheckpointFile, name: &str) -> Result<DMatrix<f64>> {
    let tensor = file.tensor(name)?;
    let [rows, columns] = tensor.shape[..] else {
        return Err(Error::input(format!(
            "tensor `{name}` has shape {:?}; only factors of matrices are averaged",
            tensor.shape
        )));
    };
    let mut values = vec![0.0; rows * columns];
    file.fill_f64(name, 0, &mut values)?;
    Ok(DMatrix::from_row_slice(rows, columns, &values))
}

fn row_major(matrix: &DMatrix<f64>) -> Vec<f64> {
    matrix.transpose().as_slice().to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn low_rank(outputs: usize, rank: usize, inputs: usize, numbers: &mut impl Iterator<Item = f64>) -> LowRank {
        LowRank {
            b: DMatrix::from_iterator(outputs, rank, numbers.take(outputs * rank)),
            a: DMatrix::from_iterator(rank, inputs, numbers.take(rank * inputs)),
        }
    }

    fn numbers(seed: u64) -> impl Iterator<Item = f64> {
        let mut draws = crate::data::Draws::keyed(&[seed, 7, 7]);
        std::iter::from_fn(move || Some(draws.normal()))
    }

    proptest! {
        #[test]
        fn a_sum_of_products_is_exact_and_so_is_its_truncation_to_the_full_rank(
            (outputs, inputs) in (2..9usize, 2..9usize),
            ranks in prop::collection::vec(1..4usize, 2..4),
            seed in 0..1000u64,
        ) {
            let mut numbers = numbers(seed);
            let weights = [0.7, 0.6, -0.3];
            let parts: Vec<(f64, LowRank)> =
                ranks.iter().zip(weights).map(|(r, w)| (w, low_rank(outputs, *r, inputs, &mut numbers))).collect();
            let plain = parts.iter().fold(DMatrix::zeros(outputs, inputs), |sum, (w, part)| sum + &part.b * &part.a * *w);
            let sum = LowRank::sum(&parts).unwrap();
            prop_assert_eq!(sum.rank(), ranks.iter().sum::<usize>());
            let near = |found: &[f64]| found.iter().zip(row_major(&plain)).all(|(a, b)| (a - b).abs() < 1e-9);
            prop_assert!(near(&sum.delta()));
            prop_assert!((sum.square() - plain.norm_squared()).abs() < 1e-9 * (1.0 + plain.norm_squared()));
            let whole = sum.truncated(sum.rank());
            prop_assert!(near(&whole.nearest.delta()) && whole.relative_error < 1e-7);
            for rank in 1..=outputs.min(inputs) {
                let cut = sum.truncated(rank);
                let apart = (&cut.nearest.b * &cut.nearest.a - &plain).norm() / plain.norm();
                prop_assert!((apart - cut.relative_error).abs() < 1e-6, "rank {}: {} {}", rank, apart, cut.relative_error);
            }
        }
    }

    #[test]
    fn the_average_of_factors_is_another_matrix() {
        let mut numbers = numbers(1);
        let parts = [(0.5, low_rank(5, 2, 6, &mut numbers)), (0.5, low_rank(5, 2, 6, &mut numbers))];
        let exact = LowRank::sum(&parts).unwrap().delta();
        let apart = LowRank { b: (&parts[0].1.b + &parts[1].1.b) * 0.5, a: (&parts[0].1.a + &parts[1].1.a) * 0.5 };
        assert!(exact.iter().zip(apart.delta()).any(|(a, b)| (a - b).abs() > 0.1));
    }
}
