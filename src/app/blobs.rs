//! Bytes on their way into object storage, and out again.
//!
//! An upload passes three stages, so that a server that dies at any moment leaves nothing half-visible:
//!
//! 1. [`begin_upload`] notes the object's key in the table `uploads`;
//! 2. [`receive`] streams the bytes into the object;
//! 3. in one transaction, [`commit_blob`] makes them a blob and the caller inserts the row that owns it.
//!
//! Between 1 and 3 the object is seen by nobody; [`super::reaper`] removes it once the upload has been silent too long.
//! After an error, and after the transaction of stage 3, the caller ends with [`discard`], which removes what is not needed.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream::BoxStream};
use sqlx::PgConnection;

use super::{
    AppError, AppResult,
    transaction::{commit, connection},
};
use crate::{
    db::{self, uploads::AbandonedUpload},
    domain::{blob::Blob, ids::UploadId, problem_code::ProblemCode},
    state::AppState,
    storage::{ObjectKey, ObjectStream, PutError, Stored, keys},
};

/// A body as it arrives; an error is the refusal that the caller is to see.
pub type ByteStream = BoxStream<'static, AppResult<Bytes>>;

/// How often an upload shows that it is alive; well below the shortest grace.
const RENEW_EVERY: Duration = Duration::from_secs(20);

/// An upload that is noted but not yet a blob.
#[derive(Clone, Debug)]
pub struct PendingUpload {
    /// The upload.
    pub upload_id: UploadId,
    /// Where its bytes go.
    pub key: ObjectKey,
}

/// Notes an upload, before its first byte is stored.
pub async fn begin_upload(state: &AppState) -> AppResult<PendingUpload> {
    let upload_id = UploadId(state.clock.new_id());
    let key = keys::upload_object(upload_id);
    let mut transaction = super::transaction::begin(state).await?;
    db::uploads::insert_upload(&mut transaction, upload_id, key.as_str(), state.clock.now()).await?;
    commit(transaction).await?;
    Ok(PendingUpload { upload_id, key })
}

/// Streams a body of at most `limit_bytes` into a pending upload, hashing and counting it.
pub async fn receive(
    state: &AppState,
    upload: &PendingUpload,
    body: impl Stream<Item = AppResult<Bytes>> + Unpin,
    limit_bytes: u64,
) -> AppResult<Stored> {
    // Noted before the first part goes: who dies with parts in the store leaves their name to the reaper.
    let opened = async |store_upload_id: String| note_opened(state, upload, &store_upload_id).await;
    let put = state.store.put_stream(&upload.key, body, limit_bytes, opened);
    tokio::pin!(put);
    let mut renewals = tokio::time::interval(RENEW_EVERY);
    renewals.tick().await;
    loop {
        tokio::select! {
            stored = &mut put => return stored.map_err(into_app_error),
            _ = renewals.tick() => renew(state, upload).await?,
        }
    }
}

fn into_app_error(error: PutError<AppError>) -> AppError {
    match error {
        PutError::Source(error) => error,
        PutError::TooLarge { limit_bytes } => too_large(limit_bytes),
        PutError::Store(error) => error.into(),
    }
}

/// The refusal of a body that is longer than `limit_bytes`.
pub fn too_large(limit_bytes: u64) -> AppError {
    AppError::refused(ProblemCode::TooLarge, format!("the body is longer than {limit_bytes} bytes"))
}

async fn renew(state: &AppState, upload: &PendingUpload) -> AppResult<()> {
    let mut conn = connection(state).await?;
    let alive = db::uploads::renew_upload(&mut conn, upload.upload_id, state.clock.now()).await?;
    if alive { Ok(()) } else { Err(lapsed()) }
}

async fn note_opened(state: &AppState, upload: &PendingUpload, store_upload_id: &str) -> AppResult<()> {
    let mut conn = connection(state).await?;
    let alive = db::multipart_uploads::mark_opened(&mut conn, upload.upload_id, store_upload_id).await?;
    if alive { Ok(()) } else { Err(lapsed()) }
}

