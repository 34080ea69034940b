//! Events: what happened, in one order that readers can resume from.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::ids::{JobId, RunId};

/// How long events are kept.
pub const KEEP_FOR: chrono::TimeDelta = chrono::TimeDelta::days(7);
/// How many are kept at most.
pub const KEEP_AT_MOST: i64 = 1_000_000;

/// What happened. Triggers write the words (migrations 9 and 11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A job was submitted.
    JobQueued,
    /// A worker took it, for the first time or anew.
    JobStarted,
    /// Its worker began another phase.
    JobPhase,
    /// An attempt ended and the job waits for the next.
    JobRequeued,
    /// Someone asked for a running job to end.
    JobCancelRequested,
    /// It ended with an artifact.
    JobSucceeded,
    /// It ended without one.
    JobFailed,
    /// It ended because someone asked.
    JobCancelled,
    /// A checkpoint is there.
    CheckpointPushed,
    /// A candidate set was made.
    CandidateSetCreated,
    /// A name of a run names something else.
    AliasMoved,
    /// A refresh of a policy has a result.
    PolicyRefreshed,
    /// It is better than the best before.
    PolicyImproved,
    /// It reached the target.
    PolicyTargetReached,
    /// As many refreshes as the policy has patience for did not improve.
    PolicyStalled,
    /// A refresh ended without a result.
    PolicyRefreshFailed,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::JobQueued,
        Self::JobStarted,
        Self::JobPhase,
        Self::JobRequeued,
        Self::JobCancelRequested,
        Self::JobSucceeded,
        Self::JobFailed,
        Self::JobCancelled,
        Self::CheckpointPushed,
        Self::CandidateSetCreated,
        Self::AliasMoved,
        Self::PolicyRefreshed,
        Self::PolicyImproved,
        Self::PolicyTargetReached,
        Self::PolicyStalled,
        Self::PolicyRefreshFailed,
    ];

    /// The word for it in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JobQueued => "job.queued",
            Self::JobStarted => "job.started",
            Self::JobPhase => "job.phase",
            Self::JobRequeued => "job.requeued",
            Self::JobCancelRequested => "job.cancel_requested",
            Self::JobSucceeded => "job.succeeded",
            Self::JobFailed => "job.failed",
            Self::JobCancelled => "job.cancelled",
            Self::CheckpointPushed => "checkpoint.pushed",
            Self::CandidateSetCreated => "candidate_set.created",
            Self::AliasMoved => "alias.moved",
            Self::PolicyRefreshed => "policy.refreshed",
            Self::PolicyImproved => "policy.improved",
            Self::PolicyTargetReached => "policy.target_reached",
            Self::PolicyStalled => "policy.stalled",
            Self::PolicyRefreshFailed => "policy.refresh_failed",
        }
    }

    /// Whether it is the last of its job.
    pub fn ends_job(self) -> bool {
        matches!(self, Self::JobSucceeded | Self::JobFailed | Self::JobCancelled)
    }
}

impl FromStr for EventKind {
    type Err = super::job::UnknownState;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == word);
        found.ok_or_else(|| super::job::UnknownState(word.to_owned()))
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Greater than that of every event that became visible before.
    pub event_id: i64,
    /// What happened.
    pub kind: EventKind,
    /// The project of the run.
    pub project: String,
    /// The run.
    pub run_id: RunId,
    /// The job, where it happened to one.
    pub job_id: Option<JobId>,
    /// More, by kind.
    pub detail: Value,
    /// When it happened.
    pub occurred_at: DateTime<Utc>,
}

/// Whose events are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One job's.
    Job(JobId),
    /// A run's, with those of its jobs.
    Run(RunId),
    /// A project's, with those of its runs.
    Project(String),
}

impl Scope {
    /// Whether an event is one of these.
    pub fn holds(&self, event: &Event) -> bool {
        match self {
            Self::Job(job_id) => event.job_id == Some(*job_id),
            Self::Run(run_id) => event.run_id == *run_id,
            Self::Project(project) => event.project == *project,
        }
    }

    /// The job, the run, the project: one of them is there.
    pub fn parts(&self) -> (Option<Uuid>, Option<Uuid>, Option<&str>) {
        match self {
            Self::Job(job_id) => (Some(job_id.0), None, None),
            Self::Run(run_id) => (None, Some(run_id.0), None),
            Self::Project(project) => (None, None, Some(project)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
    }

    #[test]
    fn every_kind_that_a_trigger_writes_is_known_and_the_other_way_round() {
        let migration = concat!(
            include_str!("../../migrations/0009_events.sql"),
            include_str!("../../migrations/0011_policies.sql")
        );
        for kind in EventKind::ALL {
            let word = kind.as_str();
            let is_state = kind.ends_job() && migration.contains("'job.' || new.state");
            assert!(is_state || migration.contains(&format!("'{word}'")), "no trigger writes {word}");
        }
    }
}
