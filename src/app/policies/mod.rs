//! Policies: standing rules of runs that average again and again.
//!
//! A policy counts the checkpoints of its run. Once there are enough, [`begin`] freezes a candidate set and queues a job, which is
//! a refresh; when the job has ended, [`outcome`] compares what it came to with the best refresh before and moves the alias. Both
//! are decided under the lock of the run, so any number of servers may look at the same time.

mod begin;
mod outcome;

use std::time::Duration;

use barycenter_api::{Policy, PolicyMetric, PolicyRefresh, RefreshState as WireState, SetPolicy};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use super::{
    AppError, AppResult,
    runs::find_run_with,
    spec::{self, Expected},
    transaction::{begin, commit, connection},
};
use crate::{
    db::{
        self, DbError,
        policies::PolicyRow,
        policy_refreshes::{Reached, Which},
    },
    domain::{
        alias::check_alias,
        candidate_set::{MAX_MEMBERS, MIN_MEMBERS},
        page::{PageRequest, Paged},
        policy::{Refresh, RefreshState},
        precondition::Precondition,
        problem_code::ProblemCode,
        run::Run,
    },
    state::AppState,
};

/// How often the policies are looked at although nothing woke the server.
const POLL_EVERY: Duration = Duration::from_secs(2);
const MAX_EVERY: u32 = 10_000;

/// Looks at the policies now, whenever a checkpoint was counted or a job has ended, and every few seconds, until told to stop.
pub async fn run(state: AppState, stop: CancellationToken) {
    let mut changes = state.jobs_changed.subscribe();
    loop {
        if let Err(error) = round(&state).await {
            tracing::warn!(error = ?error, "policies could not be looked at");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = state.jobs_changed.policy_counted() => {}
            () = changes.changed(POLL_EVERY, |change| change.state.is_terminal()) => {}
        }
    }
}

/// One round: tells the outcome of every refresh whose job has ended, then begins every one that is due. What fails of one run keeps
/// no other from its turn.
pub async fn round(state: &AppState) -> AppResult<()> {
    let ended = db::policies::list_ended(&mut *connection(state).await?).await?;
    for run_id in ended {
        if let Err(error) = outcome::tell(state, run_id).await {
            tracing::warn!(run.id = %run_id, error = ?error, "the outcome of a refresh could not be told");
        }
    }
    let due = db::policies::list_due(&mut *connection(state).await?).await?;
    for run_id in due {
        if let Err(error) = begin::begin_refresh(state, run_id).await {
            tracing::warn!(run.id = %run_id, error = ?error, "a refresh could not begin");
        }
    }
    Ok(())
}

/// Sets the policy of a run. One that says what the one before said changes nothing.
pub async fn set_policy(state: &AppState, run: &str, set: SetPolicy, precondition: &Precondition) -> AppResult<Policy> {
    check(&set)?;
    let mut transaction = begin(state).await?;
    let run = lock_run(&mut transaction, run).await?;
    let current = db::policies::find_policy(&mut transaction, run.run_id).await?;
    check_precondition(&run, current.as_ref(), precondition)?;
    let latest = db::checkpoints::find_latest_checkpoint(&mut transaction, run.run_id).await?;
    let expected = Expected {
        count: set.window.last as usize,
        layout_blake3: latest.map(|checkpoint| checkpoint.layout_blake3),
        run_id: run.run_id,
    };
    let job = spec::resolve_template(&mut transaction, set.job, &expected).await?;
    let set = SetPolicy { job, ..set };
    let before = current.as_ref().map(read).transpose()?;
    if let Some(current) = current.as_ref().filter(|_| before.as_ref() == Some(&set)) {
        return to_wire(current);
    }
    let row = changed(state, &run, &set, current.zip(before))?;
    db::policies::save_policy(&mut transaction, &row).await?;
    commit(transaction).await?;
    to_wire(&row)
}

