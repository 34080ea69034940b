//! Deletion that can be undone: a mark hides a thing at once, [`super::gc`] removes it once the grace is over.
//!
//! Nothing is deleted that something else needs. Whoever makes something needed (a set its members, an alias its target, a
//! job its set) takes the same locks as a deletion, so neither sees the world of a moment ago.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    AppError, AppResult, artifacts,
    candidate_sets::find_candidate_set_with,
    checkpoints::{checkpoint_not_found, find_checkpoint_with},
    jobs,
    runs::find_run_with,
    transaction::{begin, commit},
};
use crate::{
    db::{self, DbError, deletion::Marked},
    domain::{
        ids::{ArtifactId, CandidateSetId, CheckpointId, JobId, RunId},
        name::shown,
        problem_code::ProblemCode,
    },
    state::AppState,
};

/// What was deleted.
#[derive(Clone, Copy, Debug)]
pub struct Deleted {
    /// When it was deleted.
    pub deleted_at: DateTime<Utc>,
    /// Until when it can be undeleted, at least.
    pub kept_until: DateTime<Utc>,
}

fn deleted(state: &AppState, at: DateTime<Utc>) -> Deleted {
    Deleted { deleted_at: at, kept_until: at + state.config.deletion.grace() }
}

fn refuse_used(what: &str, user: Option<String>) -> AppResult<()> {
    match user {
        Some(user) => Err(AppError::refused(ProblemCode::InUse, format!("{what} is needed by {user}"))),
        None => Ok(()),
    }
}

fn refuse_need(what: &str, need: Option<String>) -> AppResult<()> {
    match need {
        Some(need) => {
            let detail = format!("{what} needs {need}, which is deleted; undelete that first");
            Err(AppError::refused(ProblemCode::NeedsDeleted, detail))
        }
        None => Ok(()),
    }
}

/// Refuses to bring something back into a run that is deleted itself.
async fn check_run_is_there(conn: &mut PgConnection, what: &str, run_id: RunId) -> AppResult<()> {
    let run = db::deletion::lock_marked_run(conn, run_id).await?;
    let is_there = run.is_some_and(|run| run.deleted_at.is_none());
    refuse_need(what, (!is_there).then(|| format!("the run {run_id}")))
}

/// Deletes a checkpoint that is neither pinned nor needed.
pub async fn delete_checkpoint(state: &AppState, id: CheckpointId) -> AppResult<Deleted> {
    let now = state.clock.now();
    let mut transaction = begin(state).await?;
    let run_id = find_checkpoint_with(&mut transaction, id).await?.run_id;
    db::runs::lock_run(&mut transaction, run_id).await?;
    if !db::checkpoints::lock_checkpoint(&mut transaction, id).await? {
        return Err(checkpoint_not_found(id));
    }
    let checkpoint = find_checkpoint_with(&mut transaction, id).await?;
    if checkpoint.pinned {
        return Err(AppError::refused(ProblemCode::Pinned, format!("the checkpoint {id} is pinned; unpin it first")));
    }
    let user = db::deletion::find_user_of_checkpoint(&mut transaction, id).await?;
    refuse_used(&format!("the checkpoint {id}"), user)?;
    db::deletion::mark_checkpoint_deleted(&mut transaction, id, now).await?;
    commit(transaction).await?;
    Ok(deleted(state, now))
}

/// Deletes a candidate set that no job needs.
pub async fn delete_candidate_set(state: &AppState, id: CandidateSetId) -> AppResult<Deleted> {
    let now = state.clock.now();
    let mut transaction = begin(state).await?;
    let run_id = find_candidate_set_with(&mut transaction, id).await?.run_id;
    db::runs::lock_run(&mut transaction, run_id).await?;
    db::deletion::lock_candidate_set(&mut transaction, id).await?;
    find_candidate_set_with(&mut transaction, id).await?;
    let user = db::deletion::find_user_of_candidate_set(&mut transaction, id).await?;
    refuse_used(&format!("the candidate set {id}"), user)?;
    db::deletion::mark_candidate_set_deleted(&mut transaction, id, now).await?;
    commit(transaction).await?;
    Ok(deleted(state, now))
}

/// Deletes a job that has ended and whose artifact, if it made one, is deleted.
pub async fn delete_job(state: &AppState, id: JobId) -> AppResult<Deleted> {
    let now = state.clock.now();
    let mut transaction = begin(state).await?;
    let run_id = db::jobs::find(&mut transaction, id).await?.ok_or_else(|| jobs::not_found(id))?.run_id;
    db::runs::lock_run(&mut transaction, run_id).await?;
    let job = db::jobs::lock(&mut transaction, id).await?.ok_or_else(|| jobs::not_found(id))?;
    if !job.state.is_terminal() {
        let detail = format!("the job {id} is {}; cancel it first", job.state.as_str());
        return Err(AppError::refused(ProblemCode::InUse, detail));
    }
    let user = db::deletion::find_user_of_job(&mut transaction, id).await?;
    refuse_used(&format!("the job {id}"), user)?;
    db::deletion::mark_job_deleted(&mut transaction, id, now).await?;
    commit(transaction).await?;
    state.job_tags.forget(id);
    Ok(deleted(state, now))
}

