//! SQL of artifacts.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::DbResult;
use crate::domain::{
    artifact::{Artifact, Kept},
    ids::{ArtifactId, LeaseId, RunId, UploadId},
    page::PageRequest,
};

struct ArtifactRow {
    artifact_id: Uuid,
    job_id: Uuid,
    run_id: Uuid,
    lease_id: Uuid,
    digest_blake3: String,
    size_bytes: i64,
    worker_version: String,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    merge_plan: Option<Value>,
    drops_at: Option<DateTime<Utc>>,
    dropped_at: Option<DateTime<Utc>>,
    deleted_at: Option<DateTime<Utc>>,
    kept_blake3: Option<String>,
    kept_bytes: Option<i64>,
}

impl From<ArtifactRow> for Artifact {
    fn from(row: ArtifactRow) -> Self {
        let kept = row.kept_blake3.zip(row.kept_bytes);
        Self {
            artifact_id: row.artifact_id.into(),
            job_id: row.job_id.into(),
            run_id: row.run_id.into(),
            lease_id: row.lease_id.into(),
            digest_blake3: row.digest_blake3,
            size_bytes: row.size_bytes.unsigned_abs(),
            worker_version: row.worker_version,
            created_at: row.created_at,
            expires_at: row.expires_at,
            merge_plan: row.merge_plan,
            drops_at: row.drops_at,
            dropped_at: row.dropped_at,
            kept: kept.map(|(digest_blake3, size)| Kept { digest_blake3, size_bytes: size.unsigned_abs() }),
            deleted_at: row.deleted_at,
        }
    }
}

/// One checked query: the columns of an artifact and what was kept of it, where `$condition` holds.
macro_rules! artifacts {
    ($condition:tt, $($argument:expr),+) => {
        sqlx::query_as!(
            ArtifactRow,
            r#"select artifact_id, job_id, run_id, lease_id, a.digest_blake3, a.size_bytes, worker_version, a.created_at,
                   expires_at, merge_plan, drops_at, dropped_at, deleted_at, kept_blake3, kept.size_bytes as "kept_bytes?"
               from artifacts a left join blobs kept on kept.digest_blake3 = a.kept_blake3
               where "# + $condition,
            $($argument),+
        )
    };
}