fn lapsed() -> AppError {
    AppError::refused(
        ProblemCode::UploadLapsed,
        "the upload was silent for too long and has been removed; send it again",
    )
}

/// Makes received bytes a blob, inside the transaction that also inserts the row that owns them.
///
/// Equal bytes are one blob: where the digest is known already, the known blob is returned and [`discard`] will remove
/// the second object. Refuses with `upload_lapsed` where the reaper was quicker.
pub async fn commit_blob(
    conn: &mut PgConnection,
    upload: &PendingUpload,
    stored: &Stored,
    now: chrono::DateTime<chrono::Utc>,
) -> AppResult<Blob> {
    let blob = Blob {
        digest_blake3: stored.digest_blake3.clone(),
        size_bytes: stored.size_bytes,
        object_key: upload.key.to_string(),
    };
    if db::blobs::insert_blob(conn, &blob, now).await? {
        let alive = db::uploads::delete_live_upload(conn, upload.upload_id).await?;
        return if alive { Ok(blob) } else { Err(lapsed()) };
    }
    let known = find_known(conn, &blob.digest_blake3).await?;
    if !ObjectKey::from_stored(&known.object_key).is_registered() {
        return Ok(known);
    }
    // What was uploaded must not rest on an object that somebody else may delete.
    db::blobs::move_blob(conn, &blob).await?;
    let alive = db::uploads::delete_live_upload(conn, upload.upload_id).await?;
    if alive { Ok(blob) } else { Err(lapsed()) }
}

/// Makes an object that lies where somebody else keeps it a blob; equal bytes that are known stay where they are.
pub(super) async fn register_blob(
    conn: &mut PgConnection,
    blob: Blob,
    now: chrono::DateTime<chrono::Utc>,
) -> AppResult<Blob> {
    if db::blobs::insert_blob(conn, &blob, now).await? {
        return Ok(blob);
    }
    find_known(conn, &blob.digest_blake3).await
}

async fn find_known(conn: &mut PgConnection, digest_blake3: &str) -> AppResult<Blob> {
    let known = db::blobs::find_blob(conn, digest_blake3).await?;
    known.ok_or_else(|| AppError::internal("a blob was there and is gone: blobs are never deleted"))
}

/// Ends an upload: removes object and row where they did not become a blob. Safe to call after every outcome.
///
/// Failure is logged and left to the reaper, which finds the row.
pub async fn discard(state: &AppState, upload: &PendingUpload) {
    if let Err(error) = try_discard(state, upload).await {
        tracing::warn!(upload.id = %upload.upload_id, error = ?error, "an upload is left to the reaper");
    }
}

async fn try_discard(state: &AppState, upload: &PendingUpload) -> AppResult<()> {
    let mut conn = connection(state).await?;
    let abandoned = db::uploads::mark_abandoned(&mut conn, upload.upload_id, state.clock.now()).await?;
    drop(conn);
    match abandoned {
        Some(abandoned) => remove(state, &abandoned).await,
        None => Ok(()),
    }
}

/// Deletes the parts and the object of an upload that was marked abandoned, then its row.
pub(super) async fn remove(state: &AppState, upload: &AbandonedUpload) -> AppResult<()> {
    let key = ObjectKey::from_stored(&upload.object_key);
    if let Some(store_upload_id) = &upload.store_upload_id {
        state.store.abort_parts(&key, store_upload_id).await?;
    }
    state.store.delete(&key).await?;
    let mut conn = connection(state).await?;
    db::uploads::delete_upload(&mut conn, upload.upload_id).await?;
    Ok(())
}

/// Streams a part of a blob.
pub async fn open_range(state: &AppState, blob: &Blob, range: Range<u64>) -> AppResult<ObjectStream> {
    Ok(state.store.get_range(&ObjectKey::from_stored(&blob.object_key), range).await?)
}
