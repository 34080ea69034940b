//! Candidate sets: frozen, ordered choices of checkpoints of one run.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Freezes a candidate set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCandidateSet {
    /// Name, at most 100 characters; a name that the run has had makes its next version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How the members are chosen; evaluated once, now.
    pub rule: CandidateSetRule,
    /// Further runs whose checkpoints take part, by id or name; all share one layout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_runs: Vec<String>,
}

/// How a candidate set was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CandidateSetRule {
    /// These checkpoints, in the order given: one of the two lists.
    Explicit {
        /// By id.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        checkpoint_ids: Vec<Uuid>,
        /// By step, id or alias of the run; `run:step` names another run's.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        checkpoints: Vec<String>,
    },
    /// The `count` checkpoints of the highest steps.
    Last {
        /// How many, at least 2.
        count: u32,
        /// What they are chosen among.
        #[serde(default, skip_serializing_if = "Among::is_everything")]
        among: Among,
    },
    /// The `count` best checkpoints by a reported metric.
    Best {
        /// How many, at least 2.
        count: u32,
        /// Name of the metric; checkpoints without it are left out.
        metric: String,
        /// Which end is best.
        direction: Direction,
        /// What they are chosen among.
        #[serde(default, skip_serializing_if = "Among::is_everything")]
        among: Among,
    },
    /// Checkpoints with `from <= step <= to`, every `every`-th of them.
    Steps {
        /// First step; 0 unless told.
        #[serde(default)]
        from: i64,
        /// Last step; without it, to the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<i64>,
        /// Take every `every`-th of the checkpoints in the range; 1 takes all.
        #[serde(default = "one")]
        every: u32,
        /// What they are chosen among.
        #[serde(default, skip_serializing_if = "Among::is_everything")]
        among: Among,
    },
}

/// What a rule chooses among: the checkpoints that pass every filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Among {
    /// Least step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// Greatest step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<i64>,
    /// Tags, all of which they have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Conditions on metrics, as `val_loss<0.5,accuracy>=0.8`; all hold.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub conditions: Option<String>,
    /// Steps, ids or aliases that take no part; `run:step` names another run's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Of those that pass, every so-manieth in order of step, from the first on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u32>,
}

impl Among {
    /// Whether nothing is filtered.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
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
    /// The run it belongs to.
    pub run_id: Uuid,
    /// Further runs that its members were chosen from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_run_ids: Vec<Uuid>,
    /// Name, for people.
    pub name: Option<String>,
    /// Counts the sets of one name in the run, from 1 on.
    #[serde(default = "one")]
    pub version: u32,
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
    /// Its run.
    #[serde(default)]
    pub run_id: Uuid,
    /// Its step.
    pub step: i64,
    /// Size of its file.
    pub size_bytes: u64,
    /// Digest of its file.
    pub digest_blake3: String,
}

/// Which candidate sets of a run to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListCandidateSets {
    /// Only the versions of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Items a page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u32>,
    /// The `next_page_token` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_token: Option<String>,
}

/// What changed from one candidate set to another; every member of either is in exactly one of the lists.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CandidateSetDiff {
    /// The first set.
    pub from: Uuid,
    /// The second set.
    pub to: Uuid,
    /// Members that only the second has.
    pub added: Vec<PlacedMember>,
    /// Members that only the first has.
    pub removed: Vec<PlacedMember>,
    /// Members of both that changed their order among those of both: as few as explain the second order.
    pub moved: Vec<PlacedMember>,
    /// The other members of both.
    pub common: Vec<PlacedMember>,
}

/// A member with its places.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlacedMember {
    /// The checkpoint.
    pub checkpoint_id: Uuid,
    /// Its run.
    pub run_id: Uuid,
    /// Its step.
    pub step: i64,
    /// Place in the first set, from 0 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_position: Option<usize>,
    /// Place in the second set, from 0 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_position: Option<usize>,
}
