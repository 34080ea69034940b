//! SQL of artifacts.

use sqlx::PgConnection;
use uuid::Uuid;

use super::DbError;
use crate::domain::artifact::Artifact;

/// Publishes an artifact.
pub async fn insert(connection: &mut PgConnection, artifact: &Artifact) -> Result<(), DbError> {
    sqlx::query!(
        r#"
        insert into artifacts (artifact_id, job_id, run_id, lease_id, digest_blake3, size_bytes, worker_version, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        "#,
        artifact.artifact_id,
        artifact.job_id,
        artifact.run_id,
        artifact.lease_id,
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
pub async fn find(connection: &mut PgConnection, artifact_id: Uuid) -> Result<Option<Artifact>, DbError> {
    let row = sqlx::query!(
        r#"
        select job_id, run_id, lease_id, digest_blake3, size_bytes, worker_version, created_at
        from artifacts
        where artifact_id = $1
        "#,
        artifact_id
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Artifact {
        artifact_id,
        job_id: row.job_id,
        run_id: row.run_id,
        lease_id: row.lease_id,
        digest_blake3: row.digest_blake3,
        size_bytes: row.size_bytes.unsigned_abs(),
        worker_version: row.worker_version,
        created_at: row.created_at,
    }))
}
