//! Checkpoints that lie in somebody's bucket and stay there.

use futures::StreamExt;

use super::{
    AppError, AppResult, Incoming, PutOutcome,
    checkpoints::{self, FileLayout, Place},
    idempotency::{self, IdempotentRequest, Reply},
    runs::find_run_with,
    tensor_file::{digest_differs, is_digest, no_digest},
    transaction::{begin, commit, connection},
};
use crate::{
    domain::{
        blob::Blob,
        checkpoint::{Checkpoint, Reported},
        name::shown,
        problem_code::ProblemCode,
    },
    state::AppState,
    storage::{FoundObject, StorageError},
};

/// A checkpoint to register.
#[derive(Clone, Debug)]
pub struct NewRegistration {
    /// The run, by id or name.
    pub run: String,
    /// The step.
    pub step: i64,
    /// Where the file lies.
    pub url: String,
    /// Its digest.
    pub digest_blake3: String,
    /// What training reports.
    pub reported: Reported,
}

/// Makes an object that lies below an allowed prefix a checkpoint, in place. All of it is read and checked as an upload is; no
/// byte is stored.
pub async fn register_checkpoint(
    state: &AppState,
    new: NewRegistration,
    request: Option<&IdempotentRequest>,
    render: impl Fn(PutOutcome<Checkpoint>) -> AppResult<Reply>,
) -> AppResult<Reply> {
    if !is_digest(&new.digest_blake3) {
        return Err(no_digest("digest_blake3"));
    }
    if new.step < 0 {
        return Err(AppError::invalid_field("step", "must not be below 0"));
    }
    if let Some(reply) = answered(state, request).await? {
        return Ok(reply);
    }
    let mut conn = connection(state).await?;
    let run_id = find_run_with(&mut conn, &new.run).await?.run_id;
    let existing = checkpoints::find_same(&mut conn, run_id, new.step, &new.digest_blake3).await?;
    drop(conn);
    if let Some(existing) = existing {
        return render(PutOutcome::Existing(existing));
    }
    let (blob, layout) = read(state, &new.url, &new.digest_blake3).await?;
    let place = Place { run_id, step: new.step, reported: new.reported };
    let now = state.clock.now();
    let mut transaction = begin(state).await?;
    if let Some(reply) = idempotency::replay(&mut transaction, request, now).await? {
        return Ok(reply);
    }
    let outcome = checkpoints::register_with(state, &mut transaction, place, &layout, blob).await?;
    let reply = render(outcome)?;
    idempotency::record(&mut transaction, request, &reply).await?;
    commit(transaction).await?;
    Ok(reply)
}

/// The reply that the same request got before.
pub(super) async fn answered(state: &AppState, request: Option<&IdempotentRequest>) -> AppResult<Option<Reply>> {
    let mut transaction = begin(state).await?;
    idempotency::replay(&mut transaction, request, state.clock.now()).await
}

/// Reads an object that lies below an allowed prefix: all of it has to be right.
pub(super) async fn read(state: &AppState, url: &str, digest_blake3: &str) -> AppResult<(Blob, FileLayout)> {
    let found = find(state, url).await?;
    let layout = check(state, &found, digest_blake3).await?;
    let digest_blake3 = digest_blake3.to_owned();
    Ok((Blob { digest_blake3, size_bytes: found.size_bytes, object_key: found.key.to_string() }, layout))
}

async fn find(state: &AppState, url: &str) -> AppResult<FoundObject> {
    match state.store.find_registered(url).await {
        Ok(Some(found)) => Ok(found),
        Ok(None) => {
            let detail = format!("`{}` does not lie below a prefix that this server allows", shown(url));
            Err(AppError::fault(ProblemCode::PrefixNotAllowed, "url", detail))
        }
        Err(StorageError::Missing { .. }) => {
            Err(AppError::fault(ProblemCode::ObjectNotFound, "url", format!("there is no object `{}`", shown(url))))
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads the whole object: its header, its numbers and its digest have to be right.
async fn check(state: &AppState, found: &FoundObject, announced: &str) -> AppResult<FileLayout> {
    let bytes = state.store.get_range(&found.key, 0..found.size_bytes).await?;
    let incoming = Incoming {
        body: bytes.map(|chunk| chunk.map_err(AppError::from)).boxed(),
        content_length: Some(found.size_bytes),
        digest_blake3: Some(announced.to_owned()),
    };
    incoming.check_announcement(state.config.uploads.max_upload_bytes)?;
    let file = incoming.read_header(state).await?;
    let layout = FileLayout::of(&file.layout);
    let digest = file.digest().await?;
    if digest == announced { Ok(layout) } else { Err(digest_differs(announced, &digest)) }
}
