//! Workers: what they can do and whether they are given jobs.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    ids::{JobId, WorkerId},
    projection::Counts,
};

/// A worker that was silent for longer is taken for gone.
pub const ALIVE_FOR: TimeDelta = TimeDelta::seconds(45);
/// How often a worker says that it is there.
pub const HEARTBEAT: TimeDelta = TimeDelta::seconds(10);
/// A worker that was silent for longer is forgotten.
pub const KEEP_FOR: TimeDelta = TimeDelta::days(7);

/// Whether a worker is given jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// It is.
    Active,
    /// Not until someone resumes it.
    Paused,
    /// No more: it ends after the job that it has.
    Draining,
}

impl WorkerState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Active, Self::Paused, Self::Draining];

    /// The word for it in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }
}

impl FromStr for WorkerState {
    type Err = super::job::UnknownState;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == word);
        found.ok_or_else(|| super::job::UnknownState(word.to_owned()))
    }
}

/// What a worker can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// `cpu` or `cuda`.
    pub device_kind: String,
    /// Memory that a job may take; unbounded where the worker does not know.
    pub memory_bytes: Option<u64>,
    /// Kinds of networks it computes; empty for all.
    pub networks: Vec<String>,
}

/// A worker.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Identifier.
    pub worker_id: WorkerId,
    /// Unique name.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Name of the device, for people.
    pub device_name: String,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Keys of the projections in its cache.
    pub projections: Vec<String>,
    /// Its jobs by where their projection came from.
    pub projection_counts: Counts,
    /// Whether it is given jobs.
    pub state: WorkerState,
    /// What it computes now.
    pub job_id: Option<JobId>,
    /// When it first registered.
    pub registered_at: DateTime<Utc>,
    /// When it was last heard of.
    pub seen_at: DateTime<Utc>,
}

impl Worker {
    /// Whether it can be counted on: heard of lately, or at work on a job whose heartbeats speak for it.
    pub fn is_alive(&self, now: DateTime<Utc>) -> bool {
        self.job_id.is_some() || self.seen_at > now - ALIVE_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_as_they_are_written() {
        for state in WorkerState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
    }

    #[test]
    fn a_worker_may_miss_several_heartbeats() {
        assert!(ALIVE_FOR >= HEARTBEAT * 4);
    }
}
