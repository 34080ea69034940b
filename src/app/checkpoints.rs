//! Checkpoints.

use barycenter_core::checkpoint::Layout;
use barycenter_faults::{self as faults, Point};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    AppError, AppResult, Incoming, PutOutcome,
    blobs::{self, PendingUpload},
    runs::find_run_with,
    tensor_file::{CheckedFile, tensors_of},
    transaction::{begin, commit, connection},
};
use crate::{
    db,
    domain::{
        blob::Blob,
        checkpoint::{Checkpoint, InvalidReport, Reported},
        checkpoint_files::Several,
        checkpoint_list::{Cursor, ListRequest, SortKey},
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
    let layout = FileLayout::of(&file.layout);
    let mut conn = connection(state).await?;
    check_layout(&mut conn, run_id, &layout).await?;
    drop(conn);
    store(state, Place { run_id, step, reported: new.reported }, file, layout).await
}

/// Names, dtypes and shapes of a file, and their digest.
pub(super) struct FileLayout {
    pub(super) digest: String,
    pub(super) tensors: Vec<Tensor>,
}

impl FileLayout {
    pub(super) fn of(layout: &Layout) -> Self {
        Self { digest: layout.digest(), tensors: tensors_of(layout) }
    }

    /// Notes that a blob is a safetensors file of this layout.
    pub(super) async fn save(&self, conn: &mut PgConnection, digest_blake3: &str, now: DateTime<Utc>) -> AppResult<()> {
        db::layouts::insert_layout(conn, &self.digest, &self.tensors, now).await?;
        db::files::insert_tensor_file(conn, digest_blake3, &self.digest).await?;
        Ok(())
    }
}

/// Where a checkpoint stands, by the run's id.
pub(super) struct Place {
    pub(super) run_id: RunId,
    pub(super) step: i64,
    pub(super) reported: Reported,
}

async fn store(
    state: &AppState,
    place: Place,
    file: CheckedFile,
    layout: FileLayout,
) -> AppResult<PutOutcome<Checkpoint>> {
    let (upload, stored) = file.store(state).await?;
    faults::pass(Point::ServerCheckpointStored).await;
    let outcome = publish(state, place, &layout, &upload, &stored).await;
    blobs::discard(state, &upload).await;
    if matches!(outcome, Ok(PutOutcome::Created(_))) {
        metrics::histogram!("barycenter_upload_size_bytes", "kind" => "checkpoint").record(stored.size_bytes as f64);
    }
    outcome
}

async fn publish(
    state: &AppState,
    place: Place,
    layout: &FileLayout,
    upload: &PendingUpload,
    stored: &Stored,
) -> AppResult<PutOutcome<Checkpoint>> {
    let mut transaction = begin(state).await?;
    let outcome = publish_with(state, &mut transaction, place, layout, upload, stored).await?;
    commit(transaction).await?;
    faults::pass(Point::ServerCheckpointCommitted).await;
    Ok(outcome)
}

/// Makes stored bytes the checkpoint of a step, in the caller's transaction.
pub(super) async fn publish_with(
    state: &AppState,
    conn: &mut PgConnection,
    place: Place,
    layout: &FileLayout,
    upload: &PendingUpload,
    stored: &Stored,
) -> AppResult<PutOutcome<Checkpoint>> {
    if let Some(existing) = prepare(state, conn, &place, layout, &stored.digest_blake3).await? {
        return Ok(PutOutcome::Existing(existing));
    }
    let blob = blobs::commit_blob(conn, upload, stored, state.clock.now()).await?;
    layout.save(conn, &blob.digest_blake3, state.clock.now()).await?;
    insert(state, conn, place, layout, blob, None).await.map(PutOutcome::Created)
}

/// Makes bytes that lie where somebody else keeps them the checkpoint of a step, in the caller's transaction.
pub(super) async fn register_with(
    state: &AppState,
    conn: &mut PgConnection,
    place: Place,
    layout: &FileLayout,
    blob: Blob,
) -> AppResult<PutOutcome<Checkpoint>> {
    if let Some(existing) = prepare(state, conn, &place, layout, &blob.digest_blake3).await? {
        return Ok(PutOutcome::Existing(existing));
    }
    let blob = blobs::register_blob(conn, blob, state.clock.now()).await?;
    layout.save(conn, &blob.digest_blake3, state.clock.now()).await?;
    insert(state, conn, place, layout, blob, None).await.map(PutOutcome::Created)
}

/// What comes before the blob: nobody else changes the run's checkpoints, the step is free, the layout is that of the run.
pub(super) async fn prepare(
    state: &AppState,
    conn: &mut PgConnection,
    place: &Place,
    layout: &FileLayout,
    digest_blake3: &str,
) -> AppResult<Option<Checkpoint>> {
    // Two first checkpoints of one run may arrive together: the second must see the layout of the first.
    db::runs::lock_run(conn, place.run_id).await?;
    if let Some(existing) = find_same(conn, place.run_id, place.step, digest_blake3).await? {
        return Ok(Some(existing));
    }
    check_layout(conn, place.run_id, layout).await?;
    db::layouts::insert_layout(conn, &layout.digest, &layout.tensors, state.clock.now()).await?;
    Ok(None)
}

/// Inserts a checkpoint for which all is prepared: `blob` is its file, or the list of its files where it has several.
pub(super) async fn insert(
    state: &AppState,
    conn: &mut PgConnection,
    place: Place,
    layout: &FileLayout,
    blob: Blob,
    files: Option<Several>,
) -> AppResult<Checkpoint> {
    let Place { run_id, step, reported } = place;
    let checkpoint = Checkpoint {
        checkpoint_id: CheckpointId(state.clock.new_id()),
        run_id,
        step,
        reported,
        blob,
        files,
        layout_blake3: layout.digest.clone(),
        tensor_count: layout.tensors.len() as u64,
        pinned: false,
        created_at: state.clock.now(),
    };
    if !db::checkpoints::insert_checkpoint(conn, &checkpoint).await? {
        return Err(step_taken(step));
    }
    Ok(checkpoint)
}

/// The checkpoint of a step, where it has these bytes; refuses where it has others.
pub(super) async fn find_same(
    conn: &mut PgConnection,
    run_id: RunId,
    step: i64,
    digest_blake3: &str,
) -> AppResult<Option<Checkpoint>> {
    match db::checkpoints::find_checkpoint_at(conn, run_id, step).await? {
        Some(existing) if existing.blob.digest_blake3 != digest_blake3 => Err(step_taken(step)),
        existing => Ok(existing),
    }
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
pub(super) async fn check_layout(conn: &mut PgConnection, run_id: RunId, layout: &FileLayout) -> AppResult<()> {
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
    Ok(cut(request, db::checkpoint_list::list_checkpoints(&mut conn, run_id, request).await?, |checkpoint| checkpoint))
}

/// A page of a run's checkpoints that are deleted and not yet removed, each with the time of its deletion.
pub async fn list_deleted_checkpoints(
    state: &AppState,
    run: &str,
    request: &ListRequest,
) -> AppResult<Paged<(Checkpoint, DateTime<Utc>), Cursor>> {
    if request.sort.key != SortKey::CreatedAt {
        let detail = "deleted checkpoints have no order but `created_at`";
        return Err(AppError::fault(ProblemCode::InvalidQuery, "sort", detail));
    }
    let mut conn = connection(state).await?;
    let run_id = find_run_with(&mut conn, run).await?.run_id;
    let rows = db::checkpoint_list::list_deleted_checkpoints(&mut conn, run_id, request).await?;
    Ok(cut(request, rows, |(checkpoint, _)| checkpoint))
}

/// Cuts rows, one more than a page holds where another follows, into a page.
fn cut<T>(request: &ListRequest, mut items: Vec<T>, checkpoint: impl Fn(&T) -> &Checkpoint) -> Paged<T, Cursor> {
    let more = items.len() > request.size as usize;
    items.truncate(request.size as usize);
    let last = if more { items.last().and_then(|last| request.sort.position_of(checkpoint(last))) } else { None };
    Paged { items, next: last.map(|position| Cursor { sort: request.sort.clone(), position }) }
}