/// The policy as it is stored after a change: what it has counted and found stays, refreshes without improvement are counted anew,
/// and another target can be reached anew.
fn changed(
    state: &AppState,
    run: &Run,
    set: &SetPolicy,
    before: Option<(PolicyRow, SetPolicy)>,
) -> AppResult<PolicyRow> {
    let new = PolicyRow {
        run_id: run.run_id,
        every: set.every.into(),
        enabled: set.enabled,
        spec: serde_json::to_value(set).map_err(AppError::internal)?,
        revision_id: state.clock.new_id(),
        new_checkpoints: 0,
        without_improvement: 0,
        target_reached_at: None,
        best_number: None,
        created_at: state.clock.now(),
    };
    let Some((current, before)) = before else { return Ok(new) };
    Ok(PolicyRow {
        new_checkpoints: current.new_checkpoints,
        target_reached_at: current.target_reached_at.filter(|_| before.target == set.target),
        best_number: current.best_number,
        created_at: current.created_at,
        ..new
    })
}

fn check(set: &SetPolicy) -> AppResult<()> {
    if !(1..=MAX_EVERY).contains(&set.every) {
        return Err(AppError::invalid_field("every", format!("must be 1 to {MAX_EVERY}, not {}", set.every)));
    }
    let last = set.window.last;
    if !(MIN_MEMBERS..=MAX_MEMBERS).contains(&(last as usize)) {
        let detail = format!("must be {MIN_MEMBERS} to {MAX_MEMBERS}, not {last}");
        return Err(AppError::invalid_field("window.last", detail));
    }
    if !(set.improvement.is_finite() && set.improvement >= 0.0) {
        return Err(AppError::invalid_field("improvement", format!("must be at least 0, not {}", set.improvement)));
    }
    check_alias(&set.alias).map_err(|detail| AppError::invalid_field("alias", detail))?;
    if set.patience == Some(0) {
        return Err(AppError::invalid_field("patience", "must be at least 1"));
    }
    if set.target.is_some_and(|target| !target.below.is_finite()) {
        return Err(AppError::invalid_field("target.below", "must be a finite number"));
    }
    let tests = set.target.is_some_and(|target| target.metric == PolicyMetric::TestLoss);
    if tests && set.job.data.test.is_none() {
        return Err(AppError::invalid_field("target.metric", "`test_loss` needs `job.data.test`"));
    }
    Ok(())
}

/// The run that a path names, locked for the rest of the transaction.
async fn lock_run(conn: &mut PgConnection, run: &str) -> AppResult<Run> {
    let found = find_run_with(conn, run).await?;
    db::runs::lock_run(conn, found.run_id).await?;
    // Read again under the lock: it may have been deleted in between.
    find_run_with(conn, &found.run_id.to_string()).await
}

fn check_precondition(run: &Run, current: Option<&PolicyRow>, precondition: &Precondition) -> AppResult<()> {
    let version = current.map(|current| current.revision_id.to_string());
    if precondition.holds(version.as_deref()) {
        return Ok(());
    }
    let detail =
        format!("the policy of the run `{}` was set, changed or removed by someone else; read it again", run.name);
    Err(AppError::refused(ProblemCode::PreconditionFailed, detail))
}

fn not_found(run: &Run) -> AppError {
    AppError::refused(ProblemCode::PolicyNotFound, format!("the run `{}` has no policy", run.name))
}

/// The policy of a run.
pub async fn find_policy(state: &AppState, run: &str) -> AppResult<Policy> {
    let mut conn = connection(state).await?;
    let run = find_run_with(&mut conn, run).await?;
    let row = db::policies::find_policy(&mut conn, run.run_id).await?;
    to_wire(&row.ok_or_else(|| not_found(&run))?)
}