/// Deletes an artifact that no alias names.
pub async fn delete_artifact(state: &AppState, id: ArtifactId) -> AppResult<Deleted> {
    let now = state.clock.now();
    let mut transaction = begin(state).await?;
    let run_id = artifacts::find(&mut transaction, id).await?.run_id;
    db::runs::lock_run(&mut transaction, run_id).await?;
    artifacts::find(&mut transaction, id).await?;
    let user = db::deletion::find_user_of_artifact(&mut transaction, id).await?;
    refuse_used(&format!("the artifact {id}"), user)?;
    db::deletion::mark_artifact_deleted(&mut transaction, id, now).await?;
    commit(transaction).await?;
    Ok(deleted(state, now))
}

/// Deletes a run with all that it has, pinned or not; undeleting it brings back what was deleted with it.
pub async fn delete_run(state: &AppState, run: &str) -> AppResult<Deleted> {
    let now = state.clock.now();
    let mut transaction = begin(state).await?;
    let run_id = find_run_with(&mut transaction, run).await?.run_id;
    db::runs::lock_run(&mut transaction, run_id).await?;
    find_run_with(&mut transaction, run).await?;
    let user = db::deletion::find_user_of_run(&mut transaction, run_id).await?;
    refuse_used(&format!("the run `{}`", shown(run)), user)?;
    db::deletion::mark_run_deleted(&mut transaction, run_id, now).await?;
    commit(transaction).await?;
    Ok(deleted(state, now))
}

/// Brings a deleted checkpoint back; one that is not deleted stays.
pub async fn undelete_checkpoint(state: &AppState, id: CheckpointId) -> AppResult<()> {
    let mut transaction = begin(state).await?;
    let marked = db::deletion::lock_marked_checkpoint(&mut transaction, id).await?;
    let Marked { run_id, .. } = marked.ok_or_else(|| checkpoint_not_found(id))?;
    check_run_is_there(&mut transaction, &format!("the checkpoint {id}"), run_id).await?;
    db::deletion::unmark_checkpoint(&mut transaction, id).await.map_err(|error| {
        on_taken(
            error,
            "checkpoints_run_id_step_key",
            ProblemCode::StepTaken,
            "the run has another checkpoint at its step",
        )
    })?;
    commit(transaction).await
}

fn on_taken(error: DbError, constraint: &str, code: ProblemCode, detail: &str) -> AppError {
    if error.is_constraint(constraint) { AppError::refused(code, detail) } else { error.into() }
}

/// Brings a deleted candidate set back, whose members are all there.
pub async fn undelete_candidate_set(state: &AppState, id: CandidateSetId) -> AppResult<()> {
    let mut transaction = begin(state).await?;
    let missing = || AppError::refused(ProblemCode::CandidateSetNotFound, format!("there is no candidate set {id}"));
    let marked = db::deletion::lock_marked_candidate_set(&mut transaction, id).await?.ok_or_else(missing)?;
    let what = format!("the candidate set {id}");
    check_run_is_there(&mut transaction, &what, marked.run_id).await?;
    refuse_need(&what, db::deletion::find_deleted_need_of_set(&mut transaction, id).await?)?;
    db::deletion::unmark_candidate_set(&mut transaction, id).await?;
    commit(transaction).await
}

/// Brings a deleted job back, whose set is there.
pub async fn undelete_job(state: &AppState, id: JobId) -> AppResult<()> {
    let mut transaction = begin(state).await?;
    let marked = db::deletion::lock_marked_job(&mut transaction, id).await?.ok_or_else(|| jobs::not_found(id))?;
    let what = format!("the job {id}");
    check_run_is_there(&mut transaction, &what, marked.run_id).await?;
    refuse_need(&what, db::deletion::find_deleted_need_of_job(&mut transaction, id).await?)?;
    db::deletion::unmark_job(&mut transaction, id).await?;
    commit(transaction).await
}

/// Brings a deleted artifact back, whose job is there; it no longer expires.
pub async fn undelete_artifact(state: &AppState, id: ArtifactId) -> AppResult<()> {
    let mut transaction = begin(state).await?;
    let marked = db::deletion::lock_marked_artifact(&mut transaction, id).await?;
    let marked = marked.ok_or_else(|| artifacts::not_found(id))?;
    let what = format!("the artifact {id}");
    check_run_is_there(&mut transaction, &what, marked.run_id).await?;
    refuse_need(&what, db::deletion::find_deleted_need_of_artifact(&mut transaction, id).await?)?;
    if marked.deleted_at.is_some() {
        db::deletion::unmark_artifact(&mut transaction, id).await?;
    }
    commit(transaction).await
}

/// Brings a deleted run back with all that was deleted with it; a deleted run has no name, so it is found by id.
pub async fn undelete_run(state: &AppState, id: RunId) -> AppResult<()> {
    let mut transaction = begin(state).await?;
    let missing = || AppError::refused(ProblemCode::RunNotFound, format!("there is no run {id}"));
    let marked = db::deletion::lock_marked_run(&mut transaction, id).await?.ok_or_else(missing)?;
    if let Some(deleted_at) = marked.deleted_at {
        let need = db::deletion::find_deleted_need_of_run(&mut transaction, id, deleted_at).await?;
        refuse_need(&format!("the run {id}"), need)?;
        db::deletion::unmark_run(&mut transaction, id, deleted_at).await.map_err(|error| {
            on_taken(error, db::runs::NAME_KEY, ProblemCode::NameTaken, "another run has its name now")
        })?;
    }
    commit(transaction).await
}
