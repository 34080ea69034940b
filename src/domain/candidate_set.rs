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
    /// These checkpoints, in the order given; one of the two lists is empty.
    Explicit {
        /// By id.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        checkpoint_ids: Vec<CheckpointId>,
        /// By step, id or alias, `run:step` for another run's; what they named is in the members.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        checkpoints: Vec<String>,
    },
    /// The checkpoints of the highest steps.
    Last {
        /// How many.
        count: u32,
        /// What they are chosen among.
        #[serde(default, skip_serializing_if = "Among::is_everything")]
        among: Among,
    },
    /// The best checkpoints by a reported metric.
    Best {
        /// How many.
        count: u32,
        /// Name of the metric.
        metric: String,
        /// Which end is best.
        direction: Direction,
        /// What they are chosen among.
        #[serde(default, skip_serializing_if = "Among::is_everything")]
        among: Among,
    },
    /// Checkpoints in a range of steps.
    Steps {
        /// First step.
        #[serde(default)]
        from: i64,
        /// Last step; without it, to the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<i64>,
        /// Take every `every`-th of them.
        #[serde(default = "one")]
        every: u32,
        /// What they are chosen among.
        #[serde(default, skip_serializing_if = "Among::is_everything")]
        among: Among,
    },
}

fn one() -> u32 {
    1
}

impl Rule {
    /// What the rule chooses among; an explicit one names its members.
    pub fn among(&self) -> Option<&Among> {
        match self {
            Self::Explicit { .. } => None,
            Self::Last { among, .. } | Self::Best { among, .. } | Self::Steps { among, .. } => Some(among),
        }
    }

    /// First and last step that the rule looks at.
    pub fn steps(&self) -> (i64, i64) {
        let (from, to) = match self {
            Self::Steps { from, to, .. } => (*from, *to),
            _ => (0, None),
        };
        let among = self.among();
        let (least, most) = (among.and_then(|among| among.from), among.and_then(|among| among.to));
        (from.max(least.unwrap_or(0)), to.unwrap_or(i64::MAX).min(most.unwrap_or(i64::MAX)))
    }
}

/// What a rule chooses among: the checkpoints that pass every filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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
    /// Conditions on metrics, as `val_loss<0.5,acc>0.8`.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub conditions: Option<String>,
    /// Steps, ids or aliases that take no part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Of those that pass, every so-manieth in order of step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u32>,
}

impl Among {
    /// Whether nothing is filtered.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
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
    /// The run it belongs to.
    pub run_id: RunId,
    /// Further runs that its members were chosen from.
    pub other_run_ids: Vec<RunId>,
    /// Name, for people.
    pub name: Option<String>,
    /// Counts the sets of one name in the run, from 1 on.
    pub version: u32,
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
    /// Its run.
    pub run_id: RunId,
    /// Its step.
    pub step: i64,
    /// Size of its file.
    pub size_bytes: u64,
    /// Digest of its file.
    pub digest_blake3: String,
    /// Digest of its layout.
    pub layout_blake3: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_earlier_releases_are_still_read_and_written_as_they_were() {
        for text in [
            r#"{"kind":"explicit","checkpoint_ids":["0190f3a8-0000-7000-8000-000000000001"]}"#,
            r#"{"kind":"last","count":3}"#,
            r#"{"kind":"best","count":3,"metric":"val_loss","direction":"min"}"#,
            r#"{"kind":"steps","from":10,"to":20,"every":2}"#,
        ] {
            let rule: Rule = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&rule).unwrap(), text);
        }
    }
}
