//! What a job resumes from: the state of the fit and the best snapshot so far.

use crate::{
    Error, Result,
    fit::{FitState, Point},
};

const MAGIC: &[u8; 8] = b"BARYJOB2";
/// Step, select loss, numbers of `X`, numbers of the gain.
const HEAD_WORDS: usize = 4;

/// The state of a job between two steps of its fit.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// `θ`, the optimiser's moments, the step.
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
    /// Where it stands.
    pub point: Point,
}

impl State {
    /// Exact bytes, a few kilobytes: 8 a number of `θ`, of its moments and of the best point.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Point { x, gain } = &self.best.point;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.best.step.to_le_bytes());
        bytes.extend(self.best.select_loss.to_le_bytes());
        bytes.extend((x.len() as u64).to_le_bytes());
        bytes.extend((gain.len() as u64).to_le_bytes());
        bytes.extend(x.iter().chain(gain).flat_map(|v| v.to_le_bytes()));
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
        let [step, select_loss, x, gain, numbers @ ..] = words else { return Err(torn()) };
        let count = |word: &[u8; 8]| usize::try_from(u64::from_le_bytes(*word)).map_err(|_| torn());
        let (x, gain) = (count(x)?, count(gain)?);
        let held = x.checked_add(gain).filter(|held| *held <= numbers.len()).ok_or_else(torn)?;
        let numbers: Vec<f64> = numbers[..held].iter().map(|word| f64::from_le_bytes(*word)).collect();
        let (x, gain) = numbers.split_at(x);
        Ok(Self {
            fit: FitState::from_bytes(&rest[(HEAD_WORDS + held) * 8..])?,
            best: BestSnapshot {
                step: u64::from_le_bytes(*step),
                select_loss: f64::from_le_bytes(*select_loss),
                point: Point { x: x.to_vec(), gain: gain.to_vec() },
            },
        })
    }
}
