//! The history of a fit and the coefficients it ended with.
//!
//! Scalars lie in rows. The vectors of one heartbeat lie together in one object of f64 values, so that a fit of a
//! thousand steps with a thousand blocks is a few hundred objects, not a million rows.

use barycenter_api::{CandidateRef, CoefficientTable, Floats, History, HistorySnapshot, Snapshot};
use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::PgConnection;

use super::{
    AppError, AppResult,
    blobs::{self, PendingUpload},
    candidate_sets::find_candidate_set_with,
    jobs,
    transaction::connection,
};
use crate::{
    db::{
        self, DbError,
        history::{Chunk, CoefficientsRow, PlacedSnapshot, SnapshotRow},
        jobs::LockedJob,
    },
    domain::{
        candidate_set::Candidate,
        history::{Scalars, first_bad_block, rows_of},
        ids::{JobId, LeaseId},
        problem_code::ProblemCode,
    },
    state::AppState,
    storage::{ObjectKey, Stored},
};

/// How far from 1 the coefficients of a block may sum.
const SUM_TOLERANCE: f64 = 1e-6;
/// Bytes of vectors on one page of a history; a page always holds at least one snapshot.
const MAX_PAGE_BYTES: u64 = 32 << 20;
const BYTES_OF_F64: u64 = 8;

/// The vectors of a heartbeat in object storage, not yet noted anywhere but as an upload.
pub(super) struct StoredChunk {
    pub(super) upload: PendingUpload,
    stored: Stored,
}

/// Stores the vectors of these snapshots as one object; `None` where there are none.
pub(super) async fn store_chunk(state: &AppState, snapshots: &[Snapshot]) -> AppResult<Option<StoredChunk>> {
    check_snapshots(snapshots)?;
    if snapshots.is_empty() {
        return Ok(None);
    }
    let bytes: Vec<u8> = snapshots.iter().flat_map(|snapshot| snapshot.coefficients.to_le_bytes()).collect();
    let upload = blobs::begin_upload(state).await?;
    match state.store.put_bytes(&upload.key, Bytes::from(bytes)).await {
        Ok(stored) => Ok(Some(StoredChunk { upload, stored })),
        Err(error) => {
            blobs::discard(state, &upload).await;
            Err(error.into())
        }
    }
}

fn check_snapshots(snapshots: &[Snapshot]) -> AppResult<()> {
    for (index, snapshot) in snapshots.iter().enumerate() {
        let field = |name: &str| format!("snapshots.{index}.{name}");
        if i64::try_from(snapshot.step).is_err() {
            return Err(AppError::invalid_field(field("step"), "is too large"));
        }
        if index > 0 && snapshots[index - 1].step >= snapshot.step {
            return Err(AppError::invalid_field(field("step"), "must be greater than the step before it"));
        }
        let values = &snapshot.coefficients.0;
        if values.is_empty() || values.iter().any(|value| !value.is_finite()) {
            return Err(AppError::invalid_field(field("coefficients"), "must be finite numbers, and not none"));
        }
    }
    Ok(())
}

/// Notes what a heartbeat reported of the fit, in the transaction that has checked its lease.
pub(super) async fn record(
    state: &AppState,
    conn: &mut PgConnection,
    (job_id, lease_id): (JobId, LeaseId),
    blocks: Option<&[String]>,
    snapshots: &[Snapshot],
    chunk: Option<&StoredChunk>,
) -> AppResult<()> {
    if let Some(blocks) = blocks {
        check_blocks(blocks)?;
        db::history::save_blocks(conn, job_id, blocks).await?;
    }
    let Some(chunk) = chunk else {
        return Ok(());
    };
    check_lengths(conn, job_id, snapshots).await?;
    let now = state.clock.now();
    let blob = blobs::commit_blob(conn, &chunk.upload, &chunk.stored, now).await?;
    let chunk =
        Chunk { chunk_id: state.clock.new_id(), job_id, lease_id, digest_blake3: blob.digest_blake3, created_at: now };
    db::history::save_snapshots(conn, &chunk, &placed(snapshots)).await?;
    Ok(())
}

fn check_blocks(blocks: &[String]) -> AppResult<()> {
    if blocks.is_empty() || blocks.iter().any(String::is_empty) {
        return Err(AppError::invalid_field("blocks", "must be names, and at least one"));
    }
    Ok(())
}

