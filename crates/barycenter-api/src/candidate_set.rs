//! Candidate sets: frozen, ordered choices of checkpoints of one run.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Freezes a candidate set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCandidateSet {
    /// Name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How the members are chosen; evaluated once, now.
    pub rule: CandidateSetRule,
}

/// How a candidate set was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CandidateSetRule {
    /// These checkpoints, in the order given.
    Explicit {
        /// Checkpoints of the run.
        checkpoint_ids: Vec<Uuid>,
    },
    /// The `count` checkpoints of the highest steps.
    Last {
        /// How many, at least 2.
        count: u32,
    },
    /// The `count` best checkpoints by a reported metric.
    Best {
        /// How many, at least 2.
        count: u32,
        /// Name of the metric; checkpoints without it are left out.
        metric: String,
        /// Which end is best.
        direction: Direction,
    },
    /// Checkpoints with `from <= step <= to`, every `every`-th of them.
    Steps {
        /// First step.
        from: i64,
        /// Last step.
        to: i64,
        /// Take every `every`-th of the checkpoints in the range; 1 takes all.
        #[serde(default = "one")]
        every: u32,
    },
}

fn one() -> u32 {
    1
}

/// Which end of a metric is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Smaller is better.
    Min,
    /// Larger is better.
    Max,
}

/// A frozen candidate set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CandidateSet {
    /// Identifier.
    pub candidate_set_id: Uuid,
    /// The run of all its members.
    pub run_id: Uuid,
    /// Name, for people.
    pub name: Option<String>,
    /// The rule that chose the members.
    pub rule: CandidateSetRule,
    /// BLAKE3 digest of the members' layout.
    pub layout_blake3: String,
    /// The members in order of step (explicit sets: in the order given); the last one is the reference candidate.
    pub members: Vec<Member>,
    /// When it was frozen.
    pub created_at: DateTime<Utc>,
}

/// One member of a candidate set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// The checkpoint.
    pub checkpoint_id: Uuid,
    /// Its step.
    pub step: i64,
    /// Size of its file.
    pub size_bytes: u64,
    /// Digest of its file.
    pub digest_blake3: String,
}
