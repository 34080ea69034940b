//! The outcome of a refresh whose job has ended: compared with the best before it, told once.

use std::{collections::HashMap, mem::Discriminant};

use barycenter_api::{JobSpec, ObjectiveSpec, PolicyMetric, Report, SetPolicy};
use barycenter_core::average::paired_interval;
use sqlx::PgConnection;

use super::read;
use crate::{
    app::{
        AppError, AppResult, jobs,
        transaction::{begin, commit, connection},
    },
    db::{
        self,
        jobs::JobRow,
        policies::PolicyRow,
        policy_refreshes::{Reached, SelectLosses, Which},
    },
    domain::{
        alias::{Alias, Target},
        failure::Failure,
        ids::{DatasetId, JobId, RunId},
        job::JobState,
        policy::{Comparison, Refresh, RefreshResult, RefreshState, after_refresh, has_improved},
    },
    state::AppState,
};

/// Tells the outcome of the refresh of a run whose job has ended, unless another server has done so.
pub(super) async fn tell(state: &AppState, run_id: RunId) -> AppResult<()> {
    // The interval is drawn before the run is locked: checkpoints are not to wait for it.
    let Some(judged) = judge(state, run_id).await? else { return Ok(()) };
    let mut transaction = begin(state).await?;
    db::runs::lock_run(&mut transaction, run_id).await?;
    let policy = db::policies::find_policy(&mut transaction, run_id).await?;
    let running = db::policy_refreshes::find_refresh(&mut transaction, run_id, Which::Running).await?;
    let (Some(policy), Some(running)) = (policy, running) else { return Ok(()) };
    if running.refresh_id != judged.refresh.refresh_id || policy.best_number != judged.best_number {
        // The next round judges what is there then.
        return Ok(());
    }
    let refresh = match judged.refresh.result {
        Some(_) => end_with_result(state, &mut transaction, &policy, judged.refresh).await?,
        None => end_failed(state, &mut transaction, judged.refresh).await?,
    };
    commit(transaction).await?;
    tracing::info!(run.id = %run_id, refresh.number = refresh.number, refresh.state = refresh.state.as_str(), "a refresh ended");
    Ok(())
}

/// A refresh with its result and comparison, or with why it has none.
struct Judged {
    refresh: Refresh,
    /// The best refresh that it was compared with.
    best_number: Option<u32>,
}

async fn judge(state: &AppState, run_id: RunId) -> AppResult<Option<Judged>> {
    let mut conn = connection(state).await?;
    let policy = db::policies::find_policy(&mut conn, run_id).await?;
    let running = db::policy_refreshes::find_refresh(&mut conn, run_id, Which::Running).await?;
    let (Some(policy), Some(mut refresh)) = (policy, running) else { return Ok(None) };
    let best_number = policy.best_number;
    let job = match refresh.job_id {
        Some(job_id) => db::jobs::find(&mut conn, job_id).await?,
        None => None,
    };
    match job.map(result).transpose()? {
        None => refresh.error = Some(failure("job_deleted", "its job was deleted")),
        Some(Err(error)) => refresh.error = Some(error),
        Some(Ok((job, result))) => {
            let best = match best_number {
                Some(number) => db::policy_refreshes::find_refresh(&mut conn, run_id, Which::Number(number)).await?,
                None => None,
            };
            if let Some(best) = best {
                refresh.comparison = compare(conn, &job, &result, &best).await?;
            }
            refresh.result = Some(result);
        }
    }
    Ok(Some(Judged { refresh, best_number }))
}

fn failure(code: &str, message: &str) -> Failure {
    Failure { code: code.to_owned(), message: message.to_owned() }
}

/// What a job came to, or why to nothing.
fn result(job: JobRow) -> AppResult<Result<(JobRow, RefreshResult), Failure>> {
    if job.state != JobState::Succeeded {
        let told = failure(job.state.as_str(), "its job ended without a result");
        return Ok(Err(job.error.unwrap_or(told)));
    }
    let Some(artifact_id) = job.artifact_id else {
        return Ok(Err(failure("artifact_deleted", "the artifact of its job was deleted")));
    };
    let report = job.report.clone().ok_or_else(|| AppError::internal("a job succeeded without a report"))?;
    let report: Report = jobs::document("report", job.job_id.0, report)?;
    let Some(chosen) = report.evaluations.iter().find(|evaluation| evaluation.method == report.chosen) else {
        return Ok(Err(failure("no_evaluation", "the report of its job has no evaluation of what it returned")));
    };
    let result = RefreshResult {
        artifact_id,
        select_loss: chosen.select.loss,
        test_loss: chosen.test.map(|test| test.loss),
        chosen: report.chosen,
    };
    Ok(Ok((job, result)))
}

/// The result beside the best; none where they were selected on different data, whose losses say nothing of each other.
async fn compare(
    mut conn: impl std::ops::DerefMut<Target = PgConnection>,
    job: &JobRow,
    result: &RefreshResult,
    best: &Refresh,
) -> AppResult<Option<Comparison>> {
    let (Some(best_result), Some(best_job)) = (&best.result, best.job_id) else { return Ok(None) };
    let Some(best_row) = db::jobs::find(&mut conn, best_job).await? else { return Ok(None) };
    let (seed, yardstick) = find_yardstick(&mut conn, job).await?;
    if find_yardstick(&mut conn, &best_row).await?.1 != yardstick {
        return Ok(None);
    }
    let losses = db::policy_refreshes::find_select_losses(&mut conn, job.job_id).await?;
    let best_losses = db::policy_refreshes::find_select_losses(&mut conn, best_job).await?;
    drop(conn);
    let interval = match losses.zip(best_losses) {
        Some((new, best)) if new.losses.len() == best.losses.len() => Some(draw_interval(new, best, seed).await?),
        _ => None,
    };
    let difference = result.select_loss - best_result.select_loss;
    Ok(Some(Comparison { with: best.number, difference, interval }))
}

