//! Tensor layouts, once for all files that share them.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, types::Json};

use super::DbResult;
use crate::domain::{ids::RunId, layout::Tensor};

/// Inserts a layout unless its digest is known.
pub async fn insert_layout(
    conn: &mut PgConnection,
    layout_blake3: &str,
    tensors: &[Tensor],
    now: DateTime<Utc>,
) -> DbResult<()> {
    sqlx::query!(
        "insert into layouts (layout_blake3, tensors, created_at) values ($1, $2, $3) on conflict do nothing",
        layout_blake3,
        Json(tensors) as _,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The tensors of a layout, by name.
pub async fn find_layout(conn: &mut PgConnection, layout_blake3: &str) -> DbResult<Option<Vec<Tensor>>> {
    let row = sqlx::query!(
        r#"select tensors as "tensors: Json<Vec<Tensor>>" from layouts where layout_blake3 = $1"#,
        layout_blake3
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| row.tensors.0))
}

/// The layout that a run's checkpoints share, with the step of its first one; `None` while it has none.
pub async fn find_run_layout(conn: &mut PgConnection, run_id: RunId) -> DbResult<Option<(i64, String)>> {
    let row = sqlx::query!(
        "select step, layout_blake3 from checkpoints where run_id = $1 order by checkpoint_id limit 1",
        run_id.0
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.step, row.layout_blake3)))
}
