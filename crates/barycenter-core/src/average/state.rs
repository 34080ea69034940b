//! What a job resumes from: the state of the fit and the best snapshot so far.

use crate::{Error, Result, fit::FitState};

const MAGIC: &[u8; 8] = b"BARYJOB1";

/// The state of a job between two steps of its fit.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// `X`, the optimiser's moments, the step.
    pub fit: FitState,
    /// The snapshot with the least select loss so far.
    pub best: BestSnapshot,
}

/// The snapshot with the least select loss so far.
#[derive(Clone, Debug, PartialEq)]
pub struct BestSnapshot {
    /// Its step.
    pub step: u64,
    /// Its loss on the select part.
    pub select_loss: f64,
    /// Its `X`, n x L numbers.
    pub x: Vec<f64>,
}

impl State {
    /// Exact bytes, a few kilobytes: 32 (n L) of `X`, its moments and the best `X`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.best.step.to_le_bytes());
        bytes.extend(self.best.select_loss.to_le_bytes());
        bytes.extend((self.best.x.len() as u64).to_le_bytes());
        bytes.extend(self.best.x.iter().flat_map(|v| v.to_le_bytes()));
        bytes.extend(self.fit.to_bytes());
        bytes
    }

    /// Reads what [`State::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let torn = || Error::corrupt("the saved fit state is torn or of another version");
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(torn)?;
        let (words, _) = rest.as_chunks::<8>();
        let [step, select_loss, count, ..] = words else { return Err(torn()) };
        let count = usize::try_from(u64::from_le_bytes(*count)).map_err(|_| torn())?;
        let x = words.get(3..count.checked_add(3).ok_or_else(torn)?).ok_or_else(torn)?;
        Ok(Self {
            fit: FitState::from_bytes(&rest[(3 + count) * 8..])?,
            best: BestSnapshot {
                step: u64::from_le_bytes(*step),
                select_loss: f64::from_le_bytes(*select_loss),
                x: x.iter().map(|word| f64::from_le_bytes(*word)).collect(),
            },
        })
    }
}