async fn draw_interval(new: SelectLosses, best: SelectLosses, seed: u64) -> AppResult<[f64; 2]> {
    let drawn = tokio::task::spawn_blocking(move || {
        let weights = new.weights.unwrap_or_else(|| vec![1; new.losses.len()]);
        paired_interval(&new.losses, &best.losses, &weights, seed)
    });
    drawn.await.map_err(AppError::internal)
}

/// What select losses are measured with: the samples, and the loss.
#[derive(PartialEq)]
struct Yardstick {
    /// The dataset, and how a part of it is kept where it is that of the fit.
    select: Option<(DatasetId, Option<(u64, u64)>)>,
    objective: Option<Discriminant<ObjectiveSpec>>,
}

/// The seed of a job, and what its select losses are measured with.
async fn find_yardstick(conn: &mut PgConnection, job: &JobRow) -> AppResult<(u64, Yardstick)> {
    let spec: JobSpec = jobs::document("spec", job.job_id.0, job.spec.clone())?;
    let datasets = db::job_inputs::list_job_datasets(conn, job.job_id).await?;
    let ids: HashMap<&str, DatasetId> = datasets.iter().map(|row| (row.named.as_str(), row.dataset_id)).collect();
    let select = if let Some(select) = &spec.data.select {
        ids.get(select.as_str()).map(|id| (*id, None))
    } else {
        let split = (spec.data.select_fraction.unwrap_or_default().to_bits(), spec.seed);
        ids.get(spec.data.fit.as_str()).map(|id| (*id, Some(split)))
    };
    let objective = spec.objective.as_ref().map(std::mem::discriminant);
    Ok((spec.seed, Yardstick { select, objective }))
}

async fn end_failed(state: &AppState, conn: &mut PgConnection, refresh: Refresh) -> AppResult<Refresh> {
    let ended = Refresh { state: RefreshState::Failed, finished_at: Some(state.clock.now()), ..refresh };
    db::policy_refreshes::mark_ended(conn, &ended, Reached::default()).await?;
    Ok(ended)
}

/// Writes where the policy stands, moves the alias, and ends the refresh, in this order: the events that the end writes tell of
/// both.
async fn end_with_result(
    state: &AppState,
    conn: &mut PgConnection,
    row: &PolicyRow,
    mut refresh: Refresh,
) -> AppResult<Refresh> {
    let policy = read(row)?;
    // Under the lock of the run nobody deletes an artifact: what the alias comes to name is there.
    let artifact_id = match refresh.job_id {
        Some(job_id) => find_artifact(conn, job_id).await?,
        None => None,
    };
    let Some(artifact_id) = artifact_id else {
        let error = Some(failure("artifact_deleted", "the artifact of its job was deleted"));
        return end_failed(state, conn, Refresh { error, result: None, comparison: None, ..refresh }).await;
    };
    let now = state.clock.now();
    let improved = has_improved(refresh.comparison.as_ref(), policy.improvement);
    let (without_improvement, stalled) = after_refresh(row.without_improvement, improved, policy.patience);
    let target = row.target_reached_at.is_none() && reaches(&policy, &refresh);
    let after = PolicyRow {
        without_improvement,
        target_reached_at: row.target_reached_at.or(target.then_some(now)),
        best_number: if improved { Some(refresh.number) } else { row.best_number },
        ..row.clone()
    };
    db::policies::save_policy(conn, &after).await?;
    if improved {
        let alias = Alias {
            run_id: refresh.run_id,
            alias: policy.alias.clone(),
            target: Target::Artifact(artifact_id),
            revision_id: state.clock.new_id(),
            moved_at: now,
        };
        db::aliases::save_alias(conn, &alias).await?;
        refresh.moved_alias = Some(policy.alias);
    }
    refresh.state = if improved { RefreshState::Improved } else { RefreshState::NotImproved };
    refresh.finished_at = Some(now);
    db::policy_refreshes::mark_ended(conn, &refresh, Reached { target, stalled }).await?;
    db::policy_refreshes::delete_select_losses(conn, refresh.run_id, after.best_number).await?;
    Ok(refresh)
}

async fn find_artifact(conn: &mut PgConnection, job_id: JobId) -> AppResult<Option<crate::domain::ids::ArtifactId>> {
    Ok(db::jobs::find(conn, job_id).await?.and_then(|job| job.artifact_id))
}

fn reaches(policy: &SetPolicy, refresh: &Refresh) -> bool {
    let Some((target, result)) = policy.target.zip(refresh.result.as_ref()) else { return false };
    let loss = match target.metric {
        PolicyMetric::SelectLoss => Some(result.select_loss),
        PolicyMetric::TestLoss => result.test_loss,
    };
    loss.is_some_and(|loss| loss < target.below)
}
