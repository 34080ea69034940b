//! The beginning of a refresh: its candidates and its job, in one transaction.

use barycenter_api::{Extends, JobSpec, MethodSpec, SetPolicy, Start};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::read;
use crate::{
    app::{
        AppError, AppResult,
        candidate_sets::{self, NewCandidateSet},
        jobs, spec,
        transaction::{begin, commit, rollback},
    },
    db::{self, policies::PolicyRow, policy_refreshes::Which},
    domain::{
        candidate_set::{Among, MIN_MEMBERS, Rule},
        failure::Failure,
        ids::{JobId, RunId},
        name::Reference,
        policy::{Refresh, RefreshState},
        run::Run,
    },
    state::AppState,
};

/// Name of the candidate sets that policies freeze: each refresh has the next version.
const SET_NAME: &str = "policy";

/// Begins the refresh that is due, unless another server has done so. One that is refused is a refresh too, and failed.
pub(super) async fn begin_refresh(state: &AppState, run_id: RunId) -> AppResult<()> {
    let mut transaction = begin(state).await?;
    let Some(due) = lock_due(&mut transaction, run_id).await? else { return Ok(()) };
    match queue(state, &mut transaction, &due).await {
        Ok(refresh) => {
            commit(transaction).await?;
            tracing::info!(run.id = %run_id, refresh.number = refresh.number, "began a refresh");
            Ok(())
        }
        Err(AppError::Refused { code, detail, .. }) => {
            // Without the set that was frozen.
            rollback(transaction).await?;
            note_refusal(state, run_id, Failure { code: code.as_str().to_owned(), message: detail }).await
        }
        Err(error) => Err(error),
    }
}

/// A policy that is to begin a refresh; its run is locked.
struct Due {
    run: Run,
    row: PolicyRow,
    policy: SetPolicy,
    number: u32,
}

impl Due {
    fn refresh(&self, state: &AppState, now: DateTime<Utc>) -> Refresh {
        Refresh {
            refresh_id: state.clock.new_id(),
            run_id: self.run.run_id,
            number: self.number,
            state: RefreshState::Running,
            new_checkpoints: self.row.new_checkpoints,
            candidate_set_id: None,
            job_id: None,
            started_from: None,
            result: None,
            comparison: None,
            moved_alias: None,
            error: None,
            started_at: now,
            finished_at: None,
        }
    }
}

/// `None` where nothing is due any more: what was seen before the lock may be over.
async fn lock_due(conn: &mut PgConnection, run_id: RunId) -> AppResult<Option<Due>> {
    db::runs::lock_run(conn, run_id).await?;
    let run = db::runs::find_run(conn, Reference::Id(run_id.0)).await?;
    let row = db::policies::find_policy(conn, run_id).await?;
    let (Some(run), Some(row)) = (run, row) else { return Ok(None) };
    let running = db::policy_refreshes::find_refresh(conn, run_id, Which::Running).await?;
    let has_members = run.checkpoint_count >= MIN_MEMBERS as u64;
    if !row.enabled || row.new_checkpoints < row.every || !has_members || running.is_some() {
        return Ok(None);
    }
    let number = db::policy_refreshes::next_number(conn, run_id).await?;
    Ok(Some(Due { policy: read(&row)?, run, row, number }))
}

/// Freezes the candidates and queues the job.
async fn queue(state: &AppState, conn: &mut PgConnection, due: &Due) -> AppResult<Refresh> {
    let now = state.clock.now();
    let run_id = due.run.run_id;
    let count = due.policy.window.last.min(u32::try_from(due.run.checkpoint_count).unwrap_or(u32::MAX));
    let new = NewCandidateSet {
        name: Some(SET_NAME.to_owned()),
        rule: Rule::Last { count, among: Among::default() },
        other_runs: Vec::new(),
    };
    let set = candidate_sets::freeze(state, conn, &run_id.to_string(), new, now).await?;
    let cold = due.policy.job.clone().with_candidates(set.candidate_set_id.0);
    let last = db::policy_refreshes::find_refresh(conn, run_id, Which::LastResult).await?;
    let (spec, started_from) = started(conn, cold, last.and_then(|last| last.job_id)).await?;
    let job_id = jobs::queue(state, conn, spec, now).await?;
    let refresh = Refresh {
        candidate_set_id: Some(set.candidate_set_id),
        job_id: Some(job_id),
        started_from,
        ..due.refresh(state, now)
    };
    db::policy_refreshes::insert_refresh(conn, &refresh).await?;
    db::policies::save_policy(conn, &PolicyRow { new_checkpoints: 0, ..due.row.clone() }).await?;
    Ok(refresh)
}

/// The spec with the start that the last refresh gives, and the projection that it extends, where there is one and they fit: a policy
/// whose blocks were changed, or a window that shares nothing with the last, starts from the uniform average and builds its
/// projection. What was asked for stays.
async fn started(conn: &mut PgConnection, cold: JobSpec, last: Option<JobId>) -> AppResult<(JobSpec, Option<JobId>)> {
    let Some(last) = last else { return Ok((cold, None)) };
    let mut spec = cold;
    if let MethodSpec::Twa(twa) = &mut spec.method {
        twa.extends.get_or_insert(Extends::Job(last.0));
        if twa.start == Start::Uniform {
            twa.start = Start::Job(last.0);
        }
    }
    // What does not fit is taken back, one after the other.
    for field in [spec::START_FIELD, spec::EXTENDS_FIELD] {
        match spec::resolve(conn, spec.clone()).await {
            Err(error) if spec::is_refused_for(&error, field) => take_back(&mut spec, field),
            Err(error) if spec::is_refused_for(&error, spec::EXTENDS_FIELD) => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    let is_started = matches!(&spec.method, MethodSpec::Twa(twa) if twa.start == Start::Job(last.0));
    Ok((spec, is_started.then_some(last)))
}

fn take_back(spec: &mut JobSpec, field: &str) {
    let MethodSpec::Twa(twa) = &mut spec.method else { return };
    if field == spec::START_FIELD {
        twa.start = Start::Uniform;
    } else {
        twa.extends = None;
    }
}

/// Notes a refresh that could not have a job. The checkpoints it would have averaged count as seen: the next ones begin another.
async fn note_refusal(state: &AppState, run_id: RunId, error: Failure) -> AppResult<()> {
    let mut transaction = begin(state).await?;
    let Some(due) = lock_due(&mut transaction, run_id).await? else { return Ok(()) };
    let now = state.clock.now();
    let refresh =
        Refresh { state: RefreshState::Failed, error: Some(error), finished_at: Some(now), ..due.refresh(state, now) };
    let number = refresh.number;
    db::policies::save_policy(&mut transaction, &PolicyRow { new_checkpoints: 0, ..due.row }).await?;
    db::policy_refreshes::insert_refresh(&mut transaction, &refresh).await?;
    commit(transaction).await?;
    tracing::info!(run.id = %run_id, refresh.number = number, "a refresh was refused");
    Ok(())
}
