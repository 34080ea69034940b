//! Checkpoints of several files: made of files that came before, and read file by file.

use std::collections::HashMap;

use barycenter_api::{NamedFile as WireFile, file_list};
use barycenter_core::checkpoint::{Index, layout_digest};
use bytes::BytesMut;
use futures::StreamExt;
use sqlx::PgConnection;

use super::{
    AppError, AppResult, Fault, PutOutcome,
    blobs::{self, PendingUpload},
    checkpoints::{self, FileLayout, Place, find_checkpoint_with},
    idempotency::{self, IdempotentRequest, Reply},
    register,
    runs::find_run_with,
    tensor_file::{is_digest, no_digest},
    transaction::{begin, commit, connection},
};
use crate::{
    db::{self, files::AvailableFile},
    domain::{
        blob::Blob,
        checkpoint::{Checkpoint, Reported},
        checkpoint_files::{FileKind, FileList, InvalidFiles, NamedFile, SINGLE, of_file},
        ids::{CheckpointId, RunId},
        layout::Tensor,
        name::shown,
        problem_code::ProblemCode,
    },
    state::AppState,
    storage::Stored,
};

/// A checkpoint to make of files that came before.
#[derive(Clone, Debug)]
pub struct NewCheckpoint {
    /// The run, by id or name.
    pub run: String,
    /// The step.
    pub step: i64,
    /// What training reports.
    pub reported: Reported,
    /// Every file.
    pub files: Vec<NamedFile>,
}

impl From<InvalidFiles> for AppError {
    fn from(invalid: InvalidFiles) -> Self {
        Self::fault(ProblemCode::InvalidFiles, invalid.field, invalid.detail)
    }
}

/// A file of a checkpoint as it is told.
#[derive(Clone, Debug)]
pub struct ListedFile {
    /// Its name, digest and size.
    pub file: NamedFile,
    /// What it is.
    pub kind: FileKind,
}

/// Makes files that came before a checkpoint: all of it or nothing is seen. Nothing that came is lost where it is refused.
pub async fn create_checkpoint(
    state: &AppState,
    new: NewCheckpoint,
    request: Option<&IdempotentRequest>,
    render: impl Fn(PutOutcome<Checkpoint>) -> AppResult<Reply>,
) -> AppResult<Reply> {
    let list = check(new.step, new.files)?;
    if let Some(reply) = register::answered(state, request).await? {
        return Ok(reply);
    }
    let listed = file_list(&list.iter().map(to_wire).collect::<Vec<_>>());
    let digest = blake3::hash(listed.as_bytes()).to_hex().to_string();
    let mut conn = connection(state).await?;
    let run_id = find_run_with(&mut conn, &new.run).await?.run_id;
    if let Some(existing) = checkpoints::find_same(&mut conn, run_id, new.step, &digest).await? {
        return render(PutOutcome::Existing(existing));
    }
    let found = find_files(&mut conn, run_id, &list).await?;
    let shards = find_shards(&mut conn, &found).await?;
    drop(conn);
    let layout = join(state, &list, &found, shards).await?;
    let mut conn = connection(state).await?;
    checkpoints::check_layout(&mut conn, run_id, &layout).await?;
    drop(conn);
    let upload = blobs::begin_upload(state).await?;
    let place = Place { run_id, step: new.step, reported: new.reported };
    let made = match state.store.put_bytes(&upload.key, listed.into()).await {
        Ok(stored) => publish(state, place, &list, &layout, (&upload, &stored), request, render).await,
        Err(error) => Err(error.into()),
    };
    blobs::discard(state, &upload).await;
    made
}

fn check(step: i64, files: Vec<NamedFile>) -> AppResult<FileList> {
    if step < 0 {
        return Err(AppError::invalid_field("step", "must not be below 0"));
    }
    let list = FileList::new(files)?;
    if let Some(file) = list.iter().find(|file| !is_digest(&file.digest_blake3)) {
        return Err(no_digest(&format!("files.{}.digest_blake3", file.name)));
    }
    Ok(list)
}

