//! Candidate sets.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    AppError, AppResult,
    checkpoints::find_layout,
    idempotency::{self, IdempotentRequest, Reply},
    members,
    runs::find_run_with,
    transaction::{begin, commit, connection},
};
use crate::{
    db,
    domain::{
        candidate_set::{Among, Candidate, CandidateSet, MAX_MEMBERS, MIN_MEMBERS, Rule},
        ids::{CandidateSetId, RunId},
        layout::first_difference,
        name::{MAX_NAME_CHARS, Reference, check_text, check_word, shown},
        page::{PageRequest, Paged},
        problem_code::ProblemCode,
        run::Run,
        set_diff::{Diff, diff},
    },
    state::AppState,
};

const MAX_OTHER_RUNS: usize = 32;

/// A set to freeze.
#[derive(Clone, Debug)]
pub struct NewCandidateSet {
    /// Name, for people.
    pub name: Option<String>,
    /// How the members are chosen.
    pub rule: Rule,
    /// Further runs whose checkpoints take part, by id or name.
    pub other_runs: Vec<String>,
}

impl NewCandidateSet {
    fn check(&self) -> AppResult<()> {
        if let Some(name) = &self.name {
            check_set_name(name).map_err(|detail| AppError::invalid_field("name", detail))?;
        }
        if self.other_runs.len() > MAX_OTHER_RUNS {
            return Err(AppError::invalid_field("other_runs", format!("names more than {MAX_OTHER_RUNS} runs")));
        }
        check_rule(&self.rule)
    }
}

fn check_set_name(name: &str) -> Result<(), String> {
    match name.chars().count() {
        0 => Err("is empty".to_owned()),
        1..=MAX_NAME_CHARS => check_text(name),
        _ => Err(format!("is longer than {MAX_NAME_CHARS} characters")),
    }
}

fn check_rule(rule: &Rule) -> AppResult<()> {
    match rule {
        Rule::Explicit { checkpoint_ids, checkpoints } if !checkpoint_ids.is_empty() && !checkpoints.is_empty() => {
            Err(AppError::invalid_field("rule.checkpoints", "stands beside `checkpoint_ids`; give one of the two"))
        }
        Rule::Explicit { checkpoint_ids, checkpoints } if checkpoints.is_empty() => {
            check_count("rule.checkpoint_ids", checkpoint_ids.len())
        }
        Rule::Explicit { checkpoints, .. } => check_count("rule.checkpoints", checkpoints.len()),
        Rule::Last { count, .. } => check_count("rule.count", *count as usize),
        Rule::Best { count, metric, .. } => {
            check_word(metric).map_err(|detail| AppError::invalid_field("rule.metric", detail))?;
            check_count("rule.count", *count as usize)
        }
        Rule::Steps { from, to: Some(to), .. } if from > to => {
            Err(AppError::invalid_field("rule.to", format!("is below `from`: {to} < {from}")))
        }
        Rule::Steps { every: 0, .. } => Err(AppError::invalid_field("rule.every", "must be at least 1")),
        Rule::Steps { .. } => Ok(()),
    }?;
    rule.among().map_or(Ok(()), check_among)
}

fn check_among(among: &Among) -> AppResult<()> {
    if let (Some(from), Some(to)) = (among.from, among.to)
        && from > to
    {
        return Err(AppError::invalid_field("rule.among.to", format!("is below `from`: {to} < {from}")));
    }
    if among.every == Some(0) {
        return Err(AppError::invalid_field("rule.among.every", "must be at least 1"));
    }
    if among.exclude.len() > MAX_MEMBERS {
        return Err(AppError::invalid_field("rule.among.exclude", format!("names more than {MAX_MEMBERS}")));
    }
    let tag = among.tags.iter().enumerate().find_map(|(index, tag)| Some((index, check_word(tag).err()?)));
    match tag {
        Some((index, detail)) => Err(AppError::invalid_field(format!("rule.among.tags[{index}]"), detail)),
        None => Ok(()),
    }
}

fn check_count(field: &str, count: usize) -> AppResult<()> {
    if (MIN_MEMBERS..=MAX_MEMBERS).contains(&count) {
        return Ok(());
    }
    Err(AppError::invalid_field(field, format!("asks for {count} members; a set has {MIN_MEMBERS} to {MAX_MEMBERS}")))
}

/// Chooses the members by the rule, once, and freezes them; `render` writes the reply that an idempotency key repeats.
pub async fn create_candidate_set(
    state: &AppState,
    run: &str,
    new: NewCandidateSet,
    request: Option<&IdempotentRequest>,
    render: impl FnOnce(CandidateSet) -> AppResult<Reply>,
) -> AppResult<Reply> {
    new.check()?;
    let now = state.clock.now();
    let mut transaction = begin(state).await?;
    if let Some(reply) = idempotency::replay(&mut transaction, request, now).await? {
        return Ok(reply);
    }
    let set = freeze(state, &mut transaction, run, new, now).await?;
    let reply = render(set)?;
    idempotency::record(&mut transaction, request, &reply).await?;
    commit(transaction).await?;
    Ok(reply)
}

