//! Artifacts: receiving them under a lease, publishing them, reading them.

use barycenter_api::{Artifact, EditArtifact, KeptTensors, MergePlan, StoredArtifact};
use barycenter_faults::{self as faults, Point};
use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::PgConnection;

use super::{
    AppError, AppResult,
    blobs::{self, PendingUpload},
    drops, leases,
    runs::find_run_with,
    tensor_file::Incoming,
    transaction::{begin, commit, connection},
};
use crate::{
    db::{self, DbError, artifacts::ArtifactUpload, jobs::LockedJob},
    domain::{
        artifact,
        blob::Blob,
        ids::{ArtifactId, LeaseId},
        page::{PageRequest, Paged},
        problem_code::ProblemCode,
    },
    state::AppState,
    storage::{ObjectKey, Stored},
};

/// Receives the artifact of a lease. It stays a pending upload, seen by nobody, until `finish`; a second one takes the
/// place of the first.
pub async fn receive_artifact(state: &AppState, lease_id: LeaseId, file: Incoming) -> AppResult<StoredArtifact> {
    file.check_announcement(state.config.uploads.max_upload_bytes)?;
    let mut transaction = begin(state).await?;
    lock_held(&mut transaction, lease_id).await?;
    commit(transaction).await?;
    let (upload, stored) = file.read_header(state).await?.store(state).await?;
    faults::pass(Point::ServerArtifactStored).await;
    let noted = note_upload(state, lease_id, &upload, &stored).await;
    let superfluous = match &noted {
        Ok(replaced) => replaced.as_ref(),
        Err(_) => Some(&upload),
    };
    if let Some(superfluous) = superfluous {
        blobs::discard(state, superfluous).await;
    }
    noted?;
    metrics::histogram!("barycenter_upload_size_bytes", "kind" => "artifact").record(stored.size_bytes as f64);
    Ok(StoredArtifact { size_bytes: stored.size_bytes, digest_blake3: stored.digest_blake3 })
}

async fn lock_held(conn: &mut PgConnection, lease_id: LeaseId) -> AppResult<()> {
    let (_, job) = leases::lock_attempt(conn, lease_id).await?;
    leases::check_held(&job, lease_id, "artifact")
}

/// Notes an upload as the one of its lease, which may have been lost while the bytes flowed; returns the one before.
async fn note_upload(
    state: &AppState,
    lease_id: LeaseId,
    upload: &PendingUpload,
    stored: &Stored,
) -> AppResult<Option<PendingUpload>> {
    let mut transaction = begin(state).await?;
    lock_held(&mut transaction, lease_id).await?;
    let replaced = find_pending(&mut transaction, lease_id).await?;
    let row = ArtifactUpload {
        upload_id: upload.upload_id,
        object_key: upload.key.to_string(),
        digest_blake3: stored.digest_blake3.clone(),
        size_bytes: stored.size_bytes,
    };
    db::artifacts::save_upload(&mut transaction, lease_id, &row, state.clock.now()).await?;
    commit(transaction).await?;
    Ok(replaced)
}

/// The pending upload of a lease.
pub(super) async fn find_pending(conn: &mut PgConnection, lease_id: LeaseId) -> AppResult<Option<PendingUpload>> {
    Ok(db::artifacts::find_upload(conn, lease_id).await?.map(|upload| pending(&upload)))
}

fn pending(upload: &ArtifactUpload) -> PendingUpload {
    PendingUpload { upload_id: upload.upload_id, key: ObjectKey::from_stored(&upload.object_key) }
}

/// What a publication rests on.
pub(super) struct Publication<'a> {
    pub(super) lease_id: LeaseId,
    pub(super) job: &'a LockedJob,
    pub(super) worker_version: String,
    /// How a merge of the candidates makes the file again.
    pub(super) merge: Option<&'a MergePlan>,
    pub(super) now: DateTime<Utc>,
}

/// Makes the file uploaded under a lease the artifact of its job; returns the upload, for the caller to discard after
/// the commit.
pub(super) async fn publish(
    state: &AppState,
    conn: &mut PgConnection,
    publication: Publication<'_>,
    announced_blake3: &str,
) -> AppResult<PendingUpload> {
    let Publication { lease_id, job, worker_version, merge, now } = publication;
    let upload = db::artifacts::find_upload(conn, lease_id).await?.ok_or_else(|| {
        let detail = format!("upload the artifact to /v1/leases/{lease_id}/artifact before finishing");
        AppError::refused(ProblemCode::ArtifactMissing, detail)
    })?;
    if upload.digest_blake3 != announced_blake3 {
        let detail = format!("is {announced_blake3}, the uploaded artifact has {}", upload.digest_blake3);
        return Err(AppError::fault(ProblemCode::DigestDiffers, "artifact_digest_blake3", detail));
    }
    let stored = Stored { size_bytes: upload.size_bytes, digest_blake3: upload.digest_blake3.clone() };
    let upload = pending(&upload);
    let blob = blobs::commit_blob(conn, &upload, &stored, now).await?;
    let artifact = artifact::Artifact {
        artifact_id: ArtifactId(state.clock.new_id()),
        job_id: job.job_id,
        run_id: job.run_id,
        lease_id,
        digest_blake3: blob.digest_blake3,
        size_bytes: blob.size_bytes,
        worker_version,
        created_at: now,
        expires_at: None,
        merge_plan: merge.map(serde_json::to_value).transpose().map_err(AppError::internal)?,
        drops_at: None,
        dropped_at: None,
        kept: None,
        deleted_at: None,
    };
    db::artifacts::insert(conn, &artifact).await?;
    Ok(upload)
}

