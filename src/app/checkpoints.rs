//! Checkpoints.

use sqlx::PgConnection;

use super::{
    AppError, AppResult, Incoming, PutOutcome,
    blobs::{self, PendingUpload},
    runs::find_run_with,
    tensor_file::CheckedFile,
    transaction::{begin, commit, connection},
};
use crate::{
    db,
    domain::{
        checkpoint::{Checkpoint, InvalidReport, Reported},
        checkpoint_list::{Cursor, ListRequest},
        ids::{CheckpointId, RunId},
        layout::{Tensor, first_difference},
        page::Paged,
        problem_code::ProblemCode,
    },
    state::AppState,
    storage::Stored,
};

/// Where a checkpoint goes and what is reported beside it.
#[derive(Clone, Debug)]
pub struct NewCheckpoint {
    /// The run, by id or name.
    pub run: String,
    /// The step, as it stands in the path.
    pub step: String,
    /// What training reports.
    pub reported: Reported,
}

impl From<InvalidReport> for AppError {
    fn from(invalid: InvalidReport) -> Self {
        Self::invalid_field(invalid.field, invalid.detail)
    }
}

/// Stores a checkpoint, refusing as early as each fault can be known; a refused file leaves nothing behind.
pub async fn accept_checkpoint(
    state: &AppState,
    new: NewCheckpoint,
    incoming: Incoming,
) -> AppResult<PutOutcome<Checkpoint>> {
    let step = parse_step(&new.step)?;
    incoming.check_announcement(state.config.uploads.max_upload_bytes)?;
    let mut conn = connection(state).await?;
    let run_id = find_run_with(&mut conn, &new.run).await?.run_id;
    let existing = db::checkpoints::find_checkpoint_at(&mut conn, run_id, step).await?;
    drop(conn);
    if let Some(existing) = existing {
        return compare(existing, incoming).await;
    }
    let file = incoming.read_header(state).await?;
    let layout = FileLayout { digest: file.layout.digest(), tensors: file.tensors() };
    let mut conn = connection(state).await?;
    check_layout(&mut conn, run_id, &layout).await?;
    drop(conn);
    store(state, run_id, step, new.reported, file, layout).await
}

/// Names, dtypes and shapes of a file, and their digest.
struct FileLayout {
    digest: String,
    tensors: Vec<Tensor>,
}

async fn store(
    state: &AppState,
    run_id: RunId,
    step: i64,
    reported: Reported,
    file: CheckedFile,
    layout: FileLayout,
) -> AppResult<PutOutcome<Checkpoint>> {
    let (upload, stored) = file.store(state).await?;
    let outcome = publish(state, run_id, step, reported, &layout, &upload, &stored).await;
    blobs::discard(state, &upload).await;
    if matches!(outcome, Ok(PutOutcome::Created(_))) {
        metrics::histogram!("barycenter_upload_size_bytes", "kind" => "checkpoint").record(stored.size_bytes as f64);
    }
    outcome
}

async fn publish(
    state: &AppState,
    run_id: RunId,
    step: i64,
    reported: Reported,
    layout: &FileLayout,
    upload: &PendingUpload,
    stored: &Stored,
) -> AppResult<PutOutcome<Checkpoint>> {
    let now = state.clock.now();
    let mut transaction = begin(state).await?;
    // Two first checkpoints of one run may arrive together: the second must see the layout of the first.
    db::runs::lock_run(&mut transaction, run_id).await?;
    if let Some(existing) = db::checkpoints::find_checkpoint_at(&mut transaction, run_id, step).await? {
        return same_or_taken(existing, &stored.digest_blake3);
    }
    check_layout(&mut transaction, run_id, layout).await?;
    db::layouts::insert_layout(&mut transaction, &layout.digest, &layout.tensors, now).await?;
    let checkpoint = Checkpoint {
        checkpoint_id: CheckpointId(state.clock.new_id()),
        run_id,
        step,
        reported,
        blob: blobs::commit_blob(&mut transaction, upload, stored, now).await?,
        layout_blake3: layout.digest.clone(),
        tensor_count: layout.tensors.len() as u64,
        pinned: false,
        created_at: now,
    };
    if !db::checkpoints::insert_checkpoint(&mut transaction, &checkpoint).await? {
        return Err(step_taken(step));
    }
    commit(transaction).await?;
    Ok(PutOutcome::Created(checkpoint))
}

