//! Policies: what makes a refresh better than the best before, and when averaging counts as stalled.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    failure::Failure,
    ids::{ArtifactId, CandidateSetId, JobId, RunId},
    job::UnknownState,
};

/// How a refresh stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshState {
    /// Its job is queued or computed.
    Running,
    /// Its result is better than the best before, or the first.
    Improved,
    /// Its result is not.
    NotImproved,
    /// It has no result.
    Failed,
    /// The policy was removed while its job ran.
    Abandoned,
}

impl RefreshState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Running, Self::Improved, Self::NotImproved, Self::Failed, Self::Abandoned];

    /// The word for it in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Improved => "improved",
            Self::NotImproved => "not_improved",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

impl FromStr for RefreshState {
    type Err = UnknownState;

    fn from_str(word: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.as_str() == word).ok_or_else(|| UnknownState(word.to_owned()))
    }
}

/// One time that a policy averaged.
#[derive(Clone, Debug)]
pub struct Refresh {
    /// Identifier.
    pub refresh_id: Uuid,
    /// The run.
    pub run_id: RunId,
    /// Counts the refreshes of the run, from 1 on.
    pub number: u32,
    /// How it stands.
    pub state: RefreshState,
    /// Checkpoints that were new when it began.
    pub new_checkpoints: u64,
    /// The candidates.
    pub candidate_set_id: Option<CandidateSetId>,
    /// The job.
    pub job_id: Option<JobId>,
    /// The job whose coefficients it started from.
    pub started_from: Option<JobId>,
    /// What it came to, where it has a result.
    pub result: Option<RefreshResult>,
    /// How that compares with the best before.
    pub comparison: Option<Comparison>,
    /// The alias that it moved.
    pub moved_alias: Option<String>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When its outcome was told.
    pub finished_at: Option<DateTime<Utc>>,
}

/// What a refresh came to.
#[derive(Clone, Debug, PartialEq)]
pub struct RefreshResult {
    /// The averaged model.
    pub artifact_id: ArtifactId,
    /// Which evaluation the job returned.
    pub chosen: String,
    /// Its select loss.
    pub select_loss: f64,
    /// Its test loss, where there is test data.
    pub test_loss: Option<f64>,
}

/// A result beside the best before it, selected on the same data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Number of the best refresh.
    pub with: u32,
    /// The new select loss minus the best.
    pub difference: f64,
    /// 95 % interval of the difference, where losses of samples are known of both.
    pub interval: Option<[f64; 2]>,
}

/// Whether a result is better: lower by at least `improvement`, and not by the luck of the samples.
pub fn has_improved(comparison: Option<&Comparison>, improvement: f64) -> bool {
    comparison.is_none_or(|comparison| {
        // Not `<= -improvement` alone: an improvement of 0 asks for something lower, not for something equal.
        comparison.difference < 0.0
            && comparison.difference <= -improvement
            && comparison.interval.is_none_or(|[_, high]| high < 0.0)
    })
}

/// Refreshes in a row that did not improve after one more, and whether that is as many as there is patience for. It is so once a
/// row.
pub fn after_refresh(without_improvement: u32, improved: bool, patience: Option<u32>) -> (u32, bool) {
    let without_improvement = if improved { 0 } else { without_improvement.saturating_add(1) };
    (without_improvement, !improved && patience == Some(without_improvement))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(difference: f64, interval: Option<[f64; 2]>) -> Comparison {
        Comparison { with: 1, difference, interval }
    }

    #[test]
    fn a_result_improves_by_enough_and_beyond_the_luck_of_the_samples() {
        assert!(has_improved(None, 0.1), "there is nothing better before the first");
        for (difference, interval, improvement, improved) in [
            (-0.2, None, 0.1, true),
            (-0.1, None, 0.1, true),
            (-0.05, None, 0.1, false),
            (0.0, None, 0.0, false),
            (0.2, None, 0.0, false),
            (-0.2, Some([-0.3, -0.1]), 0.1, true),
            (-0.2, Some([-0.5, 0.1]), 0.1, false),
            (-0.05, Some([-0.06, -0.04]), 0.1, false),
            (f64::NAN, None, 0.0, false),
        ] {
            let comparison = compared(difference, interval);
            assert_eq!(has_improved(Some(&comparison), improvement), improved, "{comparison:?} by {improvement}");
        }
    }

    #[test]
    fn averaging_stalls_once_in_a_row_and_again_after_it_improved() {
        let mut without = 0;
        let told: Vec<bool> = [true, false, false, false, false, true, false, false]
            .map(|improved| {
                let (after, stalled) = after_refresh(without, improved, Some(2));
                without = after;
                stalled
            })
            .to_vec();
        assert_eq!(told, [false, false, true, false, false, false, false, true]);
        assert_eq!(after_refresh(7, false, None), (8, false));
    }

    #[test]
    fn states_are_read_as_they_are_written() {
        for state in RefreshState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
    }
}
