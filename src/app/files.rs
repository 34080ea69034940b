//! Files that come for checkpoints of a run: each by itself, found by its digest, until a checkpoint is made of them.

use sqlx::PgConnection;

use super::{
    AppError, AppResult, Incoming, PutOutcome,
    blobs::{self, PendingUpload},
    checkpoints::FileLayout,
    idempotency::{self, IdempotentRequest, Reply},
    register,
    runs::find_run_with,
    tensor_file::{digest_differs, is_digest, no_digest},
    transaction::{begin, commit, connection},
};
use crate::{
    db::{self, files::AvailableFile},
    domain::{blob::Blob, checkpoint_files::MAX_OTHER_BYTES, ids::RunId, name::shown, problem_code::ProblemCode},
    state::AppState,
    storage::Stored,
};

/// A file to keep.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// The run, by id or name.
    pub run: String,
    /// Its digest.
    pub digest_blake3: String,
    /// Whether it is a safetensors file, and checked as one.
    pub is_weights: bool,
}

/// A file that is there for checkpoints of a run.
#[derive(Clone, Debug)]
pub struct RunFile {
    /// The run.
    pub run_id: RunId,
    /// What is known of it.
    pub file: AvailableFile,
}

/// Keeps a file for checkpoints of a run that are still to be created; one that is there is not read.
pub async fn accept_file(state: &AppState, new: NewFile, mut incoming: Incoming) -> AppResult<PutOutcome<RunFile>> {
    incoming.digest_blake3 = Some(new.digest_blake3.clone());
    let limit = if new.is_weights { state.config.uploads.max_upload_bytes } else { MAX_OTHER_BYTES };
    incoming.check_announcement(limit)?;
    let mut transaction = begin(state).await?;
    let run_id = find_run_with(&mut transaction, &new.run).await?.run_id;
    let existing = find_same(&mut transaction, run_id, &new.digest_blake3, new.is_weights).await?;
    if let Some(file) = existing {
        // It must not lapse now that somebody relies on it.
        db::files::stage(&mut transaction, run_id, &new.digest_blake3, state.clock.now()).await?;
        commit(transaction).await?;
        return Ok(PutOutcome::Existing(RunFile { run_id, file }));
    }
    drop(transaction);
    let (upload, stored, layout) = receive(state, new, incoming).await?;
    let published = publish(state, run_id, &upload, &stored, layout.as_ref()).await;
    blobs::discard(state, &upload).await;
    published.map(PutOutcome::Created)
}

async fn receive(
    state: &AppState,
    new: NewFile,
    incoming: Incoming,
) -> AppResult<(PendingUpload, Stored, Option<FileLayout>)> {
    if new.is_weights {
        let file = incoming.read_header(state).await?;
        let layout = FileLayout::of(&file.layout);
        let (upload, stored) = file.store(state).await?;
        return Ok((upload, stored, Some(layout)));
    }
    let upload = blobs::begin_upload(state).await?;
    let received = blobs::receive(state, &upload, incoming.body, MAX_OTHER_BYTES).await;
    let refused = match received {
        Ok(stored) if stored.digest_blake3 == new.digest_blake3 => return Ok((upload, stored, None)),
        Ok(stored) => digest_differs(&new.digest_blake3, &stored.digest_blake3),
        Err(error) => error,
    };
    blobs::discard(state, &upload).await;
    Err(refused)
}

async fn publish(
    state: &AppState,
    run_id: RunId,
    upload: &PendingUpload,
    stored: &Stored,
    layout: Option<&FileLayout>,
) -> AppResult<RunFile> {
    let mut transaction = begin(state).await?;
    publish_with(state, &mut transaction, run_id, upload, stored, layout).await?;
    let file = find_with(&mut transaction, run_id, &stored.digest_blake3).await?;
    commit(transaction).await?;
    Ok(RunFile { run_id, file })
}

