//! The cache of projections that workers share: received under a lease, told of in leases, evicted by size and age.
//!
//! Nothing depends on it: a worker builds what it does not find. A key says what a projection is made from, so any file of a key is as
//! good as another.

use std::collections::HashMap;

use barycenter_api::{
    FreshProjection, LeasedCandidate, LeasedProjection, ProjectionLink, ProjectionReport, ProjectionSource,
    PushProjection, SharedProjection,
};
use sqlx::PgConnection;

use super::{
    AppError, AppResult, Incoming, PutOutcome,
    blobs::{self, PendingUpload},
    gc, leases,
    tensor_file::{digest_differs, invalid_file},
    transaction::{begin, commit, connection, rollback},
};
use crate::{
    db::{self, jobs::LockedJob},
    domain::{
        candidate_set::Candidate,
        ids::{CandidateSetId, JobId, LeaseId},
        name::shown,
        page::{PageRequest, Paged},
        problem_code::ProblemCode,
        projection::{Counts, Projection},
    },
    state::AppState,
    storage::Stored,
};

/// Bytes of a file that tell whether it is a projection.
const HEAD_BYTES: usize = 12;

/// Takes the projection of a leased job into the cache; one that is there is not read.
pub async fn receive_projection(
    state: &AppState,
    lease_id: LeaseId,
    key: &str,
    push: PushProjection,
    mut file: Incoming,
) -> AppResult<PutOutcome<Projection>> {
    file.digest_blake3 = push.digest_blake3;
    let limit = state.config.projections.projections_bytes.min(state.config.uploads.max_upload_bytes);
    file.check_announcement(limit)?;
    let mut transaction = begin(state).await?;
    let (_, job) = leases::lock_attempt(&mut transaction, lease_id).await?;
    leases::check_held(&job, lease_id, "projection")?;
    check_key(&mut transaction, &job, key).await?;
    if let Some(known) = find_with(&mut transaction, key).await? {
        return Ok(PutOutcome::Existing(known));
    }
    let candidate_count = db::job_inputs::count_candidates(&mut transaction, job.job_id).await?;
    rollback(transaction).await?;
    let (upload, stored) = store(state, file, limit).await?;
    let new = New { key, candidate_count: candidate_count as u32, revision_count: push.revisions };
    let published = publish(state, &new, &upload, &stored).await;
    blobs::discard(state, &upload).await;
    published
}

/// Refuses a projection that is not the job's.
async fn check_key(conn: &mut PgConnection, job: &LockedJob, key: &str) -> AppResult<()> {
    let keys = db::projections::find_keys(conn, job.job_id).await?;
    if [keys.projection_key, keys.fresh_projection_key].into_iter().flatten().any(|known| known == key) {
        return Ok(());
    }
    let detail = format!("`{}` is not what a projection of job {} is called", shown(key), job.job_id);
    Err(AppError::invalid_field("projection_key", detail))
}

/// Stores a file that begins as a projection does.
async fn store(state: &AppState, file: Incoming, limit: u64) -> AppResult<(PendingUpload, Stored)> {
    let announced = file.digest_blake3.clone();
    let (head, body) = file.peek(HEAD_BYTES).await?;
    if !barycenter_core::projection::is_projection(&head) {
        return Err(invalid_file("the file is not a projection of the version that this server's workers read"));
    }
    let upload = blobs::begin_upload(state).await?;
    let refused = match blobs::receive(state, &upload, body, limit).await {
        Ok(stored) => match announced.filter(|announced| *announced != stored.digest_blake3) {
            None => return Ok((upload, stored)),
            Some(announced) => digest_differs(&announced, &stored.digest_blake3),
        },
        Err(error) => error,
    };
    blobs::discard(state, &upload).await;
    Err(refused)
}

/// What is told of a projection on its way in.
struct New<'a> {
    key: &'a str,
    candidate_count: u32,
    revision_count: u32,
}

/// Makes stored bytes a projection of the cache, where no other worker was quicker. The lease may have ended meanwhile: its job did not
/// wait for this.
async fn publish(
    state: &AppState,
    new: &New<'_>,
    upload: &PendingUpload,
    stored: &Stored,
) -> AppResult<PutOutcome<Projection>> {
    let now = state.clock.now();
    let mut transaction = begin(state).await?;
    let blob = blobs::commit_blob(&mut transaction, upload, stored, now).await?;
    let projection = Projection {
        projection_id: state.clock.new_id(),
        projection_key: new.key.to_owned(),
        blob,
        candidate_count: new.candidate_count,
        revision_count: new.revision_count,
        hit_count: 0,
        created_at: now,
        used_at: now,
    };
    if db::projections::insert_projection(&mut transaction, &projection).await? {
        commit(transaction).await?;
        metrics::histogram!("barycenter_upload_size_bytes", "kind" => "projection").record(stored.size_bytes as f64);
        return Ok(PutOutcome::Created(projection));
    }
    // Without the blob that only this row would have needed.
    rollback(transaction).await?;
    Ok(PutOutcome::Existing(find_projection(state, new.key).await?))
}

/// A projection of the cache.
pub async fn find_projection(state: &AppState, key: &str) -> AppResult<Projection> {
    find_with(&mut *connection(state).await?, key).await?.ok_or_else(|| not_found(key))
}

async fn find_with(conn: &mut PgConnection, key: &str) -> AppResult<Option<Projection>> {
    Ok(db::projections::list_by_key(conn, &[key.to_owned()]).await?.pop())
}

fn not_found(key: &str) -> AppError {
    AppError::refused(ProblemCode::ProjectionNotFound, format!("there is no projection `{}`", shown(key)))
}

