//! An orthonormal basis of a block's directions, by the eigenvectors of their Gram matrix.

use nalgebra::{DMatrix, DVector, SymmetricEigen};

use crate::projection::Projection;

/// Directions whose eigenvalue is below this part of the largest are no directions but rounding.
const NEGLIGIBLE: f64 = 1e-6;

/// For every block an orthonormal basis `e_k = Σ_i V[i,k] / √λ_k · û_i` of what its directions span.
///
/// Deviations sum to 0, so `Σ_i r_i u_i = 0`: the combination that only the codec's noise makes is left out.
#[derive(Debug)]
pub(super) struct Whitening {
    n: usize,
    blocks: Vec<Basis>,
}

#[derive(Debug)]
struct Basis {
    /// Columns are eigenvectors; those left out are 0.
    vectors: DMatrix<f64>,
    /// Roots of the eigenvalues; 1 for those left out.
    roots: DVector<f64>,
}

impl Whitening {
    pub(super) fn new(projection: &Projection) -> Self {
        let (n, blocks) = (projection.n(), projection.block_count());
        let gram = projection.gram();
        let block = |l: usize| {
            let norms = DVector::from_fn(n, |i, _| projection.norms()[i * blocks + l]);
            Basis::new(&gram[l], &norms)
        };
        Self { n, blocks: (0..blocks).map(block).collect() }
    }

    /// `X` of coordinates in the basis; both (n, L).
    pub(super) fn to_candidates(&self, coordinates: &[f64]) -> Vec<f64> {
        self.by_block(coordinates, |basis, column| &basis.vectors * column.component_div(&basis.roots))
    }

    /// Gradient on the coordinates from that on `X`: the transpose of [`Self::to_candidates`].
    pub(super) fn to_basis(&self, of_x: &[f64]) -> Vec<f64> {
        self.by_block(of_x, |basis, column| basis.vectors.tr_mul(&column).component_div(&basis.roots))
    }

    /// The coordinates of an `X`; what of it lies in no direction is lost.
    pub(super) fn coordinates(&self, x: &[f64]) -> Vec<f64> {
        self.by_block(x, |basis, column| basis.vectors.tr_mul(&column).component_mul(&basis.roots))
    }

    fn by_block(&self, entries: &[f64], map: impl Fn(&Basis, DVector<f64>) -> DVector<f64>) -> Vec<f64> {
        let blocks = self.blocks.len();
        let mut mapped = vec![0.0; entries.len()];
        for (l, basis) in self.blocks.iter().enumerate() {
            let column = DVector::from_fn(self.n, |i, _| entries[i * blocks + l]);
            for (i, value) in map(basis, column).iter().enumerate() {
                mapped[i * blocks + l] = *value;
            }
        }
        mapped
    }
}

impl Basis {
    fn new(gram: &DMatrix<f64>, norms: &DVector<f64>) -> Self {
        let n = norms.len();
        let along = if norms.norm() > 0.0 { norms.normalize() } else { DVector::zeros(n) };
        let others = DMatrix::identity(n, n) - &along * along.transpose();
        let SymmetricEigen { mut eigenvectors, eigenvalues } = SymmetricEigen::new(&others * gram * &others);
        let least = NEGLIGIBLE * eigenvalues.max();
        let mut roots = DVector::from_element(n, 1.0);
        for (k, value) in eigenvalues.iter().enumerate() {
            if *value > least {
                roots[k] = value.sqrt();
            } else {
                eigenvectors.column_mut(k).fill(0.0);
            }
        }
        Self { vectors: eigenvectors, roots }
    }
}
