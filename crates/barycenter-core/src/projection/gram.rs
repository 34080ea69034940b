//! Inner products of a projection's directions, and of its centre, with the two passes that a fit makes.

use nalgebra::DMatrix;

use super::Projection;

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
        self.by_block(|t| dot(&self.tensors[t].centre, &gradient[t]))
    }

    /// Adds `gain[l] · c[l]` to the weights.
    ///
    /// # Panics
    /// Where there are fewer gains than blocks.
    pub fn add_centre(&self, gain: &[f64], weights: &mut [Vec<f32>]) {
        for (tensor, weights) in self.tensors.iter().zip(weights) {
            let gain = gain[tensor.block] as f32;
            weights.iter_mut().zip(&tensor.centre).for_each(|(w, c)| *w += gain * c);
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