/// Chooses the members of a sound set and freezes them, in a transaction at hand; the runs are locked until it ends.
pub(super) async fn freeze(
    state: &AppState,
    conn: &mut PgConnection,
    run: &str,
    new: NewCandidateSet,
    now: DateTime<Utc>,
) -> AppResult<CandidateSet> {
    let runs = find_runs(conn, run, &new.other_runs).await?;
    let members = members::choose(conn, &runs, &new.rule).await?;
    let layout_blake3 = common_layout(conn, &members).await?;
    let set = CandidateSet {
        candidate_set_id: CandidateSetId(state.clock.new_id()),
        run_id: runs[0].run_id,
        other_run_ids: runs[1..].iter().map(|run| run.run_id).collect(),
        version: next_version(conn, runs[0].run_id, new.name.as_deref()).await?,
        name: new.name,
        rule: new.rule,
        layout_blake3,
        members,
        created_at: now,
    };
    db::candidate_sets::insert_candidate_set(conn, &set).await?;
    Ok(set)
}

/// The set's own run, then the others.
async fn find_runs(conn: &mut PgConnection, own: &str, others: &[String]) -> AppResult<Vec<Run>> {
    let mut runs = vec![find_run_with(conn, own).await?];
    for (index, other) in others.iter().enumerate() {
        let field = format!("other_runs[{index}]");
        let found = match Reference::parse(other) {
            Some(reference) => db::runs::find_run(conn, reference).await?,
            None => None,
        };
        let found =
            found.ok_or_else(|| AppError::invalid_field(&field, format!("there is no run `{}`", shown(other))))?;
        if runs.iter().any(|run| run.run_id == found.run_id) {
            return Err(AppError::invalid_field(field, format!("the run `{}` is given twice", found.name)));
        }
        runs.push(found);
    }
    // Two sets of one name at the same moment must not get the same version; nor may a member be deleted meanwhile.
    let mut ids: Vec<RunId> = runs.iter().map(|run| run.run_id).collect();
    ids.sort();
    for run_id in ids {
        db::runs::lock_run(conn, run_id).await?;
    }
    Ok(runs)
}

async fn next_version(conn: &mut PgConnection, run_id: RunId, name: Option<&str>) -> AppResult<u32> {
    match name {
        Some(name) => Ok(db::candidate_sets::find_last_version(conn, run_id, name).await? + 1),
        None => Ok(1),
    }
}

/// The layout that all members share; refuses others, naming the first tensor that differs.
async fn common_layout(conn: &mut PgConnection, members: &[Candidate]) -> AppResult<String> {
    let Some((first, others)) = members.split_first() else {
        return Err(AppError::internal("a rule chose no member and was not refused"));
    };
    let Some(other) = others.iter().find(|member| member.layout_blake3 != first.layout_blake3) else {
        return Ok(first.layout_blake3.clone());
    };
    let expected = find_layout(conn, &first.layout_blake3).await?;
    let found = find_layout(conn, &other.layout_blake3).await?;
    let reference = format!("the checkpoint at step {}", first.step);
    let difference = first_difference(&expected, &found, &reference)
        .ok_or_else(|| AppError::internal("two layouts differ in digest and in nothing else"))?;
    let detail = format!("in the checkpoint at step {} {}", other.step, difference.detail);
    Err(AppError::fault(ProblemCode::LayoutDiffers, difference.tensor, detail))
}

/// A set by id.
pub async fn find_candidate_set(state: &AppState, id: CandidateSetId) -> AppResult<CandidateSet> {
    let mut conn = connection(state).await?;
    find_candidate_set_with(&mut conn, id).await
}

/// A set by id, on a connection at hand.
pub async fn find_candidate_set_with(conn: &mut PgConnection, id: CandidateSetId) -> AppResult<CandidateSet> {
    let found = db::candidate_sets::find_candidate_set(conn, id).await?;
    found.ok_or_else(|| AppError::refused(ProblemCode::CandidateSetNotFound, format!("there is no candidate set {id}")))
}

/// Two sets and what changed from the first to the second.
pub async fn diff_candidate_sets(
    state: &AppState,
    from: CandidateSetId,
    to: CandidateSetId,
) -> AppResult<(CandidateSet, CandidateSet, Diff)> {
    let mut conn = connection(state).await?;
    let from = find_candidate_set_with(&mut conn, from).await?;
    let to = find_candidate_set_with(&mut conn, to).await?;
    let ids = |set: &CandidateSet| set.members.iter().map(|member| member.checkpoint_id).collect::<Vec<_>>();
    let diff = diff(&ids(&from), &ids(&to));
    Ok((from, to, diff))
}

/// A page of a run's sets, newest first; with a name, the versions of that name.
pub async fn list_candidate_sets(
    state: &AppState,
    run: &str,
    name: Option<&str>,
    page: PageRequest,
) -> AppResult<Paged<CandidateSet>> {
    let mut conn = connection(state).await?;
    let run_id = find_run_with(&mut conn, run).await?.run_id;
    let rows = db::candidate_sets::list_candidate_sets(&mut conn, run_id, name, page).await?;
    Ok(page.cut(rows, |set| set.candidate_set_id.0))
}
