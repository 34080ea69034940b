//! Aliases: names of a run for one of its checkpoints or artifacts.
//!
//! `latest` is no row. It is the checkpoint of the highest step, so it moves in the same commit that makes a checkpoint
//! visible, after its bytes are durable.

use sqlx::PgConnection;

use super::{
    AppError, AppResult,
    checkpoints::find_checkpoint_with,
    runs::find_run_with,
    transaction::{begin, commit, connection},
};
use crate::{
    db,
    domain::{
        alias::{Alias, CheckpointName, LATEST, Target, check_alias},
        checkpoint::Checkpoint,
        ids::{ArtifactId, RunId},
        name::shown,
        precondition::Precondition,
        problem_code::ProblemCode,
        run::Run,
    },
    state::AppState,
};

const MAX_ALIASES: i64 = 100;

/// What an alias is to name.
#[derive(Clone, Debug)]
pub enum NewTarget {
    /// A checkpoint, by step, id or another alias.
    Checkpoint(String),
    /// An artifact.
    Artifact(ArtifactId),
}

/// Sets an alias, moving it where it is there already.
pub async fn set_alias(
    state: &AppState,
    run: &str,
    alias: &str,
    target: NewTarget,
    precondition: &Precondition,
) -> AppResult<Alias> {
    check_alias(alias).map_err(|detail| AppError::invalid_field("alias", detail))?;
    let mut transaction = begin(state).await?;
    let run = find_run_with(&mut transaction, run).await?;
    db::runs::lock_run(&mut transaction, run.run_id).await?;
    let current = db::aliases::find_alias(&mut transaction, run.run_id, alias).await?;
    check_precondition(alias, current.as_ref(), precondition)?;
    if current.is_none() && db::aliases::count_aliases(&mut transaction, run.run_id).await? >= MAX_ALIASES {
        return Err(AppError::invalid_field("alias", format!("the run has {MAX_ALIASES} aliases already")));
    }
    let target = find_target(&mut transaction, &run, target).await?;
    if let Some(unmoved) = current.filter(|current| current.target == target) {
        return Ok(unmoved);
    }
    let moved = Alias {
        run_id: run.run_id,
        alias: alias.to_owned(),
        target,
        revision_id: state.clock.new_id(),
        moved_at: state.clock.now(),
    };
    db::aliases::save_alias(&mut transaction, &moved).await?;
    commit(transaction).await?;
    Ok(moved)
}

fn check_precondition(alias: &str, current: Option<&Alias>, precondition: &Precondition) -> AppResult<()> {
    let version = current.map(|current| current.revision_id.to_string());
    if precondition.holds(version.as_deref()) {
        return Ok(());
    }
    let detail = format!("the alias `{}` was set, moved or removed by someone else; read it again", shown(alias));
    Err(AppError::refused(ProblemCode::PreconditionFailed, detail))
}

/// The target that a request names; it must be the run's own.
async fn find_target(conn: &mut PgConnection, run: &Run, target: NewTarget) -> AppResult<Target> {
    match target {
        NewTarget::Checkpoint(name) => {
            let wrong = |detail| AppError::invalid_field("checkpoint", detail);
            let parsed = CheckpointName::parse(&name).map_err(wrong)?;
            let found = find_named_checkpoint_with(conn, run.run_id, &parsed).await?;
            let found = found.ok_or_else(|| wrong(format!("the run has no checkpoint `{}`", shown(&name))))?;
            Ok(Target::Checkpoint(found.checkpoint_id))
        }
        NewTarget::Artifact(id) => match db::artifacts::find(conn, id).await? {
            Some(found) if found.run_id == run.run_id => Ok(Target::Artifact(id)),
            _ => Err(AppError::invalid_field("artifact_id", format!("the run has no artifact {id}"))),
        },
    }
}

