//! Candidate sets.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ids::{CandidateSetId, CheckpointId, RunId};

/// Fewest members of a set: one checkpoint has no average.
pub const MIN_MEMBERS: usize = 2;
/// Most members of a set.
pub const MAX_MEMBERS: usize = 1024;

/// How a candidate set is chosen; the stored form, which never changes its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Rule {
    /// These checkpoints, in the order given.
    Explicit {
        /// Checkpoints of the run.
        checkpoint_ids: Vec<CheckpointId>,
    },
    /// The checkpoints of the highest steps.
    Last {
        /// How many.
        count: u32,
    },
    /// The best checkpoints by a reported metric.
    Best {
        /// How many.
        count: u32,
        /// Name of the metric.
        metric: String,
        /// Which end is best.
        direction: Direction,
    },
    /// Checkpoints in a range of steps.
    Steps {
        /// First step.
        from: i64,
        /// Last step.
        to: i64,
        /// Take every `every`-th of them.
        every: u32,
    },
}

/// Which end of a metric is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Smaller is better.
    Min,
    /// Larger is better.
    Max,
}

/// A frozen candidate set.
#[derive(Clone, Debug)]
pub struct CandidateSet {
    /// Identifier.
    pub candidate_set_id: CandidateSetId,
    /// The run of all its members.
    pub run_id: RunId,
    /// Name, for people.
    pub name: Option<String>,
    /// The rule that chose the members.
    pub rule: Rule,
    /// Digest of the members' layout.
    pub layout_blake3: String,
    /// The members, in the order of the coefficients.
    pub members: Vec<Candidate>,
    /// When it was frozen.
    pub created_at: DateTime<Utc>,
}

/// A checkpoint as a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The checkpoint.
    pub checkpoint_id: CheckpointId,
    /// Its step.
    pub step: i64,
    /// Size of its file.
    pub size_bytes: u64,
    /// Digest of its file.
    pub digest_blake3: String,
    /// Digest of its layout.
    pub layout_blake3: String,
}
