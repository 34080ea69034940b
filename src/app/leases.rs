//! The worker protocol: claim, heartbeat, finish, fail. A lease id is the fencing token of an attempt.

use std::time::Duration;

use barycenter_api::{
    Bytes64, Claim, Constraint, Directive as WireDirective, Fail, Finish, Heartbeat, HeartbeatReply, Job, JobSpec,
    Lease, LeasedCandidate, LeasedDataset, MethodSpec, Start,
};
use sqlx::PgConnection;
use tokio::time::Instant;

use super::{
    AppError, AppResult, artifacts,
    candidate_sets::find_candidate_set_with,
    history,
    jobs::{self, MAX_WAIT_SECONDS, POLL_EVERY},
    transaction::{begin, commit},
    warm_start,
};
use crate::{
    db::{
        self, DbError,
        jobs::{LockedJob, Move},
        leases::{Claimant, Claimed, LeasedAttempt, Renewal},
    },
    domain::{
        ids::{JobId, LeaseId},
        job::{AttemptState, Failure, JobEvent, JobState, event_of_failure},
        lease::{Directive, directive},
        problem_code::ProblemCode,
    },
    state::AppState,
};

const MAX_TEXT_CHARACTERS: usize = 4096;
const MAX_NAME_CHARACTERS: usize = 200;

/// Leases a job to a worker; `None` where there was none for as long as the claim waits. No connection is held while
/// waiting.
pub async fn claim_job(state: &AppState, claim: &Claim) -> AppResult<Option<Lease>> {
    check_claim(claim)?;
    let deadline = Instant::now() + Duration::from_secs(claim.wait_seconds.into());
    let mut changes = state.jobs_changed.subscribe();
    loop {
        if let Some(lease) = try_claim(state, claim).await? {
            return Ok(Some(lease));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        changes.changed(left.min(POLL_EVERY), |change| change.state == JobState::Queued).await;
    }
}

fn check_claim(claim: &Claim) -> AppResult<()> {
    if claim.wait_seconds > MAX_WAIT_SECONDS {
        let detail = format!("must be at most {MAX_WAIT_SECONDS}, not {}", claim.wait_seconds);
        return Err(AppError::invalid_field("wait_seconds", detail));
    }
    let worker = &claim.worker;
    for (field, text) in [("name", &worker.name), ("version", &worker.version), ("device", &worker.device)] {
        if text.is_empty() || text.chars().count() > MAX_NAME_CHARACTERS {
            let detail = format!("must have 1 to {MAX_NAME_CHARACTERS} characters");
            return Err(AppError::invalid_field(format!("worker.{field}"), detail));
        }
    }
    Ok(())
}

async fn try_claim(state: &AppState, claim: &Claim) -> AppResult<Option<Lease>> {
    let now = state.clock.now();
    let terms = state.config.leases.terms();
    let claimant = Claimant {
        lease_id: LeaseId(state.clock.new_id()),
        worker_name: &claim.worker.name,
        worker_version: &claim.worker.version,
        worker_device: &claim.worker.device,
        max_attempts: terms.max_attempts,
        now,
        expires_at: terms.expiry(now),
    };
    let mut transaction = begin(state).await?;
    let Some(claimed) = db::leases::claim(&mut transaction, claimant).await? else {
        return Ok(None);
    };
    let mut lease = read_lease(&mut transaction, claimant, claimed).await?;
    lease.heartbeat_seconds = terms.heartbeat.as_seconds_f64();
    commit(transaction).await?;
    if claimed.took_over {
        metrics::counter!("barycenter_lease_expiries_total").increment(1);
    }
    tracing::info!(
        job.id = %claimed.job_id,
        job.attempt = claimed.attempt,
        worker.name = claim.worker.name,
        lease.took_over = claimed.took_over,
        "leased a job"
    );
    Ok(Some(lease))
}

/// Everything a worker needs; `heartbeat_seconds` is left to the caller.
async fn read_lease(conn: &mut PgConnection, claimant: Claimant<'_>, claimed: Claimed) -> AppResult<Lease> {
    let job_id = claimed.job_id;
    let job = db::jobs::find(conn, job_id).await?.ok_or_else(|| jobs::not_found(job_id))?;
    let spec: JobSpec = jobs::document("spec", job_id.0, job.spec)?;
    let candidates = find_candidate_set_with(conn, job.candidate_set_id).await?.members;
    let base = match &spec.lora {
        Some(lora) => Some(leased_base(conn, lora.base_checkpoint_id).await?),
        None => None,
    };
    let datasets = db::job_inputs::list_job_datasets(conn, job_id).await?;
    let fit_state = db::leases::find_fit_state(conn, job_id).await?;
    let start_coefficients = match warm_start_of(&spec) {
        Some(earlier) => {
            let found = warm_start::coefficients(conn, earlier, &candidates, None).await?;
            Some(found.map_err(AppError::internal)?)
        }
        None => None,
    };
    Ok(Lease {
        lease_id: claimant.lease_id.0,
        job_id: job_id.0,
        attempt: claimed.attempt,
        expires_at: claimant.expires_at,
        heartbeat_seconds: 0.0,
        spec,
        candidates: candidates
            .into_iter()
            .map(|row| LeasedCandidate {
                checkpoint_id: row.checkpoint_id.0,
                step: row.step,
                size_bytes: row.size_bytes,
                digest_blake3: row.digest_blake3,
            })
            .collect(),
        datasets: datasets
            .into_iter()
            .map(|row| {
                let normalisation = serde_json::from_value(row.normalisation)
                    .map_err(|_| DbError::inconsistent("datasets", "normalisation", row.dataset_id.0))?;
                Ok(LeasedDataset {
                    dataset_id: row.dataset_id.0,
                    named: row.named,
                    size_bytes: row.size_bytes,
                    digest_blake3: row.digest_blake3,
                    normalisation,
                })
            })
            .collect::<AppResult<_>>()?,
        base,
        start_coefficients,
        fit_state: fit_state.map(Bytes64),
    })
}

/// The base model of adapters.
async fn leased_base(conn: &mut PgConnection, id: uuid::Uuid) -> AppResult<LeasedCandidate> {
    let found = db::checkpoints::find_checkpoint(conn, id.into()).await?;
    let base = found.ok_or_else(|| AppError::internal(format!("the base checkpoint {id} is gone")))?;
    Ok(LeasedCandidate {
        checkpoint_id: base.checkpoint_id.0,
        step: base.step,
        size_bytes: base.size_bytes(),
        digest_blake3: base.blob.digest_blake3,
    })
}

/// Renews a lease and stores what the worker reports. A lease that was lost stores nothing.
pub async fn renew_lease(state: &AppState, lease_id: LeaseId, heartbeat: &Heartbeat) -> AppResult<HeartbeatReply> {
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
    let renewal = db::leases::renew(&mut transaction, lease_id, progress.as_ref(), expires_at).await?;
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
            db::artifacts::renew_upload(&mut transaction, lease_id, now).await?;
            directive(Some(cancel_requested))
        }
    };
    commit(transaction).await?;
    Ok(HeartbeatReply { directive: to_wire(next), expires_at })
}

