//! Inner products of a projection's directions, and of its centre, with the two passes that a fit makes.

use nalgebra::DMatrix;

use super::{Columns, Projection};

impl Projection {
    /// `⟨û[i,l], û[j,l]⟩`: one symmetric n x n matrix a block. n passes over the directions, and one vector of D floats.
    pub fn gram(&self) -> Vec<DMatrix<f64>> {
        let (n, blocks) = (self.n, self.block_count);
        let mut grams = vec![DMatrix::zeros(n, n); blocks];
        let mut direction = self.centre();
        for j in 0..n {
            let mut x = vec![0.0; n * blocks];
            x[j * blocks..][..blocks].fill(1.0);
            self.reconstruct(&x, &mut direction);
            for (tensor, direction) in self.tensors.iter().zip(&mut direction) {
                direction.iter_mut().zip(&tensor.centre).for_each(|(d, c)| *d -= c);
            }
            let products = self.project(&direction);
            for (entry, product) in products.into_iter().enumerate() {
                grams[entry % blocks][(entry / blocks, j)] = product;
            }
        }
        grams.into_iter().map(|gram| (&gram + gram.transpose()) * 0.5).collect()
    }

    /// Euclidean norm of the centre, one a block.
    pub fn centre_norms(&self) -> Vec<f64> {
        self.by_block(|t| dot(&self.tensors[t].centre, &self.tensors[t].centre)).into_iter().map(f64::sqrt).collect()
    }

    /// `⟨c[l], g[l]⟩`, one a block.
    ///
    /// # Panics
    /// Where the gradient has fewer tensors than the projection.
    pub fn project_on_centre(&self, gradient: &[Vec<f32>]) -> Vec<f64> {
        self.project_columns_on_centre(gradient, &self.all_columns())
    }

    /// The part of it that these columns make.
    pub(crate) fn project_columns_on_centre(&self, gradient: &[Vec<f32>], columns: &Columns) -> Vec<f64> {
        self.by_block(|t| dot(&self.tensors[t].centre[columns.of(t)], &gradient[t][columns.of(t)]))
    }

    /// Adds `gain[l] · c[l]` to the weights.
    ///
    /// # Panics
    /// Where there are fewer gains than blocks.
    pub fn add_centre(&self, gain: &[f64], weights: &mut [Vec<f32>]) {
        self.add_centre_columns(gain, &self.all_columns(), weights);
    }

    /// The same, to these columns alone.
    pub(crate) fn add_centre_columns(&self, gain: &[f64], columns: &Columns, weights: &mut [Vec<f32>]) {
        for ((tensor, weights), (_, own)) in self.tensors.iter().zip(weights).zip(columns.ranges()) {
            let gain = gain[tensor.block] as f32;
            weights[own.clone()].iter_mut().zip(&tensor.centre[own]).for_each(|(w, c)| *w += gain * c);
        }
    }

    fn by_block(&self, of_tensor: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut sums = vec![0.0; self.block_count];
        for (t, tensor) in self.tensors.iter().enumerate() {
            sums[tensor.block] += of_tensor(t);
        }
        sums
    }
}

/// Summed in f64.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