/// Keeps stored bytes as a file of a run, in the caller's transaction.
pub(super) async fn publish_with(
    state: &AppState,
    conn: &mut PgConnection,
    run_id: RunId,
    upload: &PendingUpload,
    stored: &Stored,
    layout: Option<&FileLayout>,
) -> AppResult<()> {
    let blob = blobs::commit_blob(conn, upload, stored, state.clock.now()).await?;
    keep(state, conn, run_id, &blob, layout).await
}

async fn keep(
    state: &AppState,
    conn: &mut PgConnection,
    run_id: RunId,
    blob: &Blob,
    layout: Option<&FileLayout>,
) -> AppResult<()> {
    if let Some(layout) = layout {
        layout.save(conn, &blob.digest_blake3, state.clock.now()).await?;
    }
    db::files::stage(conn, run_id, &blob.digest_blake3, state.clock.now()).await?;
    Ok(())
}

/// A file to register.
#[derive(Clone, Debug)]
pub struct NewRegisteredFile {
    /// The run, by id or name.
    pub run: String,
    /// Where the file lies.
    pub url: String,
    /// Its digest.
    pub digest_blake3: String,
}

/// Makes an object that lies below an allowed prefix a file of a run, in place.
pub async fn register_file(
    state: &AppState,
    new: NewRegisteredFile,
    request: Option<&IdempotentRequest>,
    render: impl Fn(PutOutcome<RunFile>) -> AppResult<Reply>,
) -> AppResult<Reply> {
    if !is_digest(&new.digest_blake3) {
        return Err(no_digest("digest_blake3"));
    }
    if let Some(reply) = register::answered(state, request).await? {
        return Ok(reply);
    }
    let mut conn = connection(state).await?;
    let run_id = find_run_with(&mut conn, &new.run).await?.run_id;
    let existing = find_same(&mut conn, run_id, &new.digest_blake3, true).await?;
    drop(conn);
    let is_new = existing.is_none();
    let mut registered = None;
    if is_new {
        registered = Some(register::read(state, &new.url, &new.digest_blake3).await?);
    }
    let mut transaction = begin(state).await?;
    if let Some(reply) = idempotency::replay(&mut transaction, request, state.clock.now()).await? {
        return Ok(reply);
    }
    if let Some((blob, layout)) = registered {
        let blob = blobs::register_blob(&mut transaction, blob, state.clock.now()).await?;
        keep(state, &mut transaction, run_id, &blob, Some(&layout)).await?;
    }
    let file = RunFile { run_id, file: find_with(&mut transaction, run_id, &new.digest_blake3).await? };
    let reply = render(if is_new { PutOutcome::Created(file) } else { PutOutcome::Existing(file) })?;
    idempotency::record(&mut transaction, request, &reply).await?;
    commit(transaction).await?;
    Ok(reply)
}

/// A file of a run, by its digest.
pub async fn find_file(state: &AppState, run: &str, digest_blake3: &str) -> AppResult<RunFile> {
    let mut conn = connection(state).await?;
    let run_id = find_run_with(&mut conn, run).await?.run_id;
    Ok(RunFile { run_id, file: find_with(&mut conn, run_id, digest_blake3).await? })
}

async fn find_with(conn: &mut PgConnection, run_id: RunId, digest_blake3: &str) -> AppResult<AvailableFile> {
    let found = db::files::list_available(conn, run_id, &[digest_blake3.to_owned()]).await?.into_iter().next();
    found.ok_or_else(|| {
        let detail = format!("no file of digest `{}` is there for this run", shown(digest_blake3));
        AppError::refused(ProblemCode::FileNotFound, detail)
    })
}

/// A file that is there and was looked at as is asked for.
pub(super) async fn find_same(
    conn: &mut PgConnection,
    run_id: RunId,
    digest_blake3: &str,
    is_weights: bool,
) -> AppResult<Option<AvailableFile>> {
    let found = db::files::list_available(conn, run_id, &[digest_blake3.to_owned()]).await?.into_iter().next();
    Ok(found.filter(|file| !is_weights || file.layout_blake3.is_some()))
}