fn to_wire(directive: Directive) -> WireDirective {
    match directive {
        Directive::Continue => WireDirective::Continue,
        Directive::Stop => WireDirective::Stop,
        Directive::Lost => WireDirective::Lost,
    }
}

/// The job whose coefficients a fit starts from.
fn warm_start_of(spec: &JobSpec) -> Option<JobId> {
    match &spec.method {
        MethodSpec::Twa(twa) => match twa.start {
            Start::Job(earlier) => Some(earlier.into()),
            Start::Uniform | Start::Best => None,
        },
        _ => None,
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
        return jobs::read_job(&mut transaction, job.job_id).await;
    }
    check_held(&job, lease_id, "finish")?;
    let to = job.state.after(JobEvent::Finished).map_err(AppError::internal)?;
    let sums_to_one = sums_to_one(&mut transaction, job.job_id).await?;
    let given = history::GivenCoefficients { blocks: &finish.blocks, values: &finish.coefficients.0, sums_to_one };
    history::save_coefficients(&mut transaction, &job, &given).await?;
    let publication = artifacts::Publication {
        lease_id,
        job: &job,
        worker_version: attempt.worker_version,
        merge: finish.merge.as_ref(),
        now,
    };
    let upload = artifacts::publish(state, &mut transaction, publication, &finish.artifact_digest_blake3).await?;
    let change = Move { from: job.state, to, failure: None, report: Some(&report), now };
    jobs::move_job(&mut transaction, job.job_id, change).await?;
    db::leases::mark_attempt_ended(&mut transaction, lease_id, AttemptState::Succeeded, None, now).await?;
    let ended = jobs::read_job(&mut transaction, job.job_id).await?;
    commit(transaction).await?;
    // Removes the object where equal bytes had been a blob before.
    super::blobs::discard(state, &upload).await;
    jobs::measure_end(job.started_at, to, now);
    tracing::info!(job.id = %job.job_id, job.attempt = attempt.attempt, "a job succeeded");
    Ok(ended)
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
        return jobs::read_job(&mut transaction, job.job_id).await;
    }
    check_held(&job, lease_id, "fail")?;
    let attempts_left = state.config.leases.max_attempts.saturating_sub(job.attempt_count);
    let event = event_of_failure(&failure.code, fail.retry, job.cancel_requested, attempts_left);
    let to = job.state.after(event).map_err(AppError::internal)?;
    let ending = if to == JobState::Cancelled { AttemptState::Cancelled } else { AttemptState::Failed };
    let of_job = (to == JobState::Failed).then(|| final_failure(&failure, fail.retry, attempts_left));
    jobs::move_job(
        &mut transaction,
        job.job_id,
        Move { from: job.state, to, failure: of_job.as_ref(), report: None, now },
    )
    .await?;
    db::leases::mark_attempt_ended(&mut transaction, lease_id, ending, Some(&failure), now).await?;
    let upload = artifacts::find_pending(&mut transaction, lease_id).await?;
    let ended = jobs::read_job(&mut transaction, job.job_id).await?;
    commit(transaction).await?;
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
fn final_failure(failure: &Failure, retry: bool, attempts_left: u32) -> Failure {
    if retry && attempts_left == 0 {
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
