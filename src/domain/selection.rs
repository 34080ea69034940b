//! Which checkpoints a rule chooses. Pure, so that every rule can be tried on any history of a run.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{
    candidate_set::{Among, Direction, MAX_MEMBERS, MIN_MEMBERS, Rule},
    checkpoint_list::Bound,
    ids::CheckpointId,
};

/// Steps that an error names before it stops.
const MOST_NAMED: usize = 10;

/// A checkpoint that a rule may choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The checkpoint.
    pub checkpoint_id: CheckpointId,
    /// Which of the runs it is from: 0 for the set's own.
    pub run: usize,
    /// Its step.
    pub step: i64,
    /// Its metrics.
    pub metrics: BTreeMap<String, f64>,
    /// Its tags.
    pub tags: Vec<String>,
}

impl Choice {
    /// The order of members: by step, at equal steps the set's own run first.
    fn place(&self) -> (i64, usize) {
        (self.step, self.run)
    }
}

/// What a rule may choose from, once its text is read and its names are found.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// The checkpoints of all runs, in any order.
    pub choices: Vec<Choice>,
    /// Checkpoints that take no part.
    pub excluded: HashSet<CheckpointId>,
    /// Conditions on metrics.
    pub bounds: Vec<Bound>,
}

/// The members that a rule chooses, in the order of the coefficients; the error says what it lacks.
///
/// First the filters are applied, then `every` thins what they left, then the rule chooses. An explicit rule chooses nothing
/// here: it names its members.
pub fn choose(rule: &Rule, pool: Pool) -> Result<Vec<CheckpointId>, String> {
    let mut admitted = admitted(rule, pool);
    admitted.sort_by_key(Choice::place);
    if let Some(every) = rule.among().and_then(|among| among.every) {
        admitted = thinned(admitted, every);
    }
    let mut chosen = match rule {
        Rule::Explicit { .. } => Vec::new(),
        Rule::Last { count, .. } => last(admitted, *count as usize)?,
        Rule::Best { count, metric, direction, .. } => best(admitted, *count as usize, metric, *direction)?,
        Rule::Steps { every, .. } => all(thinned(admitted, *every))?,
    };
    chosen.sort_by_key(Choice::place);
    Ok(chosen.into_iter().map(|choice| choice.checkpoint_id).collect())
}

fn admitted(rule: &Rule, pool: Pool) -> Vec<Choice> {
    let everything = Among::default();
    let among = rule.among().unwrap_or(&everything);
    let (from, to) = rule.steps();
    let is_admitted = |choice: &Choice| {
        (from..=to).contains(&choice.step)
            && among.tags.iter().all(|tag| choice.tags.contains(tag))
            && !pool.excluded.contains(&choice.checkpoint_id)
            && pool.bounds.iter().all(|bound| choice.metrics.get(&bound.metric).is_some_and(|v| bound.admits(*v)))
    };
    pool.choices.into_iter().filter(is_admitted).collect()
}

/// Every so-manieth, from the first on.
fn thinned(choices: Vec<Choice>, every: u32) -> Vec<Choice> {
    choices.into_iter().step_by(every.max(1) as usize).collect()
}

fn last(mut choices: Vec<Choice>, count: usize) -> Result<Vec<Choice>, String> {
    if choices.len() < count {
        return Err(format!("needs {count} members; there are {} such checkpoints", choices.len()));
    }
    Ok(choices.split_off(choices.len() - count))
}

fn all(choices: Vec<Choice>) -> Result<Vec<Choice>, String> {
    match choices.len() {
        found if found < MIN_MEMBERS => Err(format!("needs {MIN_MEMBERS} members; there are {found} such checkpoints")),
        found if found > MAX_MEMBERS => Err(format!("chooses {found} members; a set has at most {MAX_MEMBERS}")),
        _ => Ok(choices),
    }
}

/// The best by a finite metric; of equals the later is taken.
fn best(choices: Vec<Choice>, count: usize, metric: &str, direction: Direction) -> Result<Vec<Choice>, String> {
    let value = |choice: &Choice| choice.metrics.get(metric).copied().filter(|value| value.is_finite());
    let (mut with, without): (Vec<_>, Vec<_>) = choices.into_iter().partition(|choice| value(choice).is_some());
    if with.len() < count {
        return Err(lacking(count, metric, &with, &without));
    }
    let merit = |choice: &Choice| match direction {
        Direction::Min => value(choice).unwrap_or(f64::INFINITY),
        Direction::Max => -value(choice).unwrap_or(f64::NEG_INFINITY),
    };
    with.sort_by(|a, b| merit(a).total_cmp(&merit(b)).then_with(|| b.place().cmp(&a.place())));
    with.truncate(count);
    Ok(with)
}

/// Says how many report the metric, which steps lack it, and what is reported instead.
fn lacking(count: usize, metric: &str, with: &[Choice], without: &[Choice]) -> String {
    let text = format!("needs {count} members; {} such checkpoints report the metric `{metric}`", with.len());
    if without.is_empty() {
        return text;
    }
    let steps: Vec<String> = without.iter().take(MOST_NAMED).map(|choice| choice.step.to_string()).collect();
    let more = if without.len() > MOST_NAMED { ", …" } else { "" };
    let text = format!("{text}; {} lack it (steps {}{more})", without.len(), steps.join(", "));
    let others: BTreeSet<&str> = without.iter().flat_map(|choice| choice.metrics.keys().map(String::as_str)).collect();
    if others.is_empty() {
        return text;
    }
    let names: Vec<String> = others.into_iter().take(MOST_NAMED).map(|name| format!("`{name}`")).collect();
    format!("{text} and report {}", names.join(", "))
}

#[cfg(test)]
mod tests;
