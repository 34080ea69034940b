//! Checkpoints.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    blob::Blob,
    checkpoint::{Checkpoint, Reported},
    ids::{CheckpointId, RunId},
    page::PageRequest,
};

struct CheckpointRow {
    checkpoint_id: Uuid,
    run_id: Uuid,
    step: i64,
    epoch: Option<f64>,
    metrics: Json<BTreeMap<String, f64>>,
    tags: Vec<String>,
    digest_blake3: String,
    size_bytes: i64,
    object_key: String,
    layout_blake3: String,
    tensor_count: i32,
    created_at: DateTime<Utc>,
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
            layout_blake3: row.layout_blake3,
            tensor_count: row.tensor_count.unsigned_abs().into(),
            created_at: row.created_at,
        })
    }
}

/// Inserts a checkpoint; false where the run has one at this step.
pub async fn insert_checkpoint(conn: &mut PgConnection, checkpoint: &Checkpoint) -> DbResult<bool> {
    let result = sqlx::query!(
        "insert into checkpoints
             (checkpoint_id, run_id, step, epoch, metrics, tags, digest_blake3, layout_blake3, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict on constraint checkpoints_run_id_step_key do nothing",
        checkpoint.checkpoint_id.0,
        checkpoint.run_id.0,
        checkpoint.step,
        checkpoint.reported.epoch,
        Json(&checkpoint.reported.metrics) as _,
        &checkpoint.reported.tags,
        checkpoint.blob.digest_blake3,
        checkpoint.layout_blake3,
        checkpoint.created_at,
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
               object_key, layout_blake3, jsonb_array_length(tensors) as "tensor_count!", checkpoints.created_at
           from checkpoints join blobs using (digest_blake3) join layouts using (layout_blake3)
           where checkpoint_id = $1"#,
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
               object_key, layout_blake3, jsonb_array_length(tensors) as "tensor_count!", checkpoints.created_at
           from checkpoints join blobs using (digest_blake3) join layouts using (layout_blake3)
           where run_id = $1 and step = $2"#,
        run_id.0,
        step,
    )
    .fetch_optional(conn)
    .await?;
    row.map(Checkpoint::try_from).transpose()
}

/// Rows of a page of a run's checkpoints, newest first.
pub async fn list_checkpoints(conn: &mut PgConnection, run_id: RunId, page: PageRequest) -> DbResult<Vec<Checkpoint>> {
    let rows = sqlx::query_as!(
        CheckpointRow,
        r#"select checkpoint_id, run_id, step, epoch, metrics as "metrics: _", tags, digest_blake3, size_bytes,
               object_key, layout_blake3, jsonb_array_length(tensors) as "tensor_count!", checkpoints.created_at
           from checkpoints join blobs using (digest_blake3) join layouts using (layout_blake3)
           where run_id = $1 and ($2::uuid is null or checkpoint_id < $2)
           order by checkpoint_id desc limit $3"#,
        run_id.0,
        page.before,
        page.limit(),
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Checkpoint::try_from).collect()
}
