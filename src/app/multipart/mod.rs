//! Uploads in parts: they outlive connections, clients and servers.
//!
//! 1. [`create::create_upload`] notes the upload and opens it in the store; asked again for the same bytes at the same place, it
//!    finds the one that is open, so a client needs no memory of its own.
//! 2. [`receive::receive_part`] takes parts, in any order, several at a time, through any server. A part counts from the moment
//!    its row is there; a part that is sent again is missing until it is there again.
//! 3. [`complete::complete_upload`] checks that all parts are there and what digest they have, seals the upload, lets the store put
//!    the parts together, looks at what could not be looked at while it passed, and makes the file visible in one transaction.
//!    Each of these steps may be repeated, so a server that dies in between costs nothing but the question again.
//!
//! All state lies in Postgres and the store. The upload is noted in `uploads` as every other is, so [`super::reaper`] removes it
//! once it has been silent for too long.

pub mod complete;
pub mod create;
pub mod direct;
mod header;
mod inspection;
pub mod receive;
pub mod tus;

use barycenter_api::tree::PartPlan;
use sqlx::PgConnection;

use super::{
    AppError, AppResult,
    blobs::{self, PendingUpload},
    runs::find_run_with,
    transaction::{begin, commit, connection},
};
use crate::{
    db::{self, DbError, multipart_uploads::Standing},
    domain::{
        ids::UploadId,
        page::{PageRequest, Paged},
        problem_code::ProblemCode,
        upload::{MultipartUpload, UploadPart, UploadPlace},
    },
    state::AppState,
    storage::ObjectKey,
};

/// An upload, unless it was aborted or removed.
pub async fn find_upload(state: &AppState, upload_id: UploadId) -> AppResult<MultipartUpload> {
    let mut conn = connection(state).await?;
    find_with(&mut conn, upload_id).await
}

async fn find_with(conn: &mut PgConnection, upload_id: UploadId) -> AppResult<MultipartUpload> {
    db::multipart_uploads::find(conn, upload_id).await?.ok_or_else(|| not_found(upload_id))
}

/// A page of uploads, newest first: those for checkpoints of a run where one is named.
pub async fn list_uploads(state: &AppState, run: Option<&str>, page: PageRequest) -> AppResult<Paged<MultipartUpload>> {
    let mut conn = connection(state).await?;
    let run_id = match run {
        Some(run) => Some(find_run_with(&mut conn, run).await?.run_id),
        None => None,
    };
    let rows = db::multipart_uploads::list(&mut conn, run_id, page).await?;
    Ok(page.cut(rows, |upload| upload.upload_id.0))
}

/// Up to `size` parts that are there, with numbers above `after`; whether more follow.
pub async fn list_parts(
    state: &AppState,
    upload_id: UploadId,
    after: u64,
    size: u32,
) -> AppResult<(Vec<UploadPart>, bool)> {
    direct::adopt(state, &find_upload(state, upload_id).await?).await?;
    let mut conn = connection(state).await?;
    let mut parts = db::upload_parts::list(&mut conn, upload_id, after, i64::from(size) + 1).await?;
    let more = parts.len() > size as usize;
    parts.truncate(size as usize);
    Ok((parts, more))
}

/// Gives an upload up and its bytes back.
///
/// Refused once its parts are being put together, and once its file is visible.
pub async fn abort_upload(state: &AppState, upload_id: UploadId) -> AppResult<()> {
    let mut transaction = begin(state).await?;
    match db::multipart_uploads::lock(&mut transaction, upload_id).await? {
        None => return Err(not_found(upload_id)),
        Some(Standing::Open) => {}
        Some(Standing::Sealed) => return Err(sealed("its parts are being put together; complete it")),
        Some(Standing::Completed) => return Err(sealed("it is completed")),
    }
    let abandoned = db::uploads::mark_abandoned(&mut transaction, upload_id, state.clock.now()).await?;
    commit(transaction).await?;
    if let Some(abandoned) = abandoned
        && let Err(error) = blobs::remove(state, &abandoned).await
    {
        tracing::warn!(upload.id = %upload_id, error = ?error, "an aborted upload is left to the reaper");
    }
    Ok(())
}

fn not_found(upload_id: UploadId) -> AppError {
    AppError::refused(ProblemCode::UploadNotFound, format!("there is no upload {upload_id}"))
}

fn sealed(why: &str) -> AppError {
    AppError::refused(ProblemCode::UploadSealed, why)
}

/// How the file is cut.
fn plan(upload: &MultipartUpload) -> AppResult<PartPlan> {
    let plan = PartPlan::new(upload.size_bytes, upload.part_size_bytes);
    Ok(plan.ok_or_else(|| DbError::inconsistent("multipart_uploads", "part_size_bytes", upload.upload_id.0))?)
}

/// Where the bytes of an upload go that has not become a blob.
fn place(upload: &MultipartUpload) -> AppResult<&UploadPlace> {
    upload.place.as_ref().ok_or_else(|| not_found(upload.upload_id))
}

fn pending(upload: &MultipartUpload, place: &UploadPlace) -> PendingUpload {
    PendingUpload { upload_id: upload.upload_id, key: ObjectKey::from_stored(&place.object_key) }
}

/// Refuses to change an upload that takes no parts.
fn check_open(upload_id: UploadId, standing: Option<Standing>) -> AppResult<()> {
    match standing {
        Some(Standing::Open) => Ok(()),
        Some(Standing::Sealed) => Err(sealed("the parts of the upload are being put together")),
        Some(Standing::Completed) => Err(sealed("the upload is completed")),
        None => Err(not_found(upload_id)),
    }
}
