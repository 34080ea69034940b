//! The claim: which job a worker gets, and everything it needs for it.

use std::time::Duration;

use barycenter_api::{Bytes64, Claim, JobSpec, Lease, LeasedCandidate, LeasedDataset, MethodSpec, Start};
use barycenter_faults::{self as faults, Point};
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, Postgres, Transaction};
use tokio::time::Instant;

use super::{
    AppError, AppResult,
    candidate_sets::find_candidate_set_with,
    jobs::{self, MAX_WAIT_SECONDS, POLL_EVERY},
    projections,
    transaction::{begin, commit, rollback},
    warm_start, workers,
};
use crate::{
    db::{
        self, DbError,
        claims::{Claimant, Claimed},
    },
    domain::{
        ids::{JobId, LeaseId, WorkerId},
        job::JobState,
        lease::LeaseTerms,
        problem_code::ProblemCode,
        worker::{self, Worker, WorkerState},
    },
    state::AppState,
};

/// How long a new job is left to an idle worker that holds its projection before others may take it.
const LEFT_TO_HOLDER: TimeDelta = TimeDelta::seconds(2);
/// A job that has waited longer is not passed over for one whose projection is at hand.
const PASSED_OVER_FOR: TimeDelta = TimeDelta::minutes(1);

/// Leases a job to a worker; `None` where there was none for as long as the claim waits. No connection is held while
/// waiting. A draining worker is refused, so that it ends.
pub async fn claim_job(state: &AppState, claim: &Claim) -> AppResult<Option<Lease>> {
    if claim.wait_seconds > MAX_WAIT_SECONDS {
        let detail = format!("must be at most {MAX_WAIT_SECONDS}, not {}", claim.wait_seconds);
        return Err(AppError::invalid_field("wait_seconds", detail));
    }
    let worker_id = WorkerId(claim.worker_id);
    let deadline = Instant::now() + Duration::from_secs(claim.wait_seconds.into());
    let mut changes = state.jobs_changed.subscribe();
    let mut look = Look::First;
    loop {
        if let Some(lease) = try_claim(state, worker_id, look).await? {
            return Ok(Some(lease));
        }
        look = Look::Later;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        changes.changed(left.min(POLL_EVERY), |change| change.state == JobState::Queued).await;
    }
}

/// Looks at the queue of one claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Notes that the worker was heard of: in the transaction of the lease, since each commit waits for the disk.
    First,
    Later,
}

/// A transaction in which a worker's claim is looked at, and the worker.
async fn begin_look(
    state: &AppState,
    worker_id: WorkerId,
    look: Look,
) -> AppResult<(Transaction<'static, Postgres>, Worker)> {
    let mut transaction = begin(state).await?;
    if look == Look::First {
        db::workers::mark_seen(&mut transaction, worker_id, None, state.clock.now()).await?;
    }
    let worker = db::workers::find_worker(&mut transaction, worker_id).await?;
    Ok((transaction, worker.ok_or_else(|| workers::not_found(worker_id))?))
}

/// One look at the queue. Where a project turns out to be full its job is given back and the queue looked at again without it.
async fn try_claim(state: &AppState, worker_id: WorkerId, look: Look) -> AppResult<Option<Lease>> {
    let now = state.clock.now();
    let (mut transaction, worker) = begin_look(state, worker_id, look).await?;
    match worker.state {
        WorkerState::Active => {}
        WorkerState::Paused => {
            commit(transaction).await?;
            return Ok(None);
        }
        WorkerState::Draining => {
            commit(transaction).await?;
            let detail = format!("the worker `{}` is draining: it is given no more jobs", worker.name);
            return Err(AppError::refused(ProblemCode::WorkerDraining, detail));
        }
    }
    let mut others = db::claims::find_others(&mut transaction, worker_id, now - worker::ALIVE_FOR).await?;
    loop {
        let lease_id = LeaseId(state.clock.new_id());
        let terms = state.config.leases.terms();
        let pauses = terms.pauses_after_lapse();
        let claimant = Claimant {
            lease_id,
            worker: &worker,
            max_attempts: terms.max_attempts,
            pauses_after_lapse: &pauses,
            not_of_projects: &others.full_projects,
            held_elsewhere: &others.held_elsewhere,
            left_since: now - LEFT_TO_HOLDER,
            waited_since: now - PASSED_OVER_FOR,
            now,
            expires_at: terms.expiry(now),
        };
        let Some(claimed) = db::claims::claim(&mut transaction, claimant).await? else {
            commit(transaction).await?;
            return Ok(None);
        };
        if !claimed.took_over && db::projects::hold_and_check(&mut transaction, &claimed.project).await? {
            others.full_projects.push(claimed.project);
            rollback(transaction).await?;
            (transaction, _) = begin_look(state, worker_id, look).await?;
            continue;
        }
        let lease = read_lease(state, &mut transaction, (lease_id, &terms, now), &claimed).await?;
        commit(transaction).await?;
        faults::pass(Point::ServerClaimed).await;
        state.job_tags.forget(claimed.job_id);
        note(&worker, &claimed);
        return Ok(Some(lease));
    }
}

fn note(worker: &Worker, claimed: &Claimed) {
    if claimed.took_over {
        metrics::counter!("barycenter_lease_expiries_total").increment(1);
    }
    tracing::info!(
        job.id = %claimed.job_id,
        job.attempt = claimed.attempt,
        worker.name = worker.name,
        lease.took_over = claimed.took_over,
        "leased a job"
    );
}

/// Everything a worker needs.
async fn read_lease(
    state: &AppState,
    conn: &mut PgConnection,
    (lease_id, terms, now): (LeaseId, &LeaseTerms, DateTime<Utc>),
    claimed: &Claimed,
) -> AppResult<Lease> {
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
        lease_id: lease_id.0,
        job_id: job_id.0,
        attempt: claimed.attempt,
        expires_at: terms.expiry(now),
        heartbeat_seconds: terms.heartbeat.as_seconds_f64(),
        spec,
        candidates: candidates.into_iter().map(projections::leased_candidate).collect(),
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
        projection: projections::lease(state, conn, job_id).await?,
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