/// Publishes an artifact.
pub async fn insert(connection: &mut PgConnection, artifact: &Artifact) -> DbResult<()> {
    sqlx::query!(
        r#"
        insert into artifacts (
            artifact_id, job_id, run_id, lease_id, digest_blake3, size_bytes, worker_version, created_at, merge_plan)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        "#,
        artifact.artifact_id.0,
        artifact.job_id.0,
        artifact.run_id.0,
        artifact.lease_id.0,
        artifact.digest_blake3,
        artifact.size_bytes as i64,
        artifact.worker_version,
        artifact.created_at,
        artifact.merge_plan,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// An artifact by its id.
pub async fn find(connection: &mut PgConnection, artifact_id: ArtifactId) -> DbResult<Option<Artifact>> {
    let row = artifacts!("artifact_id = $1 and deleted_at is null", artifact_id.0);
    Ok(row.fetch_optional(connection).await?.map(Artifact::from))
}

/// Rows of a page of artifacts, of all runs or of one, newest first: those that are there, or those that are deleted and not
/// yet removed.
pub async fn list(
    connection: &mut PgConnection,
    run_id: Option<RunId>,
    deleted: bool,
    page: PageRequest,
) -> DbResult<Vec<Artifact>> {
    let rows = artifacts!(
        "($1::uuid is null or run_id = $1) and (deleted_at is not null) = $2 and artifact_id < $3
         order by artifact_id desc limit $4",
        run_id.map(|id| id.0),
        deleted,
        page.before.unwrap_or(Uuid::max()),
        page.limit()
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(Artifact::from).collect())
}

/// Sets when an artifact deletes itself; false where there is none.
pub async fn mark_expiring(
    connection: &mut PgConnection,
    artifact_id: ArtifactId,
    expires_at: Option<DateTime<Utc>>,
) -> DbResult<bool> {
    let result = sqlx::query!(
        "update artifacts set expires_at = $2 where artifact_id = $1 and deleted_at is null",
        artifact_id.0,
        expires_at,
    )
    .execute(connection)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Sets when an artifact drops its bytes.
pub async fn mark_dropping(
    connection: &mut PgConnection,
    artifact_id: ArtifactId,
    drops_at: Option<DateTime<Utc>>,
) -> DbResult<()> {
    sqlx::query!(
        "update artifacts set drops_at = $2 where artifact_id = $1 and deleted_at is null",
        artifact_id.0,
        drops_at,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Artifacts whose time to drop their bytes has come, unless an alias names them.
pub async fn list_due_to_drop(connection: &mut PgConnection, now: DateTime<Utc>) -> DbResult<Vec<ArtifactId>> {
    let ids = sqlx::query_scalar!(
        "select artifact_id from artifacts
         where drops_at <= $1 and dropped_at is null and deleted_at is null
           and not exists (select from run_aliases where run_aliases.artifact_id = artifacts.artifact_id)
         order by drops_at",
        now,
    );
    Ok(ids.fetch_all(connection).await?.into_iter().map(ArtifactId).collect())
}

/// Takes its bytes from an artifact, all but those kept; false where it is deleted or has none already.
pub async fn mark_dropped(
    connection: &mut PgConnection,
    artifact_id: ArtifactId,
    kept_blake3: Option<&str>,
    now: DateTime<Utc>,
) -> DbResult<bool> {
    let result = sqlx::query!(
        "update artifacts set dropped_at = $2, kept_blake3 = $3, drops_at = null
         where artifact_id = $1 and deleted_at is null and dropped_at is null",
        artifact_id.0,
        now,
        kept_blake3,
    )
    .execute(connection)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Gives an artifact its bytes again; false where it is deleted. What was kept of them is needed no more.
pub async fn mark_rebuilt(connection: &mut PgConnection, artifact_id: ArtifactId) -> DbResult<bool> {
    let result = sqlx::query!(
        "update artifacts set dropped_at = null, kept_blake3 = null where artifact_id = $1 and deleted_at is null",
        artifact_id.0,
    )
    .execute(connection)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// A file that a lease has uploaded and not yet published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactUpload {
    /// The upload that holds it.
    pub upload_id: UploadId,
    /// Where its bytes lie.
    pub object_key: String,
    /// Digest received.
    pub digest_blake3: String,
    /// Size received.
    pub size_bytes: u64,
}

/// Notes the file that a lease has uploaded, in place of the one before.
pub async fn save_upload(
    connection: &mut PgConnection,
    lease_id: LeaseId,
    upload: &ArtifactUpload,
    now: DateTime<Utc>,
) -> DbResult<()> {
    sqlx::query!(
        r#"
        insert into artifact_uploads (lease_id, upload_id, digest_blake3, size_bytes, stored_at)
        values ($1, $2, $3, $4, $5)
        on conflict (lease_id) do update
        set upload_id = excluded.upload_id,
            digest_blake3 = excluded.digest_blake3,
            size_bytes = excluded.size_bytes,
            stored_at = excluded.stored_at
        "#,
        lease_id.0,
        upload.upload_id.0,
        upload.digest_blake3,
        upload.size_bytes as i64,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The file that a lease has uploaded and not yet published.
pub async fn find_upload(connection: &mut PgConnection, lease_id: LeaseId) -> DbResult<Option<ArtifactUpload>> {
    let row = sqlx::query!(
        r#"
        select upload_id, object_key, digest_blake3, size_bytes
        from artifact_uploads
        join uploads using (upload_id)
        where lease_id = $1
        "#,
        lease_id.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| ArtifactUpload {
        upload_id: row.upload_id.into(),
        object_key: row.object_key,
        digest_blake3: row.digest_blake3,
        size_bytes: row.size_bytes.unsigned_abs(),
    }))
}

/// Keeps the file that a lease has uploaded from the reaper, while its worker is alive.
pub async fn renew_upload(connection: &mut PgConnection, lease_id: LeaseId, now: DateTime<Utc>) -> DbResult<()> {
    sqlx::query!(
        r#"
        update uploads
        set renewed_at = $2
        from artifact_uploads
        where artifact_uploads.lease_id = $1
          and uploads.upload_id = artifact_uploads.upload_id
          and abandoned_at is null
        "#,
        lease_id.0,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}
