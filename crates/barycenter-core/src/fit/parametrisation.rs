//! From what is trained, `θ`, to the weights, `X` (`docs/method.md`, "Parametrisation").
//!
//! Every form here is a map from `θ` to the `X` that [`Projection::reconstruct`] takes, with the gradient led back through it, so
//! that one projection and its two passes serve all of them. `θ = 0` is the uniform average in every form.

use super::whitening::Whitening;
use crate::{Error, Result, projection::Projection};

/// What averages may be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Constraint {
    /// Coefficients sum to 1 in every block (the paper's journal form).
    #[default]
    Affine,
    /// They are also at least 0: a softmax (the learned soup of Wortsman et al. 2022).
    Convex,
    /// They sum to anything: the centre is one more direction (the paper's ICLR 2023 form).
    Linear,
}

/// Directions of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Basis {
    /// The deviations, each divided by its norm.
    #[default]
    Normalised,
    /// An orthonormal basis of what they span, by their Gram matrix.
    Orthonormal,
}

/// How blocks share their coefficients.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pooling {
    /// Every block has its own.
    #[default]
    None,
    /// Partial pooling (Gelman and Hill 2007, chapter 12): coefficients that all blocks share, and each block's differences from
    /// them, which cost `½ strength · Σ_i Σ_l (t[i,l] / R_i)²` in the loss.
    Partial {
        /// In units of the loss for a difference of the size of a whole coefficient.
        strength: f64,
    },
}

/// The form of a fit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Form {
    /// What averages may be reached.
    pub constraint: Constraint,
    /// Directions of a block.
    pub basis: Basis,
    /// How blocks share their coefficients.
    pub pooling: Pooling,
}

impl Form {
    pub(super) fn check(self) -> Result<()> {
        match self.pooling {
            Pooling::Partial { strength } if !(strength.is_finite() && strength >= 0.0) => {
                Err(Error::input(format!("pooling.strength: {strength} is not a number of at least 0")))
            }
            Pooling::Partial { .. } if self.basis == Basis::Orthonormal => {
                Err(Error::input("pooling: blocks share no orthonormal basis"))
            }
            _ if self.basis == Basis::Orthonormal && self.constraint == Constraint::Convex => {
                Err(Error::input("basis: convex coefficients belong to candidates, not to an orthonormal basis"))
            }
            _ => Ok(()),
        }
    }
}

/// Where a fit stands: the arguments of the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// `X`, (n, L).
    pub x: Vec<f64>,
    /// How much of itself the centre of a block gains, one a block; empty where coefficients sum to 1.
    pub gain: Vec<f64>,
}

/// A form on the directions of one projection.
#[derive(Debug)]
pub(super) struct Parametrisation {
    constraint: Constraint,
    n: usize,
    blocks: usize,
    /// `r`, (n, L).
    norms: Vec<f64>,
    /// Norm of the centre, one a block; empty where it is no direction.
    centre_norms: Vec<f64>,
    pool: Option<Pool>,
    whitening: Option<Whitening>,
}

/// What partial pooling adds: `θ = (s, t)`, and block l of candidate i has `share[i,l] · s_i + t[i,l]`.
#[derive(Debug)]
struct Pool {
    share: Vec<f64>,
    /// Weight of `½ t[i,l]²` in the loss, one a candidate.
    decay: Vec<f64>,
}

impl Parametrisation {
    pub(super) fn new(projection: &Projection, form: Form) -> Result<Self> {
        form.check()?;
        let (n, blocks) = (projection.n(), projection.block_count());
        let norms = projection.norms().to_vec();
        let pool = match form.pooling {
            Pooling::Partial { strength } if blocks > 1 => {
                Some(Pool::new(&norms, blocks, form.constraint == Constraint::Convex, strength))
            }
            _ => None,
        };
        let centre_norms = if form.constraint == Constraint::Linear { projection.centre_norms() } else { Vec::new() };
        let whitening = (form.basis == Basis::Orthonormal).then(|| Whitening::new(projection));
        Ok(Self { constraint: form.constraint, n, blocks, norms, centre_norms, pool, whitening })
    }

