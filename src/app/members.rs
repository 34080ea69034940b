//! Members of a candidate set: reads the rule's text, finds what it names, lets [`selection::choose`] choose.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;

use super::{AppError, AppResult, aliases::find_named_checkpoint_with};
use crate::{
    db,
    domain::{
        alias::CheckpointName,
        candidate_set::{Among, Candidate, Rule},
        checkpoint_list::Bound,
        ids::{CheckpointId, RunId},
        name::shown,
        problem_code::ProblemCode,
        run::Run,
        selection::{self, Pool},
    },
};

/// The members in the order of the coefficients; `runs` are the set's own and then the others, locked.
pub(super) async fn choose(conn: &mut PgConnection, runs: &[Run], rule: &Rule) -> AppResult<Vec<Candidate>> {
    let run_ids: Vec<RunId> = runs.iter().map(|run| run.run_id).collect();
    match rule {
        Rule::Explicit { checkpoint_ids, checkpoints } if checkpoints.is_empty() => {
            explicit(conn, &run_ids, checkpoint_ids, "checkpoint_ids").await
        }
        Rule::Explicit { checkpoints, .. } => {
            let ids = find_named(conn, runs, checkpoints, "rule.checkpoints").await?;
            explicit(conn, &run_ids, &ids, "checkpoints").await
        }
        _ => by_rule(conn, runs, &run_ids, rule).await,
    }
}

async fn by_rule(conn: &mut PgConnection, runs: &[Run], run_ids: &[RunId], rule: &Rule) -> AppResult<Vec<Candidate>> {
    let everything = Among::default();
    let among = rule.among().unwrap_or(&everything);
    let bounds = Bound::parse_list(among.conditions.as_deref().unwrap_or_default())
        .map_err(|detail| AppError::invalid_field("rule.among.where", detail))?;
    let excluded = find_named(conn, runs, &among.exclude, "rule.among.exclude").await?;
    let (from, to) = rule.steps();
    let choices = db::candidates::list_choices(conn, run_ids, from, to).await?;
    let pool = Pool { choices, excluded: excluded.into_iter().collect(), bounds };
    let ids = selection::choose(rule, pool)
        .map_err(|detail| AppError::fault(ProblemCode::InvalidCandidates, "rule", detail))?;
    Ok(db::candidates::list_candidates(conn, run_ids, &ids).await?)
}

/// The checkpoints of these names: step, id or alias of the set's own run, or `run:step` of another.
async fn find_named(
    conn: &mut PgConnection,
    runs: &[Run],
    names: &[String],
    field: &str,
) -> AppResult<Vec<CheckpointId>> {
    let mut ids = Vec::with_capacity(names.len());
    for (index, text) in names.iter().enumerate() {
        let wrong = |detail| AppError::fault(ProblemCode::InvalidCandidates, format!("{field}[{index}]"), detail);
        let (run, name) = match text.split_once(':') {
            Some((run, name)) => {
                let found = runs.iter().find(|candidate| candidate.name == run || candidate.run_id.to_string() == run);
                (found.ok_or_else(|| wrong(format!("`{}` is none of the set's runs", shown(run))))?, name)
            }
            None => (&runs[0], text.as_str()),
        };
        let parsed = CheckpointName::parse(name).map_err(wrong)?;
        // An id says by itself which run it is from.
        let among = if matches!(parsed, CheckpointName::Id(_)) { runs } else { std::slice::from_ref(run) };
        let found = find_in(conn, among, &parsed).await?;
        let missing = || wrong(format!("the run `{}` has no checkpoint `{}`", run.name, shown(name)));
        ids.push(found.ok_or_else(missing)?);
    }
    Ok(ids)
}

async fn find_in(conn: &mut PgConnection, runs: &[Run], name: &CheckpointName) -> AppResult<Option<CheckpointId>> {
    for run in runs {
        if let Some(found) = find_named_checkpoint_with(conn, run.run_id, name).await? {
            return Ok(Some(found.checkpoint_id));
        }
    }
    Ok(None)
}

async fn explicit(
    conn: &mut PgConnection,
    run_ids: &[RunId],
    ids: &[CheckpointId],
    field: &str,
) -> AppResult<Vec<Candidate>> {
    let found = db::candidates::list_candidates(conn, run_ids, ids).await?;
    let mut by_id: HashMap<CheckpointId, Candidate> = found.into_iter().map(|c| (c.checkpoint_id, c)).collect();
    let mut seen = HashSet::new();
    let mut members = Vec::with_capacity(ids.len());
    for (index, id) in ids.iter().enumerate() {
        let wrong = |detail| AppError::fault(ProblemCode::InvalidCandidates, format!("rule.{field}[{index}]"), detail);
        if !seen.insert(id) {
            return Err(wrong(format!("{id} is given twice")));
        }
        members.push(by_id.remove(id).ok_or_else(|| wrong(format!("the run has no checkpoint {id}")))?);
    }
    Ok(members)
}
