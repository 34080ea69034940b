//! Retention rules of runs, and what they would free.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::DbResult;
use crate::domain::{
    ids::{CheckpointId, RunId},
    retention::{Kept, Retention},
};

/// The rules of a run, where it has any.
pub async fn find_retention(conn: &mut PgConnection, run_id: RunId) -> DbResult<Option<Retention>> {
    let row = sqlx::query!(
        r#"select retention as "retention: Json<Retention>" from runs where run_id = $1 and deleted_at is null"#,
        run_id.0
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.and_then(|row| row.retention).map(|rules| rules.0))
}

/// Writes the rules of a run, or that it has none.
pub async fn save_retention(conn: &mut PgConnection, run_id: RunId, rules: Option<&Retention>) -> DbResult<()> {
    sqlx::query!("update runs set retention = $2 where run_id = $1", run_id.0, rules.map(Json) as _)
        .execute(conn)
        .await?;
    Ok(())
}

/// Runs with rules.
pub async fn list_runs_with_retention(conn: &mut PgConnection) -> DbResult<Vec<RunId>> {
    let ids = sqlx::query_scalar!("select run_id from runs where retention is not null and deleted_at is null");
    Ok(ids.fetch_all(conn).await?.into_iter().map(RunId).collect())
}

/// A run's checkpoints, as its rules see them.
pub async fn list_kept(conn: &mut PgConnection, run_id: RunId) -> DbResult<Vec<Kept>> {
    let rows = sqlx::query!(
        r#"select checkpoint_id, step, metrics as "metrics: Json<BTreeMap<String, f64>>"
           from checkpoints where run_id = $1 and deleted_at is null order by step"#,
        run_id.0
    )
    .fetch_all(conn)
    .await?;
    let kept = rows.into_iter();
    Ok(kept
        .map(|row| Kept { checkpoint_id: row.checkpoint_id.into(), step: row.step, metrics: row.metrics.0 })
        .collect())
}

/// Those of these checkpoints that may go, by step: neither pinned nor needed by a set, an alias or a job. Their rows are
/// locked.
pub async fn lock_unneeded(conn: &mut PgConnection, ids: &[CheckpointId]) -> DbResult<Vec<CheckpointId>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    // Locked first, looked at afterwards: a job that comes to need one of them holds it until it is there to be seen.
    sqlx::query!("select from checkpoints where checkpoint_id = any($1) order by checkpoint_id for update", &ids)
        .fetch_all(&mut *conn)
        .await?;
    let rows = sqlx::query_scalar!(
        "select checkpoint_id from checkpoints c
         where checkpoint_id = any($1) and deleted_at is null and pinned_at is null
           and not exists (
               select from candidate_set_members m join candidate_sets s using (candidate_set_id)
               where m.checkpoint_id = c.checkpoint_id and s.deleted_at is null)
           and not exists (select from run_aliases a where a.checkpoint_id = c.checkpoint_id)
           and not exists (
               select from jobs where (spec #>> '{lora,base_checkpoint_id}')::uuid = c.checkpoint_id
                 and spec #>> '{lora,base_checkpoint_id}' is not null and jobs.deleted_at is null)
         order by step",
        &ids,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(CheckpointId).collect())
}

/// Marks checkpoints deleted.
pub async fn mark_deleted(conn: &mut PgConnection, ids: &[CheckpointId], at: DateTime<Utc>) -> DbResult<()> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    sqlx::query!("update checkpoints set deleted_at = $2 where checkpoint_id = any($1)", &ids, at)
        .execute(conn)
        .await?;
    Ok(())
}

/// A checkpoint that is to go.
#[derive(Clone, Debug)]
pub struct Doomed {
    /// The checkpoint.
    pub checkpoint_id: CheckpointId,
    /// Its step.
    pub step: i64,
    /// Size of its file.
    pub size_bytes: u64,
}

/// These checkpoints by step.
pub async fn list_doomed(conn: &mut PgConnection, ids: &[CheckpointId]) -> DbResult<Vec<Doomed>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"select checkpoint_id, step, coalesce(files_bytes, size_bytes) as "size_bytes!"
           from checkpoints join blobs using (digest_blake3) where checkpoint_id = any($1) order by step"#,
        &ids,
    )
    .fetch_all(conn)
    .await?;
    let doomed = rows.into_iter().map(|row| Doomed {
        checkpoint_id: row.checkpoint_id.into(),
        step: row.step,
        size_bytes: row.size_bytes.unsigned_abs(),
    });
    Ok(doomed.collect())
}

/// Bytes of the blobs that nothing but these checkpoints refers to, each counted once.
pub async fn count_freed_bytes(conn: &mut PgConnection, ids: &[CheckpointId]) -> DbResult<u64> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let bytes = sqlx::query_scalar!(
        r#"select coalesce(sum(size_bytes), 0)::bigint as "bytes!" from blobs
           where not registered and digest_blake3 in (
                 select digest_blake3 from checkpoints where checkpoint_id = any($1)
                 union all
                 select digest_blake3 from checkpoint_files where checkpoint_id = any($1))
             and not exists (
                 select from checkpoints o where o.digest_blake3 = blobs.digest_blake3 and o.checkpoint_id <> all($1))
             and not exists (
                 select from checkpoint_files o
                 where o.digest_blake3 = blobs.digest_blake3 and o.checkpoint_id <> all($1))
             and not exists (select from staged_files o where o.digest_blake3 = blobs.digest_blake3)
             and not exists (select from datasets o where o.digest_blake3 = blobs.digest_blake3)
             and not exists (select from artifacts o where o.blob_blake3 = blobs.digest_blake3)
             and not exists (select from artifacts o where o.kept_blake3 = blobs.digest_blake3)
             and not exists (select from history_chunks o where o.digest_blake3 = blobs.digest_blake3)"#,
        &ids,
    )
    .fetch_one(conn)
    .await?;
    Ok(bytes.unsigned_abs())
}