fn parse_step(text: &str) -> AppResult<i64> {
    match text.parse::<i64>() {
        Ok(step) if step >= 0 => Ok(step),
        _ => {
            let shown = crate::domain::name::shown(text);
            Err(AppError::invalid_field("step", format!("must be a whole number from 0 to 2^63 - 1, not `{shown}`")))
        }
    }
}

/// The step is taken: the same bytes again are no error.
async fn compare(existing: Checkpoint, incoming: Incoming) -> AppResult<PutOutcome<Checkpoint>> {
    if let Some(announced) = &incoming.digest_blake3 {
        return same_or_taken(existing, announced);
    }
    let size = existing.blob.size_bytes;
    if incoming.content_length.is_some_and(|length| length != size) {
        return Err(step_taken(existing.step));
    }
    let digest = incoming.digest(size).await?;
    same_or_taken(existing, &digest.unwrap_or_default())
}

fn same_or_taken(existing: Checkpoint, digest_blake3: &str) -> AppResult<PutOutcome<Checkpoint>> {
    if existing.blob.digest_blake3 == digest_blake3 {
        return Ok(PutOutcome::Existing(existing));
    }
    Err(step_taken(existing.step))
}

fn step_taken(step: i64) -> AppError {
    AppError::fault(ProblemCode::StepTaken, "step", format!("the run already has another checkpoint at step {step}"))
}

/// All checkpoints of a run share one layout: refuses another, naming the first tensor that differs.
async fn check_layout(conn: &mut PgConnection, run_id: RunId, layout: &FileLayout) -> AppResult<()> {
    let Some((first_step, expected)) = db::layouts::find_run_layout(conn, run_id).await? else {
        return Ok(());
    };
    if expected == layout.digest {
        return Ok(());
    }
    let expected = find_layout(conn, &expected).await?;
    let reference = format!("the checkpoint at step {first_step}");
    match first_difference(&expected, &layout.tensors, &reference) {
        Some(difference) => Err(AppError::fault(ProblemCode::LayoutDiffers, difference.tensor, difference.detail)),
        None => Err(AppError::internal("two layouts differ in digest and in nothing else")),
    }
}

/// The tensors of a layout that a row refers to.
pub(super) async fn find_layout(conn: &mut PgConnection, layout_blake3: &str) -> AppResult<Vec<Tensor>> {
    let tensors = db::layouts::find_layout(conn, layout_blake3).await?;
    tensors.ok_or_else(|| AppError::internal("a layout is gone: layouts are never deleted"))
}

/// A checkpoint by id.
pub async fn find_checkpoint(state: &AppState, id: CheckpointId) -> AppResult<Checkpoint> {
    let mut conn = connection(state).await?;
    find_checkpoint_with(&mut conn, id).await
}

/// A checkpoint by id, on a connection at hand.
pub(super) async fn find_checkpoint_with(conn: &mut PgConnection, id: CheckpointId) -> AppResult<Checkpoint> {
    db::checkpoints::find_checkpoint(conn, id).await?.ok_or_else(|| checkpoint_not_found(id))
}

/// The refusal of an id that no checkpoint has.
pub(super) fn checkpoint_not_found(id: CheckpointId) -> AppError {
    AppError::refused(ProblemCode::CheckpointNotFound, format!("there is no checkpoint {id}"))
}

/// The tensors of a checkpoint, by name.
pub async fn list_tensors(state: &AppState, id: CheckpointId) -> AppResult<Vec<Tensor>> {
    let checkpoint = find_checkpoint(state, id).await?;
    let mut conn = connection(state).await?;
    find_layout(&mut conn, &checkpoint.layout_blake3).await
}

/// A page of a run's checkpoints.
pub async fn list_checkpoints(
    state: &AppState,
    run: &str,
    request: &ListRequest,
) -> AppResult<Paged<Checkpoint, Cursor>> {
    let mut conn = connection(state).await?;
    let run_id = find_run_with(&mut conn, run).await?.run_id;
    let mut items = db::checkpoint_list::list_checkpoints(&mut conn, run_id, request).await?;
    let more = items.len() > request.size as usize;
    items.truncate(request.size as usize);
    let last = if more { items.last().and_then(|last| request.sort.position_of(last)) } else { None };
    Ok(Paged { items, next: last.map(|position| Cursor { sort: request.sort.clone(), position }) })
}