/// A page of the cache, last come first.
pub async fn list_projections(state: &AppState, page: PageRequest) -> AppResult<Paged<Projection>> {
    let mut conn = connection(state).await?;
    let rows = db::projections::list_projections(&mut conn, page).await?;
    Ok(page.cut(rows, |projection| projection.projection_id))
}

/// Takes a projection out of the cache, bytes and all.
pub async fn delete_projection(state: &AppState, key: &str) -> AppResult<()> {
    let mut transaction = begin(state).await?;
    let deleted = db::projections::delete_projection(&mut transaction, key).await?;
    let digest = deleted.ok_or_else(|| not_found(key))?;
    db::gc::free_blobs(&mut transaction, &[digest], state.clock.now()).await?;
    commit(transaction).await?;
    delete_freed(state).await;
    Ok(())
}

/// Evicts what was not used for long, then what was used longest ago until the rest is within its bound; returns how many went.
pub async fn evict(state: &AppState) -> AppResult<usize> {
    let now = state.clock.now();
    let config = &state.config.projections;
    let mut evicted = 0;
    loop {
        let mut transaction = begin(state).await?;
        let gone = db::projections::evict(&mut transaction, now - config.keep(), config.projections_bytes).await?;
        if gone.is_empty() {
            break;
        }
        db::gc::free_blobs(&mut transaction, &gone, now).await?;
        commit(transaction).await?;
        evicted += gone.len();
    }
    if evicted > 0 {
        metrics::counter!("barycenter_projections_evicted_total").increment(evicted as u64);
        tracing::info!(projections.evicted = evicted, "evicted projections");
        delete_freed(state).await;
    }
    Ok(evicted)
}

/// Deletes what was freed; what the store does not delete now goes with the next collection.
async fn delete_freed(state: &AppState) {
    if let Err(error) = gc::delete_objects(state).await {
        tracing::warn!(error = ?error, "freed bytes of projections are left to the next collection");
    }
}

/// The projection of a job as its lease tells of it; what the cache has of it counts as used.
pub(super) async fn lease(
    state: &AppState,
    conn: &mut PgConnection,
    job_id: JobId,
) -> AppResult<Option<LeasedProjection>> {
    let keys = db::projections::find_keys(conn, job_id).await?;
    let Some(projection_key) = keys.projection_key else { return Ok(None) };
    let (mut links, whole) = followed(conn, job_id).await?;
    let named =
        links.iter().map(|link| &link.projection_key).chain([&projection_key]).chain(&keys.fresh_projection_key);
    let named: Vec<String> = named.cloned().collect();
    let cached = db::projections::list_by_key(conn, &named).await?;
    if !cached.is_empty() {
        let used: Vec<String> = cached.iter().map(|projection| projection.projection_key.clone()).collect();
        db::projections::mark_used(conn, &used, false, state.clock.now()).await?;
    }
    let stored = |key: &str| cached.iter().find(|projection| projection.projection_key == key).map(shared);
    for link in &mut links {
        link.stored = stored(&link.projection_key);
    }
    Ok(Some(LeasedProjection {
        stored: stored(&projection_key),
        fresh: keys.fresh_projection_key.map(|key| FreshProjection { stored: stored(&key), projection_key: key }),
        projection_key,
        links,
        whole,
        shared: state.config.projections.projections_bytes > 0,
    }))
}

/// What a job's projection extends, as far back as the sets are there, and whether that is all of it.
async fn followed(conn: &mut PgConnection, job_id: JobId) -> AppResult<(Vec<ProjectionLink>, bool)> {
    let pinned = db::projections::list_links(conn, job_id).await?;
    let ids: Vec<CandidateSetId> = pinned.iter().map(|link| link.candidate_set_id).collect();
    let sets = db::candidate_sets::list_by_id(conn, &ids).await?;
    let members: HashMap<CandidateSetId, &Vec<Candidate>> =
        sets.iter().map(|set| (set.candidate_set_id, &set.members)).collect();
    let gone = ids.iter().rposition(|id| !members.contains_key(id));
    let links = pinned.into_iter().skip(gone.map_or(0, |place| place + 1)).filter_map(|link| {
        let candidates = members.get(&link.candidate_set_id)?.iter().cloned().map(leased_candidate).collect();
        Some(ProjectionLink { projection_key: link.projection_key, candidates, stored: None })
    });
    Ok((links.collect(), gone.is_none()))
}

fn shared(projection: &Projection) -> SharedProjection {
    SharedProjection {
        url_path: format!("/v1/projections/{}/content", projection.projection_key),
        size_bytes: projection.blob.size_bytes,
        digest_blake3: projection.blob.digest_blake3.clone(),
    }
}

/// A candidate as a lease names it.
pub(super) fn leased_candidate(candidate: Candidate) -> LeasedCandidate {
    LeasedCandidate {
        checkpoint_id: candidate.checkpoint_id.0,
        step: candidate.step,
        size_bytes: candidate.size_bytes,
        digest_blake3: candidate.digest_blake3,
    }
}

/// Counts where the projection of a job that ends came from, in the transaction of the end.
pub(super) async fn count(
    state: &AppState,
    conn: &mut PgConnection,
    lease_id: LeaseId,
    report: &ProjectionReport,
) -> AppResult<()> {
    let more = |source| u64::from(report.source == source);
    let counts = Counts {
        built: more(ProjectionSource::Built),
        extended: more(ProjectionSource::Extended),
        cached: more(ProjectionSource::Cached),
        fetched: more(ProjectionSource::Fetched),
    };
    db::projections::count_for_worker(conn, lease_id, counts).await?;
    let used = report.extended_from.as_ref().unwrap_or(&report.projection_key).clone();
    db::projections::mark_used(conn, &[used], report.fetched, state.clock.now()).await?;
    Ok(())
}
