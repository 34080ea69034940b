//! How the candidates lie to each other: Gram matrix, effective rank, near-duplicates (`docs/method.md`, "Geometry").

use nalgebra::{DMatrix, SymmetricEigen};

use super::Projection;

/// Two candidates closer than this part of the median distance of a pair are near-duplicates.
const NEAR: f64 = 0.1;

/// How the candidates of a projection lie to each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Geometry {
    /// `⟨d_i, d_j⟩` over all averaged elements: n rows of n numbers, in squared units of weights.
    pub gram: Vec<Vec<f64>>,
    /// Directions that the deviations spread over, 0 to n − 1: the exponential of the entropy of the Gram matrix's
    /// eigenvalues (Roy and Vetterli 2007).
    pub effective_rank: f64,
    /// Pairs that are closer than a tenth of the median distance of a pair, closest first.
    pub near_duplicates: Vec<NearDuplicate>,
}

/// Two candidates that are all but one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NearDuplicate {
    /// Position of the earlier one.
    pub first: usize,
    /// Position of the later one.
    pub second: usize,
    /// Euclidean distance between their weights.
    pub distance: f64,
}

impl Projection {
    /// How the candidates lie to each other, from the stored directions: lengths are exact, angles as good as the codes. Takes as
    /// long as n steps of a fit take on the projection.
    pub fn geometry(&self) -> Geometry {
        let (n, blocks) = (self.n(), self.block_count());
        let mut gram = DMatrix::<f64>::zeros(n, n);
        for (l, of_block) in self.gram().iter().enumerate() {
            let r = |i: usize| self.norms()[i * blocks + l];
            // A direction of few bits is longer than 1 by its noise alone; what is off the diagonal has none on average.
            let entry = |i: usize, j: usize| r(i) * r(j) * if i == j { 1.0 } else { of_block[(i, j)] };
            gram += DMatrix::from_fn(n, n, entry);
        }
        let effective_rank = effective_rank(&gram);
        let near_duplicates = near_duplicates(&gram);
        let gram = gram.row_iter().map(|row| row.iter().copied().collect()).collect();
        Geometry { gram, effective_rank, near_duplicates }
    }
}

fn effective_rank(gram: &DMatrix<f64>) -> f64 {
    let eigenvalues = SymmetricEigen::new(gram.clone()).eigenvalues.map(|value| value.max(0.0));
    let sum = eigenvalues.sum();
    if sum <= 0.0 {
        return 0.0;
    }
    let parts = eigenvalues.iter().map(|value| value / sum).filter(|part| *part > 0.0);
    parts.map(|part| -part * part.ln()).sum::<f64>().exp()
}

fn near_duplicates(gram: &DMatrix<f64>) -> Vec<NearDuplicate> {
    let n = gram.nrows();
    let distance = |i: usize, j: usize| (gram[(i, i)] + gram[(j, j)] - 2.0 * gram[(i, j)]).max(0.0).sqrt();
    let pairs = (0..n).flat_map(|first| (first + 1..n).map(move |second| (first, second)));
    let mut pairs: Vec<_> =
        pairs.map(|(first, second)| NearDuplicate { first, second, distance: distance(first, second) }).collect();
    pairs.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    let median = pairs[pairs.len() / 2].distance;
    pairs.retain(|pair| pair.distance <= NEAR * median);
    pairs
}
