//! Which checkpoints of a run a rule chooses.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{DbError, DbResult};
use crate::domain::{
    candidate_set::{Candidate, Direction},
    ids::RunId,
};

struct CandidateRow {
    checkpoint_id: Uuid,
    step: i64,
    size_bytes: i64,
    digest_blake3: String,
    layout_blake3: String,
}

impl TryFrom<CandidateRow> for Candidate {
    type Error = DbError;

    fn try_from(row: CandidateRow) -> DbResult<Self> {
        let size_bytes = u64::try_from(row.size_bytes)
            .map_err(|_| DbError::inconsistent("checkpoints", "size_bytes", row.checkpoint_id))?;
        Ok(Self {
            checkpoint_id: row.checkpoint_id.into(),
            step: row.step,
            size_bytes,
            digest_blake3: row.digest_blake3,
            layout_blake3: row.layout_blake3,
        })
    }
}

fn candidates(rows: Vec<CandidateRow>) -> DbResult<Vec<Candidate>> {
    rows.into_iter().map(Candidate::try_from).collect()
}

/// Those of these checkpoints that belong to the run, in no order.
pub async fn list_candidates_by_id(conn: &mut PgConnection, run_id: RunId, ids: &[Uuid]) -> DbResult<Vec<Candidate>> {
    let rows = sqlx::query_as!(
        CandidateRow,
        "select checkpoint_id, step, size_bytes, digest_blake3, layout_blake3
         from checkpoints join blobs using (digest_blake3)
         where run_id = $1 and checkpoint_id = any($2)",
        run_id.0,
        ids,
    )
    .fetch_all(conn)
    .await?;
    candidates(rows)
}

/// The checkpoints of the highest steps, highest first.
pub async fn list_last_candidates(conn: &mut PgConnection, run_id: RunId, count: u32) -> DbResult<Vec<Candidate>> {
    let rows = sqlx::query_as!(
        CandidateRow,
        "select checkpoint_id, step, size_bytes, digest_blake3, layout_blake3
         from checkpoints join blobs using (digest_blake3)
         where run_id = $1 order by step desc limit $2",
        run_id.0,
        i64::from(count),
    )
    .fetch_all(conn)
    .await?;
    candidates(rows)
}

/// The best checkpoints by a metric, best first; those without it are left out, of equals the later comes first.
pub async fn list_best_candidates(
    conn: &mut PgConnection,
    run_id: RunId,
    metric: &str,
    direction: Direction,
    count: u32,
) -> DbResult<Vec<Candidate>> {
    let sign = match direction {
        Direction::Min => 1.0,
        Direction::Max => -1.0,
    };
    let rows = sqlx::query_as!(
        CandidateRow,
        "select checkpoint_id, step, size_bytes, digest_blake3, layout_blake3
         from checkpoints join blobs using (digest_blake3)
         where run_id = $1 and metrics ? $2
         order by $3::float8 * (metrics ->> $2)::float8, step desc limit $4",
        run_id.0,
        metric,
        sign,
        i64::from(count),
    )
    .fetch_all(conn)
    .await?;
    candidates(rows)
}

/// Every `every`-th of the checkpoints with `from <= step <= to`, from the first on; at most `limit`.
pub async fn list_candidates_in_steps(
    conn: &mut PgConnection,
    run_id: RunId,
    from: i64,
    to: i64,
    every: u32,
    limit: usize,
) -> DbResult<Vec<Candidate>> {
    let rows = sqlx::query_as!(
        CandidateRow,
        "with numbered as (
             select *, row_number() over (order by step) - 1 as position
             from checkpoints where run_id = $1 and step between $2 and $3
         )
         select checkpoint_id, step, size_bytes, digest_blake3, layout_blake3
         from numbered join blobs using (digest_blake3)
         where position % $4 = 0 order by step limit $5",
        run_id.0,
        from,
        to,
        i64::from(every),
        limit as i64,
    )
    .fetch_all(conn)
    .await?;
    candidates(rows)
}
