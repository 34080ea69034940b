//! Candidate sets.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    AppError, AppResult,
    checkpoints::find_layout,
    idempotency::{self, IdempotentRequest, Reply},
    runs::find_run_with,
    transaction::{begin, commit, connection},
};
use crate::{
    db,
    domain::{
        candidate_set::{Candidate, CandidateSet, MAX_MEMBERS, MIN_MEMBERS, Rule},
        ids::{CandidateSetId, CheckpointId, RunId},
        layout::first_difference,
        name::{check_text, check_word},
        page::{PageRequest, Paged},
        problem_code::ProblemCode,
    },
    state::AppState,
};

/// A set to freeze.
#[derive(Clone, Debug)]
pub struct NewCandidateSet {
    /// Name, for people.
    pub name: Option<String>,
    /// How the members are chosen.
    pub rule: Rule,
}

impl NewCandidateSet {
    fn check(&self) -> AppResult<()> {
        check_text(self.name.as_deref().unwrap_or_default())
            .map_err(|detail| AppError::invalid_field("name", detail))?;
        match &self.rule {
            Rule::Explicit { checkpoint_ids } => check_count("rule.checkpoint_ids", checkpoint_ids.len()),
            Rule::Last { count } => check_count("rule.count", *count as usize),
            Rule::Best { count, metric, .. } => {
                check_word(metric).map_err(|detail| AppError::invalid_field("rule.metric", detail))?;
                check_count("rule.count", *count as usize)
            }
            Rule::Steps { from, to, .. } if from > to => {
                Err(AppError::invalid_field("rule.to", format!("is below `from`: {to} < {from}")))
            }
            Rule::Steps { every: 0, .. } => Err(AppError::invalid_field("rule.every", "must be at least 1")),
            Rule::Steps { .. } => Ok(()),
        }
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
    let run_id = find_run_with(&mut transaction, run).await?.run_id;
    let members = choose(&mut transaction, run_id, &new.rule).await?;
    let set = CandidateSet {
        candidate_set_id: CandidateSetId(state.clock.new_id()),
        run_id,
        name: new.name,
        rule: new.rule,
        layout_blake3: common_layout(&mut transaction, &members).await?,
        members,
        created_at: now,
    };
    db::candidate_sets::insert_candidate_set(&mut transaction, &set).await?;
    let reply = render(set)?;
    idempotency::record(&mut transaction, request, &reply).await?;
    commit(transaction).await?;
    Ok(reply)
}

/// The members in the order of the coefficients.
async fn choose(conn: &mut PgConnection, run_id: RunId, rule: &Rule) -> AppResult<Vec<Candidate>> {
    let (mut members, wanted) = match rule {
        Rule::Explicit { checkpoint_ids } => return choose_explicit(conn, run_id, checkpoint_ids).await,
        Rule::Last { count } => (db::candidates::list_last_candidates(conn, run_id, *count).await?, *count as usize),
        Rule::Best { count, metric, direction } => {
            let best = db::candidates::list_best_candidates(conn, run_id, metric, *direction, *count).await?;
            (best, *count as usize)
        }
        Rule::Steps { from, to, every } => {
            let limit = MAX_MEMBERS + 1;
            let chosen = db::candidates::list_candidates_in_steps(conn, run_id, *from, *to, *every, limit).await?;
            (chosen, MIN_MEMBERS)
        }
    };
    members.sort_by_key(|member| member.step);
    check_found(rule, members.len(), wanted)?;
    Ok(members)
}

fn check_found(rule: &Rule, found: usize, wanted: usize) -> AppResult<()> {
    let of_what = match rule {
        Rule::Best { metric, .. } => format!("checkpoints with the metric `{metric}`"),
        Rule::Steps { from, to, .. } => format!("such checkpoints from step {from} to {to}"),
        Rule::Last { .. } | Rule::Explicit { .. } => "checkpoints".to_owned(),
    };
    if found < wanted {
        let detail = format!("needs {wanted} members; the run has {found} {of_what}");
        return Err(AppError::fault(ProblemCode::InvalidCandidates, "rule", detail));
    }
    if found > MAX_MEMBERS {
        let detail = format!("chooses more than {MAX_MEMBERS} members");
        return Err(AppError::fault(ProblemCode::InvalidCandidates, "rule", detail));
    }
    Ok(())
}

async fn choose_explicit(
    conn: &mut PgConnection,
    run_id: RunId,
    checkpoint_ids: &[CheckpointId],
) -> AppResult<Vec<Candidate>> {
    let ids: Vec<Uuid> = checkpoint_ids.iter().map(|id| id.0).collect();
    let found = db::candidates::list_candidates_by_id(conn, run_id, &ids).await?;
    let mut by_id: HashMap<CheckpointId, Candidate> = found.into_iter().map(|c| (c.checkpoint_id, c)).collect();
    let mut seen = HashSet::new();
    let mut members = Vec::with_capacity(checkpoint_ids.len());
    for (index, id) in checkpoint_ids.iter().enumerate() {
        let field = format!("rule.checkpoint_ids[{index}]");
        if !seen.insert(id) {
            return Err(AppError::fault(ProblemCode::InvalidCandidates, field, format!("{id} is given twice")));
        }
        let member = by_id.remove(id).ok_or_else(|| {
            AppError::fault(ProblemCode::InvalidCandidates, field, format!("the run has no checkpoint {id}"))
        })?;
        members.push(member);
    }
    Ok(members)
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

/// A page of a run's sets, newest first.
pub async fn list_candidate_sets(state: &AppState, run: &str, page: PageRequest) -> AppResult<Paged<CandidateSet>> {
    let mut conn = connection(state).await?;
    let run_id = find_run_with(&mut conn, run).await?.run_id;
    let rows = db::candidate_sets::list_candidate_sets(&mut conn, run_id, page).await?;
    Ok(page.cut(rows, |set| set.candidate_set_id.0))
}
