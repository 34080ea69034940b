//! The worker protocol after the claim: heartbeat, finish, fail. A lease id is the fencing token of an attempt.

use barycenter_api::{
    Bytes64, Constraint, Directive as WireDirective, Fail, Finish, Heartbeat, HeartbeatReply, Job, JobSpec,
    MAX_SELECT_LOSSES, MethodSpec, SelectLosses,
};
use barycenter_faults::{self as faults, Point};
use sqlx::PgConnection;

use super::{
    AppError, AppResult, artifacts, history, job_log, jobs, projections,
    transaction::{begin, commit},
};
use crate::{
    db::{
        self,
        jobs::{BackOff, LockedJob, Move},
        leases::{LeasedAttempt, Renewal},
    },
    domain::{
        failure::{FailedAttempt, Failure},
        ids::{JobId, LeaseId},
        job::{AttemptState, JobEvent, JobState},
        lease::{Directive, directive},
        problem_code::ProblemCode,
    },
    state::AppState,
};

const MAX_TEXT_CHARACTERS: usize = 4096;

/// Renews a lease and stores what the worker reports. A lease that was lost stores nothing.
pub async fn renew_lease(state: &AppState, lease_id: LeaseId, heartbeat: &Heartbeat) -> AppResult<HeartbeatReply> {
    job_log::check(&heartbeat.log)?;
    if !heartbeat.snapshots.is_empty() {
        // The store may be away for longer than a lease lasts: the worker keeps its job all the same.
        record_heartbeat(state, lease_id, &Heartbeat::default(), None).await?;
    }
    // The object is written first: no transaction is open while the store works.
    let chunk = history::store_chunk(state, &heartbeat.snapshots).await?;
    let outcome = record_heartbeat(state, lease_id, heartbeat, chunk.as_ref()).await;
    if let Some(chunk) = &chunk {
        super::blobs::discard(state, &chunk.upload).await;
    }
    outcome
}

async fn record_heartbeat(
    state: &AppState,
    lease_id: LeaseId,
    heartbeat: &Heartbeat,
    chunk: Option<&history::StoredChunk>,
) -> AppResult<HeartbeatReply> {
    let now = state.clock.now();
    let expires_at = state.config.leases.terms().expiry(now);
    let progress = heartbeat.progress.as_ref().map(serde_json::to_value).transpose().map_err(AppError::internal)?;
    let mut transaction = begin(state).await?;
    let renewal = db::leases::renew(&mut transaction, lease_id, progress.as_ref(), now, expires_at).await?;
    let next = match renewal {
        Renewal::Unknown => return Err(not_found(lease_id)),
        Renewal::Lost => {
            count_fenced("heartbeat");
            directive(None)
        }
        Renewal::Held { job_id, attempt, cancel_requested } => {
            if let Some(Bytes64(fit_state)) = &heartbeat.fit_state {
                db::leases::save_fit_state(&mut transaction, job_id, attempt, fit_state, now).await?;
            }
            let blocks = heartbeat.blocks.as_deref();
            history::record(state, &mut transaction, (job_id, lease_id), blocks, &heartbeat.snapshots, chunk).await?;
            job_log::record(&mut transaction, (job_id, attempt), &heartbeat.log, now).await?;
            db::artifacts::renew_upload(&mut transaction, lease_id, now).await?;
            directive(Some(cancel_requested))
        }
    };
    if chunk.is_some() {
        faults::pass(Point::ServerRecording).await;
    }
    commit(transaction).await?;
    if let Renewal::Held { job_id, .. } = renewal {
        state.job_tags.forget(job_id);
    }
    Ok(HeartbeatReply { directive: to_wire(next), expires_at })
}

fn to_wire(directive: Directive) -> WireDirective {
    match directive {
        Directive::Continue => WireDirective::Continue,
        Directive::Stop => WireDirective::Stop,
        Directive::Lost => WireDirective::Lost,
    }
}

/// Whether a job's coefficients sum to 1 in every block: all but those of a linear fit.
async fn sums_to_one(conn: &mut PgConnection, job_id: JobId) -> AppResult<bool> {
    let job = db::jobs::find(conn, job_id).await?.ok_or_else(|| jobs::not_found(job_id))?;
    let spec: JobSpec = jobs::document("spec", job_id.0, job.spec)?;
    Ok(!matches!(&spec.method, MethodSpec::Twa(twa) if twa.constraint == Constraint::Linear))
}

