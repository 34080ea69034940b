//! Rules of candidate sets between wire and domain.

use barycenter_api::{Among, CandidateSetRule, Direction};

use crate::domain::{self, candidate_set::Rule};

impl From<Direction> for domain::candidate_set::Direction {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Min => Self::Min,
            Direction::Max => Self::Max,
        }
    }
}

impl From<domain::candidate_set::Direction> for Direction {
    fn from(direction: domain::candidate_set::Direction) -> Self {
        match direction {
            domain::candidate_set::Direction::Min => Self::Min,
            domain::candidate_set::Direction::Max => Self::Max,
        }
    }
}

impl From<Among> for domain::candidate_set::Among {
    fn from(among: Among) -> Self {
        let Among { from, to, tags, conditions, exclude, every } = among;
        Self { from, to, tags, conditions, exclude, every }
    }
}

impl From<domain::candidate_set::Among> for Among {
    fn from(among: domain::candidate_set::Among) -> Self {
        let domain::candidate_set::Among { from, to, tags, conditions, exclude, every } = among;
        Self { from, to, tags, conditions, exclude, every }
    }
}

impl From<CandidateSetRule> for Rule {
    fn from(rule: CandidateSetRule) -> Self {
        match rule {
            CandidateSetRule::Explicit { checkpoint_ids, checkpoints } => {
                Self::Explicit { checkpoint_ids: checkpoint_ids.into_iter().map(Into::into).collect(), checkpoints }
            }
            CandidateSetRule::Last { count, among } => Self::Last { count, among: among.into() },
            CandidateSetRule::Best { count, metric, direction, among } => {
                Self::Best { count, metric, direction: direction.into(), among: among.into() }
            }
            CandidateSetRule::Steps { from, to, every, among } => Self::Steps { from, to, every, among: among.into() },
        }
    }
}

impl From<Rule> for CandidateSetRule {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Explicit { checkpoint_ids, checkpoints } => {
                Self::Explicit { checkpoint_ids: checkpoint_ids.into_iter().map(Into::into).collect(), checkpoints }
            }
            Rule::Last { count, among } => Self::Last { count, among: among.into() },
            Rule::Best { count, metric, direction, among } => {
                Self::Best { count, metric, direction: direction.into(), among: among.into() }
            }
            Rule::Steps { from, to, every, among } => Self::Steps { from, to, every, among: among.into() },
        }
    }
}
