//! Between the trained variable `X` and the coefficients `a` that users read.

use super::Projection;

impl Projection {
    /// Coefficients of `x`, (n, L): `a = 1/n + β − mean β` with `β = X / r`; every block sums to 1.
    ///
    /// # Panics
    /// Where `x` has not n · L entries.
    pub fn coefficients(&self, x: &[f64]) -> Vec<f64> {
        assert_eq!(x.len(), self.n * self.block_count, "X has n · L entries");
        let share = 1.0 / self.n as f64;
        let mut a: Vec<f64> = (0..self.n)
            .flat_map(|i| (0..self.block_count).map(move |l| x[i * self.block_count + l] * self.inverse_norm(i, l)))
            .collect();
        for l in 0..self.block_count {
            let mean = (0..self.n).map(|i| a[i * self.block_count + l]).sum::<f64>() * share;
            for i in 0..self.n {
                a[i * self.block_count + l] += share - mean;
            }
        }
        a
    }

    /// The `X` that stands for these coefficients, (n, L): `X = r · (a − 1/n)`; 0 where the deviation is null.
    ///
    /// # Panics
    /// Where `a` has not n · L entries.
    pub fn x_from_coefficients(&self, a: &[f64]) -> Vec<f64> {
        assert_eq!(a.len(), self.n * self.block_count, "a has n · L entries");
        let share = 1.0 / self.n as f64;
        a.iter().zip(&self.norms).map(|(a, r)| r * (a - share)).collect()
    }
}