    /// Numbers of `θ`.
    pub(super) fn len(&self) -> usize {
        self.shared() + self.n * self.blocks + self.centre_norms.len()
    }

    fn shared(&self) -> usize {
        if self.pool.is_some() { self.n } else { 0 }
    }

    /// `(s, t, γ)`: what blocks share, each block's own, the centre's.
    fn parts<'t>(&self, theta: &'t [f64]) -> (&'t [f64], &'t [f64], &'t [f64]) {
        let (shared, rest) = theta.split_at(self.shared());
        let (own, centre) = rest.split_at(self.n * self.blocks);
        (shared, own, centre)
    }

    /// What `θ` stands for.
    pub(super) fn point(&self, theta: &[f64]) -> Point {
        let (shared, own, centre) = self.parts(theta);
        let mut x = own.to_vec();
        if let Some(Pool { share, .. }) = &self.pool {
            for (entry, x) in x.iter_mut().enumerate() {
                *x += share[entry] * shared[entry / self.blocks];
            }
        }
        if let Some(whitening) = &self.whitening {
            x = whitening.to_candidates(&x);
        }
        if self.constraint == Constraint::Convex {
            let uniform = 1.0 / self.n as f64;
            let a = self.softmax(&x);
            x = a.iter().zip(&self.norms).map(|(a, r)| r * (a - uniform)).collect();
        }
        let gain = centre.iter().zip(&self.centre_norms).map(|(z, norm)| if *norm > 0.0 { z / norm } else { 0.0 });
        Point { x, gain: gain.collect() }
    }

    /// Gradient of the loss, penalty included, on `θ`; from those on `X` and on the gain of the centres.
    pub(super) fn gradient(&self, theta: &[f64], of_x: &[f64], of_gain: &[f64]) -> Vec<f64> {
        let (shared, own, _) = self.parts(theta);
        let mut of_own = of_x.to_vec();
        if self.constraint == Constraint::Convex {
            let mut logits = own.to_vec();
            for (entry, logit) in logits.iter_mut().enumerate().filter(|_| self.pool.is_some()) {
                *logit += shared[entry / self.blocks];
            }
            of_own = self.through_softmax(&self.softmax(&logits), of_x);
        }
        if let Some(whitening) = &self.whitening {
            of_own = whitening.to_basis(&of_own);
        }
        let mut gradient = vec![0.0; self.shared()];
        if let Some(Pool { share, decay }) = &self.pool {
            for (entry, of_own) in of_own.iter_mut().enumerate() {
                let candidate = entry / self.blocks;
                gradient[candidate] += share[entry] * *of_own;
                *of_own += decay[candidate] * own[entry];
            }
        }
        gradient.extend(of_own);
        let of_centre = of_gain.iter().zip(&self.centre_norms);
        gradient.extend(of_centre.map(|(g, norm)| if *norm > 0.0 { g / norm } else { 0.0 }));
        gradient
    }

    /// The learning rate of each number of `θ`, as a factor of the fit's: a block's differences from shared coefficients go
    /// `1 / √L` as fast as those, so that together they move the weights as far.
    pub(super) fn rate_factors(&self) -> Vec<f64> {
        let own = if self.pool.is_some() { 1.0 / (self.blocks as f64).sqrt() } else { 1.0 };
        let mut factors = vec![1.0; self.shared()];
        factors.resize(self.len(), own);
        factors
    }

    /// The learning rate that moves a coefficient by `share` in a step of length 1.
    ///
    /// Median over the candidates of their deviations' norms, over `√L` where every block has its own coefficients; for
    /// convex coefficients, n logits' worth.
    pub(super) fn rate_of(&self, share: f64) -> f64 {
        if self.constraint == Constraint::Convex {
            return share * self.n as f64;
        }
        let mut totals: Vec<f64> =
            self.norms.chunks(self.blocks).map(|norms| norms.iter().map(|r| r * r).sum::<f64>().sqrt()).collect();
        totals.sort_by(f64::total_cmp);
        let median = totals[totals.len() / 2];
        let blocks = if self.pool.is_some() { 1.0 } else { (self.blocks as f64).sqrt() };
        if median > 0.0 { share * median / blocks } else { share }
    }

    /// The `θ` whose coefficients are these, (n, L), as far as the form has it: with pooling they all go to the blocks' own part
    /// but for the mean over blocks, which is shared.
    pub(super) fn theta_of(&self, coefficients: &[f64]) -> Vec<f64> {
        let uniform = 1.0 / self.n as f64;
        let mut own: Vec<f64> = if self.constraint == Constraint::Convex {
            coefficients.iter().map(|a| (a.max(1e-6) / uniform).ln()).collect()
        } else {
            coefficients.iter().zip(&self.norms).map(|(a, r)| r * (a - uniform)).collect()
        };
        if let Some(whitening) = &self.whitening {
            own = whitening.coordinates(&own);
        }
        let mut theta = vec![0.0; self.shared()];
        if let Some(Pool { share, .. }) = &self.pool {
            for (candidate, shared) in theta.iter_mut().enumerate() {
                let row = candidate * self.blocks..(candidate + 1) * self.blocks;
                let squares: f64 = share[row.clone()].iter().map(|share| share * share).sum();
                let along: f64 = share[row.clone()].iter().zip(&own[row]).map(|(share, own)| share * own).sum();
                *shared = if squares > 0.0 { along / squares } else { 0.0 };
            }
            for (entry, own) in own.iter_mut().enumerate() {
                *own -= share[entry] * theta[entry / self.blocks];
            }
        }
        theta.extend(own);
        theta.resize(self.len(), 0.0);
        theta
    }

    /// Softmax over the candidates, block by block.
    fn softmax(&self, logits: &[f64]) -> Vec<f64> {
        let mut a = logits.to_vec();
        for l in 0..self.blocks {
            let column = || (0..self.n).map(|i| i * self.blocks + l);
            let largest = column().map(|entry| logits[entry]).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = column().map(|entry| (logits[entry] - largest).exp()).sum();
            for entry in column() {
                a[entry] = (logits[entry] - largest).exp() / sum;
            }
        }
        a
    }

    /// `a_i (∂a_i − Σ_j a_j ∂a_j)` with `∂a_i = r_i ∂X_i`.
    fn through_softmax(&self, a: &[f64], of_x: &[f64]) -> Vec<f64> {
        let of_a: Vec<f64> = of_x.iter().zip(&self.norms).map(|(g, r)| g * r).collect();
        let mut of_logits = of_a.clone();
        for l in 0..self.blocks {
            let column = || (0..self.n).map(|i| i * self.blocks + l);
            let mean: f64 = column().map(|entry| a[entry] * of_a[entry]).sum();
            for entry in column() {
                of_logits[entry] = a[entry] * (of_a[entry] - mean);
            }
        }
        of_logits
    }
}

impl Pool {
    fn new(norms: &[f64], blocks: usize, convex: bool, strength: f64) -> Self {
        let rows = || norms.chunks(blocks);
        if convex {
            // A logit moves its coefficient by a = 1/n of itself.
            let n = (norms.len() / blocks) as f64;
            return Self { share: vec![1.0; norms.len()], decay: vec![strength / (n * n); rows().len()] };
        }
        let totals: Vec<f64> = rows().map(|norms| norms.iter().map(|r| r * r).sum::<f64>().sqrt()).collect();
        let or_zero = |value: f64| if value.is_finite() { value } else { 0.0 };
        let share = norms.iter().enumerate().map(|(entry, r)| or_zero(r / totals[entry / blocks])).collect();
        let decay = totals.iter().map(|total| or_zero(strength / (total * total))).collect();
        Self { share, decay }
    }
}

#[cfg(test)]
#[path = "parametrisation_tests.rs"]
mod tests;
