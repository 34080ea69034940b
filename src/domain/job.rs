//! The state machine of a job. Every change of state goes through [`JobState::after`]; the SQL that changes a state
//! names the state it expects.

use std::{fmt, str::FromStr};

/// Where a job stands. The last three are terminal and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Waits for a worker.
    Queued,
    /// Leased by a worker.
    Running,
    /// Has an artifact.
    Succeeded,
    /// Ended without one.
    Failed,
    /// Ended because someone asked.
    Cancelled,
}

/// What can happen to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// A worker takes it: a queued job, or a running one whose lease has lapsed.
    Claimed,
    /// The worker that holds it published the artifact.
    Finished,
    /// The worker that holds it gave up and another may try.
    Requeued,
    /// The worker that holds it gave up for good, or its lease lapsed with no attempt left.
    Failed,
    /// Someone asks for it to end; a running job goes on until its worker hears of it.
    CancelRequested,
    /// Its worker obeyed a stop, or its lease lapsed after the request.
    Stopped,
    /// Its deadline is over.
    DeadlinePassed,
}

/// A move that the state machine does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {from} job cannot be {event:?}")]
pub struct IllegalMove {
    /// State of the job.
    pub from: JobState,
    /// What was to happen to it.
    pub event: JobEvent,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The state after an event: the one place that knows the legal moves.
    pub fn after(self, event: JobEvent) -> Result<Self, IllegalMove> {
        match (self, event) {
            (Self::Queued | Self::Running, JobEvent::Claimed) | (Self::Running, JobEvent::CancelRequested) => {
                Ok(Self::Running)
            }
            (Self::Running, JobEvent::Finished) => Ok(Self::Succeeded),
            (Self::Running, JobEvent::Requeued) => Ok(Self::Queued),
            (Self::Running, JobEvent::Failed) | (Self::Queued | Self::Running, JobEvent::DeadlinePassed) => {
                Ok(Self::Failed)
            }
            (Self::Queued, JobEvent::CancelRequested) | (Self::Running, JobEvent::Stopped) => Ok(Self::Cancelled),
            // Asking twice, or too late, is no mistake of the caller.
            (ended, JobEvent::CancelRequested) => Ok(ended),
            (from, event) => Err(IllegalMove { from, event }),
        }
    }

    /// Whether the state never changes again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The word for it in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a state")]
pub struct UnknownState(pub String);

impl FromStr for JobState {
    type Err = UnknownState;

    fn from_str(word: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.as_str() == word).ok_or_else(|| UnknownState(word.to_owned()))
    }
}

/// How an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// Holds the lease.
    Running,
    /// Published the artifact.
    Succeeded,
    /// Reported a failure.
    Failed,
    /// Stopped because the job was cancelled.
    Cancelled,
    /// Stopped sending heartbeats.
    Expired,
}

impl AttemptState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled, Self::Expired];

    /// The word for it in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

impl FromStr for AttemptState {
    type Err = UnknownState;

    fn from_str(word: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.as_str() == word).ok_or_else(|| UnknownState(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use JobEvent::{CancelRequested, Claimed, DeadlinePassed, Finished, Requeued, Stopped};
    use JobState::{Cancelled, Queued, Running, Succeeded};

    const EVENTS: [JobEvent; 7] =
        [Claimed, Finished, Requeued, JobEvent::Failed, CancelRequested, Stopped, DeadlinePassed];

    const FAILED: Option<JobState> = Some(JobState::Failed);

    #[test]
    fn only_the_moves_of_the_table_are_legal() {
        // Rows: states in the order of `ALL`; columns: events in the order of `EVENTS`.
        let table = [
            [Some(Running), None, None, None, Some(Cancelled), None, FAILED],
            [Some(Running), Some(Succeeded), Some(Queued), FAILED, Some(Running), Some(Cancelled), FAILED],
            [None, None, None, None, Some(Succeeded), None, None],
            [None, None, None, None, FAILED, None, None],
            [None, None, None, None, Some(Cancelled), None, None],
        ];
        for (state, row) in JobState::ALL.into_iter().zip(table) {
            for (event, expected) in EVENTS.into_iter().zip(row) {
                assert_eq!(state.after(event).ok(), expected, "{state} after {event:?}");
            }
        }
    }

    #[test]
    fn a_terminal_state_never_changes() {
        for state in JobState::ALL.into_iter().filter(|state| state.is_terminal()) {
            for event in EVENTS {
                assert!(state.after(event).is_err() || state.after(event) == Ok(state), "{state} after {event:?}");
            }
        }
    }

    #[test]
    fn only_a_running_job_can_succeed() {
        for state in JobState::ALL {
            assert_eq!(state.after(Finished).is_ok(), state == Running, "{state}");
        }
    }

    #[test]
    fn states_are_read_as_they_are_written() {
        for state in JobState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        for state in AttemptState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert_eq!("paused".parse::<JobState>(), Err(UnknownState("paused".to_owned())));
    }
}