fn to_wire(file: &NamedFile) -> WireFile {
    let NamedFile { name, digest_blake3, size_bytes } = file.clone();
    WireFile { name, digest_blake3, size_bytes }
}

type Available = HashMap<String, AvailableFile>;

/// What is known of every file, by digest; refuses, naming each, where some have not come or have another size.
async fn find_files(conn: &mut PgConnection, run_id: RunId, list: &FileList) -> AppResult<Available> {
    let digests: Vec<String> = list.iter().map(|file| file.digest_blake3.clone()).collect();
    let found = db::files::list_available(conn, run_id, &digests).await?;
    let found: Available = found.into_iter().map(|file| (file.blob.digest_blake3.clone(), file)).collect();
    let missing: Vec<Fault> = list.iter().filter_map(|file| missing(file, found.get(&file.digest_blake3))).collect();
    if let Some(first) = missing.first() {
        let detail = format!(
            "{} of {} files have not been uploaded, `{}` among them",
            missing.len(),
            list.several().count,
            first.field.trim_start_matches("files.")
        );
        return Err(AppError::Refused { code: ProblemCode::FilesMissing, detail, faults: missing });
    }
    let wrong = list.iter().find_map(|file| {
        let size = found.get(&file.digest_blake3)?.blob.size_bytes;
        (size != file.size_bytes).then(|| of_file(&file.name, format!("has {size} bytes, not {}", file.size_bytes)))
    });
    wrong.map_or(Ok(found), |wrong| Err(wrong.into()))
}

fn missing(file: &NamedFile, found: Option<&AvailableFile>) -> Option<Fault> {
    let what = match found {
        None => "no file",
        Some(found) if FileKind::of(&file.name) == FileKind::Weights && found.layout_blake3.is_none() => {
            "no safetensors file"
        }
        Some(_) => return None,
    };
    let field = format!("files.{}", file.name);
    Some(Fault { field, detail: format!("{what} of digest {} has been uploaded for this run", file.digest_blake3) })
}

/// Tensors of each layout that a file has.
async fn find_shards(conn: &mut PgConnection, found: &Available) -> AppResult<HashMap<String, Vec<Tensor>>> {
    let mut layouts = HashMap::new();
    for digest in found.values().filter_map(|file| file.layout_blake3.as_ref()) {
        if !layouts.contains_key(digest) {
            layouts.insert(digest.clone(), checkpoints::find_layout(conn, digest).await?);
        }
    }
    Ok(layouts)
}

/// The layout of all weights files together, which agree with the index.
async fn join(
    state: &AppState,
    list: &FileList,
    found: &Available,
    shards: HashMap<String, Vec<Tensor>>,
) -> AppResult<FileLayout> {
    let of_file = |file: &NamedFile| {
        let layout = found.get(&file.digest_blake3).and_then(|found| found.layout_blake3.as_ref());
        layout.and_then(|layout| shards.get(layout)).cloned().unwrap_or_default()
    };
    let weights: Vec<(String, Vec<Tensor>)> =
        list.of_kind(FileKind::Weights).map(|file| (file.name.clone(), of_file(file))).collect();
    let index = match list.of_kind(FileKind::Index).next() {
        Some(file) => {
            let blob = found.get(&file.digest_blake3).map(|found| &found.blob);
            let blob = blob.ok_or_else(|| AppError::internal("a file was found and is not there"))?;
            Some((file.name.clone(), read(state, blob).await?))
        }
        None => None,
    };
    // An index of millions of tensors takes its time.
    let joined = tokio::task::spawn_blocking(move || join_checked(index, weights));
    joined.await.map_err(AppError::internal)?
}

fn join_checked(index: Option<(String, Vec<u8>)>, weights: Vec<(String, Vec<Tensor>)>) -> AppResult<FileLayout> {
    if let Some((name, bytes)) = index {
        let refused = |error: barycenter_core::Error| of_file(&name, error.to_string());
        let index = Index::parse(&bytes).map_err(refused)?;
        if let Some(absent) = index.shards().into_iter().find(|shard| weights.iter().all(|(name, _)| name != shard)) {
            return Err(of_file(absent, format!("`{name}` names it, and it is not among the files")).into());
        }
        let shards = weights.iter().map(|(file, tensors)| (file.as_str(), tensors.iter().map(|t| t.name.as_str())));
        index.check(shards).map_err(refused)?;
    }
    let mut tensors: Vec<Tensor> = weights.into_iter().flat_map(|(_, tensors)| tensors).collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let digest = layout_digest(tensors.iter().map(|t| (t.name.as_str(), t.dtype.as_str(), t.shape.iter().copied())));
    Ok(FileLayout { digest, tensors })
}

