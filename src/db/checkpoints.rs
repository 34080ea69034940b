//! Checkpoints.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    blob::Blob,
    checkpoint::{Checkpoint, Reported},
    checkpoint_files::Several,
    ids::{CheckpointId, RunId},
};

pub(super) struct CheckpointRow {
    pub(super) checkpoint_id: Uuid,
    pub(super) run_id: Uuid,
    pub(super) step: i64,
    pub(super) epoch: Option<f64>,
    pub(super) metrics: Json<BTreeMap<String, f64>>,
    pub(super) tags: Vec<String>,
    pub(super) digest_blake3: String,
    pub(super) size_bytes: i64,
    pub(super) object_key: String,
    pub(super) file_count: Option<i32>,
    pub(super) files_bytes: Option<i64>,
    pub(super) layout_blake3: String,
    pub(super) tensor_count: i32,
    pub(super) pinned: bool,
    pub(super) created_at: DateTime<Utc>,
}

impl TryFrom<CheckpointRow> for Checkpoint {
    type Error = DbError;

    fn try_from(row: CheckpointRow) -> DbResult<Self> {
        let size_bytes = u64::try_from(row.size_bytes)
            .map_err(|_| DbError::inconsistent("checkpoints", "size_bytes", row.checkpoint_id))?;
        Ok(Self {
            checkpoint_id: row.checkpoint_id.into(),
            run_id: row.run_id.into(),
            step: row.step,
            reported: Reported { epoch: row.epoch, metrics: row.metrics.0, tags: row.tags },
            blob: Blob { digest_blake3: row.digest_blake3, size_bytes, object_key: row.object_key },
            files: row
                .file_count
                .zip(row.files_bytes)
                .map(|(count, bytes)| Several { count: count.unsigned_abs().into(), size_bytes: bytes.unsigned_abs() }),
            layout_blake3: row.layout_blake3,
            tensor_count: row.tensor_count.unsigned_abs().into(),
            pinned: row.pinned,
            created_at: row.created_at,
        })
    }
}

/// Inserts a checkpoint; false where the run has one at this step.
pub async fn insert_checkpoint(conn: &mut PgConnection, checkpoint: &Checkpoint) -> DbResult<bool> {
    let result = sqlx::query!(
        "insert into checkpoints
             (checkpoint_id, run_id, step, epoch, metrics, tags, digest_blake3, layout_blake3, created_at,
              file_count, files_bytes)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         on conflict (run_id, step) where deleted_at is null do nothing",
        checkpoint.checkpoint_id.0,
        checkpoint.run_id.0,
        checkpoint.step,
        checkpoint.reported.epoch,
        Json(&checkpoint.reported.metrics) as _,
        &checkpoint.reported.tags,
        checkpoint.blob.digest_blake3,
        checkpoint.layout_blake3,
        checkpoint.created_at,
        checkpoint.files.map(|files| files.count as i32),
        checkpoint.files.map(|files| files.size_bytes as i64),
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// The checkpoint of this id.
pub async fn find_checkpoint(conn: &mut PgConnection, id: CheckpointId) -> DbResult<Option<Checkpoint>> {
    let row = sqlx::query_as!(
        CheckpointRow,
        r#"select checkpoint_id, run_id, step, epoch, metrics as "metrics: _", tags, digest_blake3, size_bytes,
               object_key, file_count, files_bytes, layout_blake3, tensor_count, pinned_at is not null as "pinned!", checkpoints.created_at
           from checkpoints join blobs using (digest_blake3) join layouts using (layout_blake3)
           where checkpoint_id = $1 and deleted_at is null"#,
        id.0,
    )
    .fetch_optional(conn)
    .await?;
    row.map(Checkpoint::try_from).transpose()
}

/// The run's checkpoint at this step.
pub async fn find_checkpoint_at(conn: &mut PgConnection, run_id: RunId, step: i64) -> DbResult<Option<Checkpoint>> {
    let row = sqlx::query_as!(
        CheckpointRow,
        r#"select checkpoint_id, run_id, step, epoch, metrics as "metrics: _", tags, digest_blake3, size_bytes,
               object_key, file_count, files_bytes, layout_blake3, tensor_count, pinned_at is not null as "pinned!", checkpoints.created_at
           from checkpoints join blobs using (digest_blake3) join layouts using (layout_blake3)
           where run_id = $1 and step = $2 and deleted_at is null"#,
        run_id.0,
        step,
    )
    .fetch_optional(conn)
    .await?;
    row.map(Checkpoint::try_from).transpose()
}

/// The run's checkpoint of the highest step.
pub async fn find_latest_checkpoint(conn: &mut PgConnection, run_id: RunId) -> DbResult<Option<Checkpoint>> {
    let row = sqlx::query_as!(
        CheckpointRow,
        r#"select checkpoint_id, run_id, step, epoch, metrics as "metrics: _", tags, digest_blake3, size_bytes,
               object_key, file_count, files_bytes, layout_blake3, tensor_count, pinned_at is not null as "pinned!", checkpoints.created_at
           from checkpoints join blobs using (digest_blake3) join layouts using (layout_blake3)
           where run_id = $1 and deleted_at is null order by step desc limit 1"#,
        run_id.0,
    )
    .fetch_optional(conn)
    .await?;
    row.map(Checkpoint::try_from).transpose()
}

/// Makes other writers of a checkpoint wait until the transaction ends; false where there is none.
pub async fn lock_checkpoint(conn: &mut PgConnection, id: CheckpointId) -> DbResult<bool> {
    let row = sqlx::query!(
        "select checkpoint_id from checkpoints where checkpoint_id = $1 and deleted_at is null for update",
        id.0
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}

/// Writes metrics and tags of a locked checkpoint.
pub async fn update_reported(conn: &mut PgConnection, id: CheckpointId, reported: &Reported) -> DbResult<()> {
    sqlx::query!(
        "update checkpoints set metrics = $2, tags = $3 where checkpoint_id = $1",
        id.0,
        Json(&reported.metrics) as _,
        &reported.tags,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Pins a checkpoint or, without a time, unpins it; one that is pinned keeps its time. False where there is none.
pub async fn mark_pinned(conn: &mut PgConnection, id: CheckpointId, at: Option<DateTime<Utc>>) -> DbResult<bool> {
    let result = sqlx::query!(
        "update checkpoints
         set pinned_at = case when $2::timestamptz is null then null else coalesce(pinned_at, $2) end
         where checkpoint_id = $1 and deleted_at is null",
        id.0,
        at,
    )
    .execute(conn)
    .await?;
    Ok(result.rows_affected() == 1)
}
