//! SQL of artifacts.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::DbResult;
use crate::domain::{
    artifact::Artifact,
    ids::{ArtifactId, LeaseId, UploadId},
};

/// Publishes an artifact.
pub async fn insert(connection: &mut PgConnection, artifact: &Artifact) -> DbResult<()> {
    sqlx::query!(
        r#"
        insert into artifacts (artifact_id, job_id, run_id, lease_id, digest_blake3, size_bytes, worker_version, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        "#,
        artifact.artifact_id.0,
        artifact.job_id.0,
        artifact.run_id.0,
        artifact.lease_id.0,
        artifact.digest_blake3,
        artifact.size_bytes as i64,
        artifact.worker_version,
        artifact.created_at,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// An artifact by its id.
pub async fn find(connection: &mut PgConnection, artifact_id: ArtifactId) -> DbResult<Option<Artifact>> {
    let row = sqlx::query!(
        r#"
        select job_id, run_id, lease_id, digest_blake3, size_bytes, worker_version, created_at, expires_at
        from artifacts
        where artifact_id = $1 and deleted_at is null
        "#,
        artifact_id.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Artifact {
        artifact_id,
        job_id: row.job_id.into(),
        run_id: row.run_id.into(),
        lease_id: row.lease_id.into(),
        digest_blake3: row.digest_blake3,
        size_bytes: row.size_bytes.unsigned_abs(),
        worker_version: row.worker_version,
        created_at: row.created_at,
        expires_at: row.expires_at,
    }))
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