/// Publishes the artifact uploaded under a lease and ends its job as succeeded: one transaction. The same call again
/// returns the same job.
pub async fn finish_job(state: &AppState, lease_id: LeaseId, finish: &Finish) -> AppResult<Job> {
    let now = state.clock.now();
    let report = serde_json::to_value(&finish.report).map_err(AppError::internal)?;
    let mut transaction = begin(state).await?;
    let (attempt, job) = lock_attempt(&mut transaction, lease_id).await?;
    if attempt.state == AttemptState::Succeeded {
        return jobs::read_job(&mut transaction, job.job_id, now).await;
    }
    check_held(&job, lease_id, "finish")?;
    let to = job.state.after(JobEvent::Finished).map_err(AppError::internal)?;
    let sums_to_one = sums_to_one(&mut transaction, job.job_id).await?;
    let given = history::GivenCoefficients { blocks: &finish.blocks, values: &finish.coefficients.0, sums_to_one };
    history::save_coefficients(&mut transaction, &job, &given).await?;
    if let Some(losses) = &finish.select_losses {
        db::policy_refreshes::save_select_losses(&mut transaction, job.job_id, &kept(losses)?).await?;
    }
    let publication = artifacts::Publication {
        lease_id,
        job: &job,
        worker_version: attempt.worker_version,
        merge: finish.merge.as_ref(),
        now,
    };
    let upload = artifacts::publish(state, &mut transaction, publication, &finish.artifact_digest_blake3).await?;
    let change = Move { from: job.state, to, failure: None, report: Some(&report), back_off: None, now };
    jobs::move_job(&mut transaction, job.job_id, change).await?;
    db::leases::mark_attempt_ended(&mut transaction, lease_id, AttemptState::Succeeded, None, now).await?;
    if let Some(projection) = &finish.report.projection {
        projections::count(state, &mut transaction, lease_id, projection).await?;
    }
    let ended = jobs::read_job(&mut transaction, job.job_id, now).await?;
    faults::pass(Point::ServerFinishing).await;
    commit(transaction).await?;
    faults::pass(Point::ServerFinished).await;
    if let Some(projection) = &finish.report.projection {
        metrics::counter!("barycenter_projections_total", "source" => projection.source.as_str()).increment(1);
    }
    state.job_tags.forget(job.job_id);
    // Removes the object where equal bytes had been a blob before.
    super::blobs::discard(state, &upload).await;
    jobs::measure_end(job.started_at, to, now);
    tracing::info!(job.id = %job.job_id, job.attempt = attempt.attempt, "a job succeeded");
    Ok(ended)
}

/// The losses in the form in which they are kept.
fn kept(given: &SelectLosses) -> AppResult<db::policy_refreshes::SelectLosses> {
    const FIELD: &str = "select_losses.losses";
    let losses: Vec<f32> = given.losses.0.iter().map(|loss| *loss as f32).collect();
    if losses.len() > MAX_SELECT_LOSSES {
        return Err(AppError::invalid_field(FIELD, format!("must be at most {MAX_SELECT_LOSSES}")));
    }
    if losses.iter().any(|loss| !loss.is_finite()) {
        return Err(AppError::invalid_field(FIELD, "must be finite numbers"));
    }
    if given.weights.as_ref().is_some_and(|weights| weights.len() != losses.len() || weights.contains(&0)) {
        return Err(AppError::invalid_field("select_losses.weights", "must be above 0, one for each loss"));
    }
    Ok(db::policy_refreshes::SelectLosses { losses, weights: given.weights.clone() })
}