async fn read(state: &AppState, blob: &Blob) -> AppResult<Vec<u8>> {
    let mut chunks = blobs::open_range(state, blob, 0..blob.size_bytes).await?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes.into())
}

async fn publish(
    state: &AppState,
    place: Place,
    list: &FileList,
    layout: &FileLayout,
    (upload, stored): (&PendingUpload, &Stored),
    request: Option<&IdempotentRequest>,
    render: impl Fn(PutOutcome<Checkpoint>) -> AppResult<Reply>,
) -> AppResult<Reply> {
    let mut transaction = begin(state).await?;
    let conn = &mut *transaction;
    if let Some(reply) = idempotency::replay(conn, request, state.clock.now()).await? {
        return Ok(reply);
    }
    let outcome =
        if let Some(existing) = checkpoints::prepare(state, conn, &place, layout, &stored.digest_blake3).await? {
            PutOutcome::Existing(existing)
        } else {
            // Again, now that nothing takes them away.
            find_files(conn, place.run_id, list).await?;
            let blob = blobs::commit_blob(conn, upload, stored, state.clock.now()).await?;
            let run_id = place.run_id;
            let checkpoint = checkpoints::insert(state, conn, place, layout, blob, Some(list.several())).await?;
            db::files::insert_checkpoint_files(conn, checkpoint.checkpoint_id, list.iter()).await?;
            let digests: Vec<String> = list.iter().map(|file| file.digest_blake3.clone()).collect();
            db::files::unstage(conn, run_id, &digests).await?;
            PutOutcome::Created(checkpoint)
        };
    let reply = render(outcome)?;
    idempotency::record(conn, request, &reply).await?;
    commit(transaction).await?;
    Ok(reply)
}

/// The files of a checkpoint, by name; of one that is one file, that file.
pub async fn list_files(state: &AppState, id: CheckpointId) -> AppResult<Vec<ListedFile>> {
    let mut conn = connection(state).await?;
    let checkpoint = find_checkpoint_with(&mut conn, id).await?;
    let files = if checkpoint.files.is_some() {
        db::files::list_checkpoint_files(&mut conn, id).await?
    } else {
        let Blob { digest_blake3, size_bytes, .. } = checkpoint.blob;
        vec![NamedFile { name: SINGLE.to_owned(), digest_blake3, size_bytes }]
    };
    Ok(files.into_iter().map(|file| ListedFile { kind: FileKind::of(&file.name), file }).collect())
}

/// The bytes of one file of a checkpoint.
pub async fn find_file(state: &AppState, id: CheckpointId, name: &str) -> AppResult<Blob> {
    let mut conn = connection(state).await?;
    let checkpoint = find_checkpoint_with(&mut conn, id).await?;
    let found = match checkpoint.files {
        Some(_) => db::files::find_checkpoint_file(&mut conn, id, name).await?,
        None => Some(checkpoint.blob).filter(|_| name == SINGLE),
    };
    found.ok_or_else(|| {
        AppError::refused(ProblemCode::FileNotFound, format!("the checkpoint has no file `{}`", shown(name)))
    })
}

/// The bytes of a checkpoint that is one file.
pub async fn find_content(state: &AppState, id: CheckpointId) -> AppResult<Blob> {
    let mut conn = connection(state).await?;
    let checkpoint = find_checkpoint_with(&mut conn, id).await?;
    match checkpoint.files {
        None => Ok(checkpoint.blob),
        Some(files) => {
            let detail = format!("the checkpoint has {} files; see /v1/checkpoints/{id}/files", files.count);
            Err(AppError::refused(ProblemCode::SeveralFiles, detail))
        }
    }
}
