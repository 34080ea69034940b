//! Which checkpoints of a run are kept.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{candidate_set::Direction, ids::CheckpointId};

/// The rules of a run; what none of them keeps is deleted, unless it is pinned or needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// Keep the checkpoints of so many highest steps.
    pub last: u32,
    /// Keep the best by these metrics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub best: Vec<KeepBest>,
    /// Keep those whose step is a multiple of this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<i64>,
}

/// The best by a metric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepBest {
    /// How many.
    pub count: u32,
    /// Name of the metric.
    pub metric: String,
    /// Which end is best.
    pub direction: Direction,
}

/// A checkpoint as the rules see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The checkpoint.
    pub checkpoint_id: CheckpointId,
    /// Its step.
    pub step: i64,
    /// Its metrics.
    pub metrics: std::collections::BTreeMap<String, f64>,
}

impl Retention {
    /// The checkpoints that no rule keeps. Applied again to what is kept, the rules keep all of it.
    ///
    /// That is why `every_steps` goes by the step and not by the place: every second of every second would leave nothing.
    pub fn unkept(&self, checkpoints: &[Kept]) -> Vec<CheckpointId> {
        let mut by_step: Vec<&Kept> = checkpoints.iter().collect();
        by_step.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.step));
        let mut kept: HashSet<CheckpointId> =
            by_step.iter().take(self.last as usize).map(|checkpoint| checkpoint.checkpoint_id).collect();
        for best in &self.best {
            kept.extend(best.of(&by_step));
        }
        if let Some(every) = self.every_steps.filter(|every| *every > 0) {
            let multiples = by_step.iter().filter(|checkpoint| checkpoint.step % every == 0);
            kept.extend(multiples.map(|checkpoint| checkpoint.checkpoint_id));
        }
        let unkept = checkpoints.iter().map(|checkpoint| checkpoint.checkpoint_id).filter(|id| !kept.contains(id));
        unkept.collect()
    }
}

impl KeepBest {
    /// The best of these, latest first; of equals the later is kept.
    fn of(&self, latest_first: &[&Kept]) -> Vec<CheckpointId> {
        let merit = |checkpoint: &Kept| {
            let value = checkpoint.metrics.get(&self.metric).copied().filter(|value| value.is_finite())?;
            Some(if self.direction == Direction::Min { value } else { -value })
        };
        let mut ranked: Vec<(f64, CheckpointId)> =
            latest_first.iter().filter_map(|c| Some((merit(c)?, c.checkpoint_id))).collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.into_iter().take(self.count as usize).map(|(_, id)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn history() -> impl Strategy<Value = Vec<Kept>> {
        prop::collection::btree_map(0..100_i64, prop::option::of(-3..3_i32), 0..30).prop_map(|steps| {
            let of = |(step, loss): (i64, Option<i32>)| Kept {
                checkpoint_id: CheckpointId(Uuid::from_u128(step as u128)),
                step,
                metrics: loss.map(|loss| ("loss".to_owned(), f64::from(loss))).into_iter().collect(),
            };
            steps.into_iter().map(of).collect()
        })
    }

    fn rules() -> impl Strategy<Value = Retention> {
        let best = prop::option::of((1..4_u32, any::<bool>()));
        (0..5_u32, best, prop::option::of(1..20_i64)).prop_map(|(last, best, every_steps)| Retention {
            last,
            best: best
                .map(|(count, least)| KeepBest {
                    count,
                    metric: "loss".into(),
                    direction: if least { Direction::Min } else { Direction::Max },
                })
                .into_iter()
                .collect(),
            every_steps,
        })
    }

    proptest! {
        #[test]
        fn what_is_kept_once_is_kept_again(history in history(), rules in rules()) {
            let unkept: HashSet<CheckpointId> = rules.unkept(&history).into_iter().collect();
            let rest: Vec<Kept> = history.into_iter().filter(|c| !unkept.contains(&c.checkpoint_id)).collect();
            prop_assert_eq!(rules.unkept(&rest), Vec::<CheckpointId>::new());
        }

        #[test]
        fn the_last_the_best_and_the_multiples_are_kept(history in history(), rules in rules()) {
            let unkept: HashSet<CheckpointId> = rules.unkept(&history).into_iter().collect();
            let kept: Vec<&Kept> = history.iter().filter(|c| !unkept.contains(&c.checkpoint_id)).collect();
            prop_assert!(kept.len() >= history.len().min(rules.last as usize));
            if rules.last > 0 && let Some(last) = history.last() {
                prop_assert!(!unkept.contains(&last.checkpoint_id));
            }
            for checkpoint in history.iter().filter(|c| unkept.contains(&c.checkpoint_id)) {
                prop_assert!(rules.every_steps.is_none_or(|every| checkpoint.step % every != 0));
                for best in &rules.best {
                    let sign = if best.direction == Direction::Min { 1.0 } else { -1.0 };
                    let value = |c: &Kept| c.metrics.get("loss").map_or(f64::INFINITY, |loss| sign * loss);
                    let no_worse = kept.iter().filter(|c| value(c) <= value(checkpoint)).count();
                    prop_assert!(value(checkpoint).is_infinite() || no_worse >= best.count as usize);
                }
            }
        }
    }

    #[test]
    fn rules_read_as_they_were_written() {
        let text = r#"{"last":3,"best":[{"count":2,"metric":"loss","direction":"min"}],"every_steps":1000}"#;
        let rules: Retention = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&rules).unwrap(), text);
        assert_eq!(
            rules.unkept(&[Kept { checkpoint_id: CheckpointId(Uuid::nil()), step: 1, metrics: BTreeMap::new() }]),
            []
        );
    }
}
