//! The state of a fit, and its bytes.
//!
//! Little-endian: magic `BARYFIT2` (8), step (8), seed (8), numbers of `θ` (8), numbers of the second moment (8), then `θ`, first and
//! second moment (f64), then the BLAKE3 digest of everything before it (32).

use super::FitOptions;
use crate::{Error, Result};

/// Magic and version.
const MAGIC: &[u8; 8] = b"BARYFIT2";
const HEAD: usize = 40;
const DIGEST: usize = 32;

/// Everything that a fit has to save to resume.
#[derive(Clone, Debug, PartialEq)]
pub struct FitState {
    /// Steps made.
    pub step: u64,
    /// Seed of the data's order.
    pub seed: u64,
    /// The trained variable `θ`; `X` itself, (n, L), in the plain affine form.
    pub theta: Vec<f64>,
    /// First moment (`AdamW`) or momentum buffer (SGD), one a number of `θ`.
    pub first_moment: Vec<f64>,
    /// Second moment; empty with SGD.
    pub second_moment: Vec<f64>,
}

impl FitState {
    /// `θ` before the first step.
    pub(super) fn start(theta: Vec<f64>, options: &FitOptions) -> Self {
        let len = theta.len();
        Self {
            step: 0,
            seed: options.seed,
            theta,
            first_moment: vec![0.0; len],
            second_moment: vec![0.0; options.optimiser.second_moments(len)],
        }
    }

    pub(super) fn check(&self, len: usize, options: &FitOptions) -> Result<()> {
        let lengths = (self.theta.len(), self.first_moment.len(), self.second_moment.len());
        if lengths != (len, len, options.optimiser.second_moments(len)) {
            return Err(Error::input("the saved state belongs to a fit of another size, form or optimiser"));
        }
        if self.seed != options.seed {
            let (saved, wanted) = (self.seed, options.seed);
            return Err(Error::input(format!("the saved state was made with seed {saved}, not {wanted}")));
        }
        if self.step > options.steps {
            let (made, steps) = (self.step, options.steps);
            return Err(Error::input(format!("the saved state has made {made} steps, the fit has {steps}")));
        }
        Ok(())
    }

    /// The state as bytes, exactly.
    pub fn to_bytes(&self) -> Vec<u8> {
        let numbers = self.theta.len() + self.first_moment.len() + self.second_moment.len();
        let mut bytes = Vec::with_capacity(HEAD + 8 * numbers + DIGEST);
        bytes.extend_from_slice(MAGIC);
        for count in [self.step, self.seed, self.theta.len() as u64, self.second_moment.len() as u64] {
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        for value in self.theta.iter().chain(&self.first_moment).chain(&self.second_moment) {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    /// Reads what [`FitState::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the bytes are no state of this version, have the wrong length or were changed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (content, digest) = bytes
            .split_last_chunk::<DIGEST>()
            .filter(|(content, _)| content.len() >= HEAD && content.starts_with(MAGIC))
            .ok_or_else(|| Error::corrupt("the saved fit state is not one of this version"))?;
        if blake3::hash(content) != blake3::Hash::from_bytes(*digest) {
            return Err(Error::corrupt("the saved fit state does not match its digest"));
        }
        let (head, numbers) = content.split_at(HEAD);
        let counts: Vec<u64> = head[8..].as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
        let (numbers, rest) = numbers.as_chunks::<8>();
        let numbers: Vec<f64> = numbers.iter().map(|b| f64::from_le_bytes(*b)).collect();
        let (len, second) = (counts[2], counts[3]);
        let wanted = len.checked_mul(2).and_then(|both| both.checked_add(second));
        if wanted != Some(numbers.len() as u64) || !rest.is_empty() {
            return Err(Error::corrupt("the saved fit state has the wrong length"));
        }
        let (theta, moments) = numbers.split_at(len as usize);
        let (first, second) = moments.split_at(len as usize);
        Ok(Self {
            step: counts[0],
            seed: counts[1],
            theta: theta.to_vec(),
            first_moment: first.to_vec(),
            second_moment: second.to_vec(),
        })
    }
}
