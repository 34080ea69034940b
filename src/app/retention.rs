//! Retention: rules of a run that say which checkpoints are kept. What they do not keep is deleted as if by hand: hidden at
//! once, undeletable for the grace, then collected.

use sqlx::PgConnection;

use super::{
    AppError, AppResult,
    runs::find_run_with,
    transaction::{begin, commit, connection},
};
use crate::{
    db::{self, retention::Doomed},
    domain::{
        ids::{CheckpointId, RunId},
        name::check_word,
        retention::Retention,
    },
    state::AppState,
};

const MAX_BEST: usize = 16;

/// What rules would delete.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The rules.
    pub rules: Retention,
    /// The checkpoints that would go, by step.
    pub doomed: Vec<Doomed>,
    /// Bytes that would be free once they are collected; a file that several checkpoints share counts once, one that
    /// anything else needs does not.
    pub freed_bytes: u64,
}

/// Sets the rules of a run. They are applied by the next collection.
pub async fn set_retention(state: &AppState, run: &str, rules: Retention) -> AppResult<Retention> {
    check(&rules)?;
    let mut transaction = begin(state).await?;
    let run_id = find_run_with(&mut transaction, run).await?.run_id;
    db::retention::save_retention(&mut transaction, run_id, Some(&rules)).await?;
    commit(transaction).await?;
    Ok(rules)
}

fn check(rules: &Retention) -> AppResult<()> {
    if *rules == Retention::default() {
        return Err(AppError::invalid_field(
            "last",
            "no rule keeps anything; give one, or delete the rules to keep all",
        ));
    }
    if rules.every_steps.is_some_and(|every| every < 1) {
        return Err(AppError::invalid_field("every_steps", "must be at least 1"));
    }
    if rules.best.len() > MAX_BEST {
        return Err(AppError::invalid_field("best", format!("holds more than {MAX_BEST} rules")));
    }
    for (index, best) in rules.best.iter().enumerate() {
        let field = |name: &str| format!("best[{index}].{name}");
        check_word(&best.metric).map_err(|detail| AppError::invalid_field(field("metric"), detail))?;
        if best.count == 0 {
            return Err(AppError::invalid_field(field("count"), "must be at least 1"));
        }
    }
    Ok(())
}

/// The rules of a run; `None` where it keeps everything.
pub async fn find_retention(state: &AppState, run: &str) -> AppResult<Option<Retention>> {
    let mut conn = connection(state).await?;
    let run_id = find_run_with(&mut conn, run).await?.run_id;
    Ok(db::retention::find_retention(&mut conn, run_id).await?)
}

/// Removes the rules of a run: it keeps everything from now on.
pub async fn remove_retention(state: &AppState, run: &str) -> AppResult<()> {
    let mut transaction = begin(state).await?;
    let run_id = find_run_with(&mut transaction, run).await?.run_id;
    db::retention::save_retention(&mut transaction, run_id, None).await?;
    commit(transaction).await
}

/// What the rules of a run, or others that are only tried, would delete now.
pub async fn preview(state: &AppState, run: &str, tried: Option<Retention>) -> AppResult<Preview> {
    if let Some(rules) = &tried {
        check(rules)?;
    }
    let mut transaction = begin(state).await?;
    let run_id = find_run_with(&mut transaction, run).await?.run_id;
    let rules = match tried {
        Some(rules) => Some(rules),
        None => db::retention::find_retention(&mut transaction, run_id).await?,
    };
    let Some(rules) = rules else {
        return Ok(Preview { rules: Retention::default(), doomed: Vec::new(), freed_bytes: 0 });
    };
    let ids = find_doomed(&mut transaction, run_id, &rules).await?;
    let doomed = db::retention::list_doomed(&mut transaction, &ids).await?;
    let freed_bytes = db::retention::count_freed_bytes(&mut transaction, &ids).await?;
    Ok(Preview { rules, doomed, freed_bytes })
}

async fn find_doomed(conn: &mut PgConnection, run_id: RunId, rules: &Retention) -> AppResult<Vec<CheckpointId>> {
    let unkept = rules.unkept(&db::retention::list_kept(conn, run_id).await?);
    Ok(db::retention::lock_unneeded(conn, &unkept).await?)
}

/// Applies the rules of every run that has any; returns how many checkpoints were deleted.
pub(super) async fn apply_everywhere(state: &AppState) -> AppResult<usize> {
    let mut conn = connection(state).await?;
    let run_ids = db::retention::list_runs_with_retention(&mut conn).await?;
    drop(conn);
    let mut deleted = 0;
    for run_id in run_ids {
        deleted += apply(state, run_id).await?;
    }
    Ok(deleted)
}

async fn apply(state: &AppState, run_id: RunId) -> AppResult<usize> {
    let mut transaction = begin(state).await?;
    db::runs::lock_run(&mut transaction, run_id).await?;
    let Some(rules) = db::retention::find_retention(&mut transaction, run_id).await? else { return Ok(0) };
    let doomed = find_doomed(&mut transaction, run_id, &rules).await?;
    if doomed.is_empty() {
        return Ok(0);
    }
    db::retention::mark_deleted(&mut transaction, &doomed, state.clock.now()).await?;
    commit(transaction).await?;
    tracing::info!(run.id = %run_id, checkpoints.deleted = doomed.len(), "applied the retention rules of a run");
    Ok(doomed.len())
}