/// Every vector holds one number for each candidate and block.
async fn check_lengths(conn: &mut PgConnection, job_id: JobId, snapshots: &[Snapshot]) -> AppResult<()> {
    let blocks = db::history::find_blocks(conn, job_id).await?;
    let blocks = blocks.ok_or_else(|| AppError::invalid_field("blocks", "must be sent with the first snapshots"))?;
    let candidate_count = db::job_inputs::count_candidates(conn, job_id).await?;
    let expected = candidate_count * blocks.len();
    for (index, snapshot) in snapshots.iter().enumerate() {
        let given = snapshot.coefficients.0.len();
        if given != expected {
            let detail = format!(
                "has {given} numbers; {candidate_count} candidates and {} blocks need {expected}",
                blocks.len()
            );
            return Err(AppError::invalid_field(format!("snapshots.{index}.coefficients"), detail));
        }
    }
    Ok(())
}

fn placed(snapshots: &[Snapshot]) -> Vec<PlacedSnapshot> {
    let mut offset_bytes = 0;
    let place = |snapshot: &Snapshot| {
        let length_bytes = snapshot.coefficients.0.len() as u64 * BYTES_OF_F64;
        let placed = PlacedSnapshot {
            scalars: Scalars {
                step: snapshot.step,
                epoch: snapshot.epoch,
                learning_rate: snapshot.learning_rate,
                fit_loss: snapshot.fit_loss,
                select_loss: snapshot.select_loss,
            },
            offset_bytes,
            length_bytes,
        };
        offset_bytes += length_bytes;
        placed
    };
    snapshots.iter().map(place).collect()
}

/// Coefficients as a worker gives them.
pub(super) struct GivenCoefficients<'a> {
    /// Names of the blocks.
    pub(super) blocks: &'a [String],
    /// (n, L).
    pub(super) values: &'a [f64],
    /// Whether each block has to sum to 1.
    pub(super) sums_to_one: bool,
}

