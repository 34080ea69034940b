//! SQL of histories and coefficients. The vectors of snapshots lie in object storage; these rows say where.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::DbResult;
use crate::domain::{
    history::Scalars,
    ids::{JobId, LeaseId},
};

/// Keeps the names of a job's blocks, in place of those before.
pub async fn save_blocks(connection: &mut PgConnection, job_id: JobId, names: &[String]) -> DbResult<()> {
    sqlx::query!(
        r#"
        insert into job_blocks (job_id, names) values ($1, $2)
        on conflict (job_id) do update set names = excluded.names
        "#,
        job_id.0,
        names,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Names of a job's blocks, where a worker has told them.
pub async fn find_blocks(connection: &mut PgConnection, job_id: JobId) -> DbResult<Option<Vec<String>>> {
    Ok(sqlx::query_scalar!("select names from job_blocks where job_id = $1", job_id.0)
        .fetch_optional(connection)
        .await?)
}

/// A chunk that was written to object storage.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Identifier.
    pub chunk_id: Uuid,
    /// The job.
    pub job_id: JobId,
    /// The lease it was written under.
    pub lease_id: LeaseId,
    /// Digest of the blob that holds it.
    pub digest_blake3: String,
    /// When it was written.
    pub created_at: DateTime<Utc>,
}

/// A snapshot and the place of its vector in the chunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlacedSnapshot {
    /// Its numbers.
    pub scalars: Scalars,
    /// First byte of the vector in the chunk.
    pub offset_bytes: u64,
    /// Bytes of the vector.
    pub length_bytes: u64,
}

/// Notes a chunk and its snapshots. A snapshot that is sent again replaces the one of the same step, so that a resumed
/// attempt may repeat the steps since its fit state.
pub async fn save_snapshots(
    connection: &mut PgConnection,
    chunk: &Chunk,
    snapshots: &[PlacedSnapshot],
) -> DbResult<()> {
    sqlx::query!(
        r#"
        insert into history_chunks (chunk_id, job_id, lease_id, digest_blake3, created_at)
        values ($1, $2, $3, $4, $5)
        "#,
        chunk.chunk_id,
        chunk.job_id.0,
        chunk.lease_id.0,
        chunk.digest_blake3,
        chunk.created_at,
    )
    .execute(&mut *connection)
    .await?;
    let column = |of: fn(&PlacedSnapshot) -> i64| snapshots.iter().map(of).collect::<Vec<_>>();
    let numbers = |of: fn(&Scalars) -> f64| snapshots.iter().map(|s| of(&s.scalars)).collect::<Vec<_>>();
    let losses = |of: fn(&Scalars) -> Option<f64>| snapshots.iter().map(|s| of(&s.scalars)).collect::<Vec<_>>();
    sqlx::query!(
        r#"
        insert into history_snapshots
            (job_id, step, epoch, learning_rate, fit_loss, select_loss, chunk_id, offset_bytes, length_bytes)
        select $1, step, epoch, learning_rate, fit_loss, select_loss, $2, offset_bytes, length_bytes
        from unnest($3::bigint[], $4::float8[], $5::float8[], $6::float8[], $7::float8[], $8::bigint[], $9::bigint[])
            as sent (step, epoch, learning_rate, fit_loss, select_loss, offset_bytes, length_bytes)
        on conflict (job_id, step) do update
        set epoch = excluded.epoch,
            learning_rate = excluded.learning_rate,
            fit_loss = excluded.fit_loss,
            select_loss = excluded.select_loss,
            chunk_id = excluded.chunk_id,
            offset_bytes = excluded.offset_bytes,
            length_bytes = excluded.length_bytes
        "#,
        chunk.job_id.0,
        chunk.chunk_id,
        &column(|s| s.scalars.step as i64),
        &numbers(|s| s.epoch),
        &numbers(|s| s.learning_rate),
        &losses(|s| s.fit_loss) as &[Option<f64>],
        &losses(|s| s.select_loss) as &[Option<f64>],
        &column(|s| s.offset_bytes as i64),
        &column(|s| s.length_bytes as i64),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A stored snapshot and where its vector lies.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotRow {
    /// Its numbers.
    pub scalars: Scalars,
    /// The object that holds the vector.
    pub object_key: String,
    /// First byte of the vector in it.
    pub offset_bytes: u64,
    /// Bytes of the vector.
    pub length_bytes: u64,
}

/// Snapshots of a job after a step, in order of step, at most `limit`.
pub async fn list_snapshots(
    connection: &mut PgConnection,
    job_id: JobId,
    after_step: Option<u64>,
    limit: i64,
) -> DbResult<Vec<SnapshotRow>> {
    let after_step = after_step.map_or(-1, |step| i64::try_from(step).unwrap_or(i64::MAX));
    let rows = sqlx::query!(
        r#"
        select step, epoch, learning_rate, fit_loss, select_loss, object_key, offset_bytes, length_bytes
        from history_snapshots
        join history_chunks using (chunk_id)
        join blobs using (digest_blake3)
        where history_snapshots.job_id = $1 and step > $2
        order by step
        limit $3
        "#,
        job_id.0,
        after_step,
        limit,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| SnapshotRow {
            scalars: Scalars {
                step: row.step.unsigned_abs(),
                epoch: row.epoch,
                learning_rate: row.learning_rate,
                fit_loss: row.fit_loss,
                select_loss: row.select_loss,
            },
            object_key: row.object_key,
            offset_bytes: row.offset_bytes.unsigned_abs(),
            length_bytes: row.length_bytes.unsigned_abs(),
        })
        .collect())
}

/// Coefficients a job ended with: n x L f64 values, little-endian, candidate by candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoefficientsRow {
    /// n.
    pub candidate_count: usize,
    /// L.
    pub block_count: usize,
    /// The values.
    pub values_f64: Vec<u8>,
}

/// Keeps the coefficients a job ended with.
pub async fn insert_coefficients(
    connection: &mut PgConnection,
    job_id: JobId,
    coefficients: &CoefficientsRow,
) -> DbResult<()> {
    sqlx::query!(
        "insert into coefficients (job_id, candidate_count, block_count, values_f64) values ($1, $2, $3, $4)",
        job_id.0,
        coefficients.candidate_count as i32,
        coefficients.block_count as i32,
        coefficients.values_f64,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The coefficients a job ended with, where it succeeded.
pub async fn find_coefficients(connection: &mut PgConnection, job_id: JobId) -> DbResult<Option<CoefficientsRow>> {
    let row =
        sqlx::query!("select candidate_count, block_count, values_f64 from coefficients where job_id = $1", job_id.0)
            .fetch_optional(connection)
            .await?;
    Ok(row.map(|row| CoefficientsRow {
        candidate_count: row.candidate_count.unsigned_abs() as usize,
        block_count: row.block_count.unsigned_abs() as usize,
        values_f64: row.values_f64,
    }))
}