/// Ends an attempt without an artifact: the job is queued again, fails or is cancelled. Repeating the call returns the
/// job as it stands.
pub async fn fail_job(state: &AppState, lease_id: LeaseId, fail: &Fail) -> AppResult<Job> {
    check_fail(fail)?;
    let now = state.clock.now();
    let failure = Failure { code: fail.code.clone(), message: fail.message.clone() };
    let mut transaction = begin(state).await?;
    let (attempt, job) = lock_attempt(&mut transaction, lease_id).await?;
    if matches!(attempt.state, AttemptState::Failed | AttemptState::Cancelled) {
        return jobs::read_job(&mut transaction, job.job_id, now).await;
    }
    check_held(&job, lease_id, "fail")?;
    let terms = state.config.leases.terms();
    let failed = FailedAttempt {
        code: &failure.code,
        retry: fail.retry,
        cancel_requested: job.cancel_requested,
        failures_before: job.failure_count,
        max_attempts: terms.max_attempts,
    };
    let to = job.state.after(failed.event()).map_err(AppError::internal)?;
    let ending = if to == JobState::Cancelled { AttemptState::Cancelled } else { AttemptState::Failed };
    let of_job = (to == JobState::Failed).then(|| final_failure(&failure, &failed));
    let back_off = (to == JobState::Queued).then(|| BackOff {
        failure_count: failed.failures(),
        not_before: if failed.counts() { now + terms.pause_after(failed.failures()) } else { now },
    });
    // First the attempt: the event of the job tells why it ended.
    db::leases::mark_attempt_ended(&mut transaction, lease_id, ending, Some(&failure), now).await?;
    let change = Move { from: job.state, to, failure: of_job.as_ref(), report: None, back_off, now };
    jobs::move_job(&mut transaction, job.job_id, change).await?;
    let upload = artifacts::find_pending(&mut transaction, lease_id).await?;
    let ended = jobs::read_job(&mut transaction, job.job_id, now).await?;
    commit(transaction).await?;
    state.job_tags.forget(job.job_id);
    if let Some(upload) = upload {
        super::blobs::discard(state, &upload).await;
    }
    jobs::measure_end(job.started_at, to, now);
    tracing::info!(job.id = %job.job_id, job.attempt = attempt.attempt, error.code = failure.code, job.state = %to, "an attempt failed");
    Ok(ended)
}

fn check_fail(fail: &Fail) -> AppResult<()> {
    if fail.code.is_empty() || fail.code.len() > 64 || !fail.code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
        return Err(AppError::invalid_field("code", "must be 1 to 64 lower-case letters and `_`"));
    }
    if fail.message.chars().count() > MAX_TEXT_CHARACTERS {
        return Err(AppError::invalid_field("message", format!("must have at most {MAX_TEXT_CHARACTERS} characters")));
    }
    Ok(())
}

/// What a job says of its last failure: a failure worth another attempt is final only because none is left.
fn final_failure(failure: &Failure, failed: &FailedAttempt<'_>) -> Failure {
    if failed.can_pass() {
        let message = format!("no attempt is left; the last one ended with `{}`: {}", failure.code, failure.message);
        return Failure { code: Failure::TOO_MANY_ATTEMPTS.to_owned(), message };
    }
    failure.clone()
}

/// The attempt of a lease and its job, locked for the rest of the transaction.
pub(super) async fn lock_attempt(conn: &mut PgConnection, lease_id: LeaseId) -> AppResult<(LeasedAttempt, LockedJob)> {
    let job_id = db::leases::find_attempt(conn, lease_id).await?.ok_or_else(|| not_found(lease_id))?.job_id;
    let job = db::jobs::lock(conn, job_id).await?.ok_or_else(|| jobs::not_found(job_id))?;
    // Read again under the lock: it may have ended in between.
    let attempt = db::leases::find_attempt(conn, lease_id).await?.ok_or_else(|| not_found(lease_id))?;
    Ok((attempt, job))
}

/// Refuses a call under a lease that no longer speaks for its job.
pub(super) fn check_held(job: &LockedJob, lease_id: LeaseId, call: &'static str) -> AppResult<()> {
    if job.state == JobState::Running && job.lease_id == Some(lease_id) {
        return Ok(());
    }
    count_fenced(call);
    let detail = format!("lease {lease_id} was lost: job {} is {} and no longer under it", job.job_id, job.state);
    Err(AppError::refused(ProblemCode::LeaseLost, detail))
}

fn count_fenced(call: &'static str) {
    metrics::counter!("barycenter_fenced_calls_total", "call" => call).increment(1);
}

fn not_found(lease_id: LeaseId) -> AppError {
    AppError::refused(ProblemCode::LeaseNotFound, format!("there never was a lease {lease_id}"))
}