/// Removes an alias; what it named stays.
pub async fn remove_alias(state: &AppState, run: &str, alias: &str, precondition: &Precondition) -> AppResult<()> {
    if alias == LATEST {
        return Err(AppError::invalid_field("alias", "moves by itself with the highest step"));
    }
    let mut transaction = begin(state).await?;
    let run = find_run_with(&mut transaction, run).await?;
    db::runs::lock_run(&mut transaction, run.run_id).await?;
    let current = db::aliases::find_alias(&mut transaction, run.run_id, alias).await?;
    check_precondition(alias, current.as_ref(), precondition)?;
    if current.is_none() {
        return Err(alias_not_found(&run.name, alias));
    }
    db::aliases::delete_alias(&mut transaction, run.run_id, alias).await?;
    commit(transaction).await
}

fn alias_not_found(run: &str, alias: &str) -> AppError {
    let detail = format!("the run `{}` has no alias `{}`", shown(run), shown(alias));
    AppError::refused(ProblemCode::AliasNotFound, detail)
}

/// What an alias names now.
pub async fn find_alias(state: &AppState, run: &str, alias: &str) -> AppResult<Alias> {
    let mut conn = connection(state).await?;
    let run = find_run_with(&mut conn, run).await?;
    let found = match alias {
        LATEST => db::checkpoints::find_latest_checkpoint(&mut conn, run.run_id).await?.as_ref().map(latest),
        _ => db::aliases::find_alias(&mut conn, run.run_id, alias).await?,
    };
    found.ok_or_else(|| alias_not_found(&run.name, alias))
}

/// Every alias of a run: `latest`, then the others by name.
pub async fn list_aliases(state: &AppState, run: &str) -> AppResult<Vec<Alias>> {
    let mut conn = connection(state).await?;
    let run_id = find_run_with(&mut conn, run).await?.run_id;
    let newest = db::checkpoints::find_latest_checkpoint(&mut conn, run_id).await?;
    let own = db::aliases::list_aliases(&mut conn, run_id).await?;
    Ok(newest.as_ref().map(latest).into_iter().chain(own).collect())
}

/// The alias that moves by itself; its version is the checkpoint's id.
fn latest(checkpoint: &Checkpoint) -> Alias {
    Alias {
        run_id: checkpoint.run_id,
        alias: LATEST.to_owned(),
        target: Target::Checkpoint(checkpoint.checkpoint_id),
        revision_id: checkpoint.checkpoint_id.0,
        moved_at: checkpoint.created_at,
    }
}

/// The checkpoint that a step, an id or an alias of a run names.
pub async fn find_named_checkpoint(state: &AppState, run: &str, name: &str) -> AppResult<Checkpoint> {
    let name = CheckpointName::parse(name).map_err(|detail| AppError::invalid_field("step", detail))?;
    let mut conn = connection(state).await?;
    let run = find_run_with(&mut conn, run).await?;
    find_named_checkpoint_with(&mut conn, run.run_id, &name).await?.ok_or_else(|| match name {
        CheckpointName::Alias(alias) => alias_not_found(&run.name, &alias),
        CheckpointName::Step(step) => missing(&run.name, &format!("at step {step}")),
        CheckpointName::Id(id) => missing(&run.name, &format!("{id}")),
        CheckpointName::Latest => missing(&run.name, "yet"),
    })
}

fn missing(run: &str, which: &str) -> AppError {
    AppError::refused(ProblemCode::CheckpointNotFound, format!("the run `{run}` has no checkpoint {which}"))
}

/// As [`find_named_checkpoint`], on a connection at hand; `None` where nothing has that name, or something that is no
/// checkpoint.
pub(super) async fn find_named_checkpoint_with(
    conn: &mut PgConnection,
    run_id: RunId,
    name: &CheckpointName,
) -> AppResult<Option<Checkpoint>> {
    Ok(match name {
        CheckpointName::Step(step) => db::checkpoints::find_checkpoint_at(conn, run_id, *step).await?,
        CheckpointName::Latest => db::checkpoints::find_latest_checkpoint(conn, run_id).await?,
        CheckpointName::Id(id) => {
            db::checkpoints::find_checkpoint(conn, *id).await?.filter(|found| found.run_id == run_id)
        }
        CheckpointName::Alias(alias) => match db::aliases::find_alias(conn, run_id, alias).await?.map(|a| a.target) {
            Some(Target::Checkpoint(id)) => Some(find_checkpoint_with(conn, id).await?),
            Some(Target::Artifact(_)) | None => None,
        },
    })
}