/// Keeps the coefficients that a job ends with, after checking that they are what they claim to be.
pub(super) async fn save_coefficients(
    conn: &mut PgConnection,
    job: &LockedJob,
    given: &GivenCoefficients<'_>,
) -> AppResult<()> {
    let GivenCoefficients { blocks, values, sums_to_one } = *given;
    check_blocks(blocks)?;
    let candidate_count = db::job_inputs::count_candidates(conn, job.job_id).await?;
    if values.len() != candidate_count * blocks.len() {
        let detail = format!(
            "has {} numbers; {candidate_count} candidates and {} blocks need {}",
            values.len(),
            blocks.len(),
            candidate_count * blocks.len()
        );
        return Err(AppError::invalid_field("coefficients", detail));
    }
    let tolerance = if sums_to_one { SUM_TOLERANCE } else { f64::INFINITY };
    if let Some((block, what)) = first_bad_block(values, blocks.len(), tolerance) {
        return Err(AppError::invalid_field("coefficients", format!("block `{}` {what}", blocks[block])));
    }
    let row = CoefficientsRow {
        candidate_count,
        block_count: blocks.len(),
        values_f64: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    db::history::save_blocks(conn, job.job_id, blocks).await?;
    db::history::insert_coefficients(conn, job.job_id, &row).await?;
    Ok(())
}

/// The coefficients that a job ended with.
pub async fn find_coefficients(state: &AppState, job_id: JobId) -> AppResult<CoefficientTable> {
    let mut conn = connection(state).await?;
    let candidates = candidates_of(&mut conn, job_id).await?;
    read_coefficients(&mut conn, job_id, &candidates).await
}

async fn candidates_of(conn: &mut PgConnection, job_id: JobId) -> AppResult<Vec<Candidate>> {
    let job = db::jobs::find(conn, job_id).await?.ok_or_else(|| jobs::not_found(job_id))?;
    Ok(find_candidate_set_with(conn, job.candidate_set_id).await?.members)
}

/// The coefficients that a job ended with, beside its candidates.
pub(super) async fn read_coefficients(
    conn: &mut PgConnection,
    job_id: JobId,
    candidates: &[Candidate],
) -> AppResult<CoefficientTable> {
    let row = db::history::find_coefficients(conn, job_id).await?.ok_or_else(|| {
        let detail = format!("job {job_id} has no coefficients; only a job that has succeeded has");
        AppError::refused(ProblemCode::NoCoefficients, detail)
    })?;
    let inconsistent = |column| AppError::from(DbError::inconsistent("coefficients", column, job_id.0));
    let blocks = db::history::find_blocks(conn, job_id).await?.ok_or_else(|| inconsistent("block_count"))?;
    let values = Floats::from_le_bytes(&row.values_f64).ok_or_else(|| inconsistent("values_f64"))?;
    if blocks.len() != row.block_count || candidates.len() != row.candidate_count {
        return Err(inconsistent("candidate_count"));
    }
    Ok(CoefficientTable { candidates: refs(candidates), values: rows_of(&values.0, blocks.len()), blocks })
}

fn refs(candidates: &[Candidate]) -> Vec<CandidateRef> {
    candidates.iter().map(|row| CandidateRef { checkpoint_id: row.checkpoint_id.0, step: row.step }).collect()
}

/// Which part of a history.
#[derive(Clone, Copy, Debug)]
pub struct HistoryPage {
    /// Only snapshots after this step.
    pub after_step: Option<u64>,
    /// At most this many snapshots.
    pub limit: u32,
    /// Whether to read the coefficients.
    pub coefficients: bool,
}

/// A page of a job's history; empty, without blocks, until a worker has reported.
pub async fn list_history(state: &AppState, job_id: JobId, page: HistoryPage) -> AppResult<History> {
    let mut conn = connection(state).await?;
    let candidates = candidates_of(&mut conn, job_id).await?;
    let blocks = db::history::find_blocks(&mut conn, job_id).await?.unwrap_or_default();
    let limit = i64::from(page.limit) + 1;
    let mut rows = db::history::list_snapshots(&mut conn, job_id, page.after_step, limit).await?;
    drop(conn);
    let kept = rows_that_fit(&rows, page);
    let more = rows.len() > kept;
    rows.truncate(kept);
    let vectors = if page.coefficients { read_vectors(state, &rows).await? } else { Vec::new() };
    let mut vectors = vectors.into_iter();
    let snapshots: Vec<HistorySnapshot> = rows
        .iter()
        .map(|row| HistorySnapshot {
            step: row.scalars.step,
            epoch: row.scalars.epoch,
            learning_rate: row.scalars.learning_rate,
            fit_loss: row.scalars.fit_loss,
            select_loss: row.scalars.select_loss,
            coefficients: vectors.next().map(|values| rows_of(&values, blocks.len())),
        })
        .collect();
    let next_after_step = if more { snapshots.last().map(|snapshot| snapshot.step) } else { None };
    Ok(History { candidates: refs(&candidates), blocks, snapshots, next_after_step })
}

/// How many of the rows fit on the page, by number and by bytes; at least one of those there are.
fn rows_that_fit(rows: &[SnapshotRow], page: HistoryPage) -> usize {
    let bounded = rows.len().min(page.limit as usize);
    if !page.coefficients {
        return bounded;
    }
    let mut bytes = 0;
    let fits = rows[..bounded].iter().take_while(|row| {
        bytes += row.length_bytes;
        bytes <= MAX_PAGE_BYTES
    });
    fits.count().max(bounded.min(1))
}

/// The vectors of these snapshots. Neighbours usually lie in one object and are then read together.
async fn read_vectors(state: &AppState, rows: &[SnapshotRow]) -> AppResult<Vec<Vec<f64>>> {
    let mut vectors = Vec::with_capacity(rows.len());
    for run in rows.chunk_by(|a, b| a.object_key == b.object_key) {
        let start = run.iter().map(|row| row.offset_bytes).min().unwrap_or(0);
        let end = run.iter().map(|row| row.offset_bytes + row.length_bytes).max().unwrap_or(0);
        let key = ObjectKey::from_stored(&run[0].object_key);
        let parts: Vec<Bytes> = state.store.get_range(&key, start..end).await?.try_collect().await?;
        let bytes = parts.concat();
        for row in run {
            let first = (row.offset_bytes - start) as usize;
            let vector = bytes.get(first..first + row.length_bytes as usize).and_then(Floats::from_le_bytes);
            let torn = || AppError::internal(format!("chunk {} lacks the vector of a snapshot", row.object_key));
            vectors.push(vector.ok_or_else(torn)?.0);
        }
    }
    Ok(vectors)
}