/// A published artifact.
pub async fn find_artifact(state: &AppState, artifact_id: ArtifactId) -> AppResult<Artifact> {
    let mut conn = connection(state).await?;
    Ok(to_wire(&find(&mut conn, artifact_id).await?))
}

/// A page of artifacts, of all runs or of one.
pub async fn list_artifacts(
    state: &AppState,
    run: Option<&str>,
    deleted: bool,
    page: PageRequest,
) -> AppResult<Paged<Artifact>> {
    let mut conn = connection(state).await?;
    let run_id = match run {
        None => None,
        Some(run) => Some(find_run_with(&mut conn, run).await?.run_id),
    };
    let rows = db::artifacts::list(&mut conn, run_id, deleted, page).await?;
    let Paged { items, next } = page.cut(rows, |artifact| artifact.artifact_id.0);
    Ok(Paged { items: items.iter().map(to_wire).collect(), next })
}

/// Sets when an artifact deletes itself or drops its bytes, or that it does not.
pub async fn edit_artifact(state: &AppState, artifact_id: ArtifactId, edit: &EditArtifact) -> AppResult<Artifact> {
    let now = state.clock.now();
    if edit.expires_at.is_none() && edit.drops_at.is_none() {
        return Err(AppError::invalid_field(
            "expires_at",
            "is missing, and so is `drops_at`: one of them is to change",
        ));
    }
    let is_over = |at: Option<Option<DateTime<Utc>>>| at.flatten().is_some_and(|at| at <= now);
    if is_over(edit.expires_at) {
        return Err(AppError::invalid_field("expires_at", "is over; delete the artifact instead"));
    }
    if is_over(edit.drops_at) {
        return Err(AppError::invalid_field("drops_at", "is over; drop its bytes instead"));
    }
    if edit.drops_at.flatten().is_some() {
        drops::check_rebuildable(state, artifact_id).await?;
    }
    let mut transaction = begin(state).await?;
    if let Some(expires_at) = edit.expires_at {
        db::artifacts::mark_expiring(&mut transaction, artifact_id, expires_at).await?;
    }
    if let Some(drops_at) = edit.drops_at {
        db::artifacts::mark_dropping(&mut transaction, artifact_id, drops_at).await?;
    }
    let artifact = find(&mut transaction, artifact_id).await?;
    commit(transaction).await?;
    Ok(to_wire(&artifact))
}

/// The bytes of an artifact, unless they were dropped.
pub async fn find_artifact_blob(state: &AppState, artifact_id: ArtifactId) -> AppResult<Blob> {
    let mut conn = connection(state).await?;
    let artifact = find(&mut conn, artifact_id).await?;
    if let Some(at) = artifact.dropped_at {
        let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let detail = format!(
            "the bytes of the artifact {artifact_id} were dropped at {at}; \
             `barycenter artifact rebuild {artifact_id}` makes them again from its candidates"
        );
        return Err(AppError::refused(ProblemCode::ArtifactDropped, detail));
    }
    let blob = db::blobs::find_blob(&mut conn, &artifact.digest_blake3).await?;
    Ok(blob.ok_or_else(|| DbError::inconsistent("artifacts", "digest_blake3", artifact_id.0))?)
}

pub(super) async fn find(conn: &mut PgConnection, artifact_id: ArtifactId) -> AppResult<artifact::Artifact> {
    db::artifacts::find(conn, artifact_id).await?.ok_or_else(|| not_found(artifact_id))
}

/// The refusal of an id that no artifact has.
pub(super) fn not_found(artifact_id: ArtifactId) -> AppError {
    AppError::refused(ProblemCode::ArtifactNotFound, format!("there is no artifact {artifact_id}"))
}

pub(super) fn to_wire(artifact: &artifact::Artifact) -> Artifact {
    Artifact {
        artifact_id: artifact.artifact_id.0,
        job_id: artifact.job_id.0,
        run_id: artifact.run_id.0,
        size_bytes: artifact.size_bytes,
        digest_blake3: artifact.digest_blake3.clone(),
        created_at: artifact.created_at,
        expires_at: artifact.expires_at,
        drops_at: artifact.drops_at,
        dropped_at: artifact.dropped_at,
        kept: artifact
            .kept
            .clone()
            .map(|kept| KeptTensors { size_bytes: kept.size_bytes, digest_blake3: kept.digest_blake3 }),
        deleted_at: artifact.deleted_at,
    }
}