/// Removes the policy of a run. A refresh on its way is abandoned: its job goes on, and moves nothing. What was refreshed stays.
pub async fn remove_policy(state: &AppState, run: &str, precondition: &Precondition) -> AppResult<()> {
    let mut transaction = begin(state).await?;
    let run = lock_run(&mut transaction, run).await?;
    let current = db::policies::find_policy(&mut transaction, run.run_id).await?;
    check_precondition(&run, current.as_ref(), precondition)?;
    current.ok_or_else(|| not_found(&run))?;
    if let Some(running) = db::policy_refreshes::find_refresh(&mut transaction, run.run_id, Which::Running).await? {
        let finished_at = Some(state.clock.now());
        let abandoned = Refresh { state: RefreshState::Abandoned, finished_at, ..running };
        db::policy_refreshes::mark_ended(&mut transaction, &abandoned, Reached::default()).await?;
    }
    db::policies::delete_policy(&mut transaction, run.run_id).await?;
    db::policy_refreshes::delete_select_losses(&mut transaction, run.run_id, None).await?;
    commit(transaction).await
}

/// A page of the refreshes of a run, newest first; those of policies before the present one too.
pub async fn list_refreshes(state: &AppState, run: &str, page: PageRequest) -> AppResult<Paged<PolicyRefresh>> {
    let mut conn = connection(state).await?;
    let run_id = find_run_with(&mut conn, run).await?.run_id;
    let rows = db::policy_refreshes::list_refreshes(&mut conn, run_id, page).await?;
    let Paged { items, next } = page.cut(rows, |refresh| refresh.refresh_id);
    Ok(Paged { items: items.into_iter().map(refresh_to_wire).collect(), next })
}

/// What was set.
fn read(row: &PolicyRow) -> AppResult<SetPolicy> {
    serde_json::from_value(row.spec.clone()).map_err(|error| {
        tracing::error!(run.id = %row.run_id, error = %error, "a stored policy cannot be read");
        DbError::inconsistent("policies", "spec", row.run_id.0).into()
    })
}

fn to_wire(row: &PolicyRow) -> AppResult<Policy> {
    let SetPolicy { every, window, job, improvement, alias, target, patience, enabled } = read(row)?;
    Ok(Policy {
        run_id: row.run_id.0,
        every,
        window,
        job,
        improvement,
        alias,
        target,
        patience,
        enabled,
        new_checkpoints: row.new_checkpoints,
        without_improvement: row.without_improvement,
        target_reached_at: row.target_reached_at,
        best_refresh: row.best_number,
        revision_id: row.revision_id,
        created_at: row.created_at,
    })
}

fn refresh_to_wire(refresh: Refresh) -> PolicyRefresh {
    let (result, comparison) = (refresh.result, refresh.comparison);
    PolicyRefresh {
        refresh_id: refresh.refresh_id,
        run_id: refresh.run_id.0,
        number: refresh.number,
        state: state_to_wire(refresh.state),
        new_checkpoints: refresh.new_checkpoints,
        candidate_set_id: refresh.candidate_set_id.map(Into::into),
        job_id: refresh.job_id.map(Into::into),
        started_from: refresh.started_from.map(Into::into),
        artifact_id: result.as_ref().map(|result| result.artifact_id.into()),
        select_loss: result.as_ref().map(|result| result.select_loss),
        test_loss: result.as_ref().and_then(|result| result.test_loss),
        chosen: result.map(|result| result.chosen),
        compared_with: comparison.map(|comparison| comparison.with),
        difference: comparison.map(|comparison| comparison.difference),
        interval: comparison.and_then(|comparison| comparison.interval),
        moved_alias: refresh.moved_alias,
        error: refresh.error.map(|error| barycenter_api::JobFailure { code: error.code, message: error.message }),
        started_at: refresh.started_at,
        finished_at: refresh.finished_at,
    }
}

fn state_to_wire(state: RefreshState) -> WireState {
    match state {
        RefreshState::Running => WireState::Running,
        RefreshState::Improved => WireState::Improved,
        RefreshState::NotImproved => WireState::NotImproved,
        RefreshState::Failed => WireState::Failed,
        RefreshState::Abandoned => WireState::Abandoned,
    }
}
