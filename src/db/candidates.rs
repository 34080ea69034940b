//! The checkpoints that a rule chooses from.

use std::collections::BTreeMap;

use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    candidate_set::Candidate,
    ids::{CheckpointId, RunId},
    selection::Choice,
};

/// The checkpoints of these runs with `from <= step <= to`; a run's place in `run_ids` becomes [`Choice::run`].
pub async fn list_choices(conn: &mut PgConnection, run_ids: &[RunId], from: i64, to: i64) -> DbResult<Vec<Choice>> {
    let ids: Vec<Uuid> = run_ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"select checkpoint_id, run_id, step, metrics as "metrics: Json<BTreeMap<String, f64>>", tags
           from checkpoints where run_id = any($1) and deleted_at is null and step between $2 and $3"#,
        &ids,
        from,
        to,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let run = ids.iter().position(|id| *id == row.run_id);
            Ok(Choice {
                checkpoint_id: row.checkpoint_id.into(),
                run: run.ok_or_else(|| DbError::inconsistent("checkpoints", "run_id", row.checkpoint_id))?,
                step: row.step,
                metrics: row.metrics.0,
                tags: row.tags,
            })
        })
        .collect()
}

/// Those of these checkpoints that belong to these runs, in the order given.
pub async fn list_candidates(
    conn: &mut PgConnection,
    run_ids: &[RunId],
    ids: &[CheckpointId],
) -> DbResult<Vec<Candidate>> {
    let run_ids: Vec<Uuid> = run_ids.iter().map(|id| id.0).collect();
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"select checkpoint_id, run_id, step, coalesce(files_bytes, size_bytes) as "size_bytes!", digest_blake3, layout_blake3
         from checkpoints join blobs using (digest_blake3)
         where run_id = any($1) and checkpoint_id = any($2) and deleted_at is null
         order by array_position($2, checkpoint_id)"#,
        &run_ids,
        &ids,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let size_bytes = u64::try_from(row.size_bytes)
                .map_err(|_| DbError::inconsistent("checkpoints", "size_bytes", row.checkpoint_id))?;
            Ok(Candidate {
                checkpoint_id: row.checkpoint_id.into(),
                run_id: row.run_id.into(),
                step: row.step,
                size_bytes,
                digest_blake3: row.digest_blake3,
                layout_blake3: row.layout_blake3,
            })
        })
        .collect()
}
