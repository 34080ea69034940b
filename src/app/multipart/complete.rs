//! Making the parts of an upload a file that everybody sees.

use std::ops::Range;

use barycenter_api::tree::PartPlan;
use barycenter_core::checkpoint::Layout;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use uuid::Uuid;

use super::{
    direct::adopt,
    find_upload,
    header::{self, Header, header_bytes},
    inspection::Inspection,
    not_found, pending, place, plan,
};
use crate::{
    app::{
        AppError, AppResult, PutOutcome,
        blobs::{self, PendingUpload},
        checkpoints::{self, FileLayout},
        datasets, files,
        finite::cut_element,
        tensor_file::{digest_differs, invalid_file, not_finite},
        transaction::{begin, commit},
    },
    db::{self, multipart_uploads::Standing},
    domain::{
        ids::UploadId,
        problem_code::ProblemCode,
        upload::{MultipartUpload, UploadPart, UploadTarget, missing_parts},
    },
    state::AppState,
    storage::Stored,
};

/// Completes an upload; does nothing where that has been done.
///
/// Missing parts and a digest that differs leave the upload open, so that parts can be sent again. A file that turns out
/// to be bad when its parts are together is refused for good, and the upload is gone.
pub async fn complete_upload(state: &AppState, upload_id: UploadId) -> AppResult<MultipartUpload> {
    let upload = find_upload(state, upload_id).await?;
    let Some(sealed) = seal(state, &upload).await? else {
        return find_upload(state, upload_id).await;
    };
    let place = place(&upload)?;
    let pending = pending(&upload, place);
    let ids = sealed.parts.iter().map(|part| part.store_part_id.clone()).collect();
    state.store.finish_parts(&pending.key, &place.store_upload_id, ids, upload.size_bytes).await?;
    let published = publish(state, &upload, sealed, &pending).await;
    if matches!(published, Ok(()) | Err(AppError::Refused { .. })) {
        // Nothing where the object became a blob; else it is the second of its kind, or bad.
        blobs::discard(state, &pending).await;
    }
    published?;
    find_upload(state, upload_id).await
}

/// An upload whose parts no longer change.
struct Sealed {
    plan: PartPlan,
    parts: Vec<UploadPart>,
    header_blake3: Option<String>,
}

/// Checks that all parts are there and, where all of them were seen, that they make the file that was announced, and keeps them
/// from being replaced. `None` where the upload is completed.
async fn seal(state: &AppState, upload: &MultipartUpload) -> AppResult<Option<Sealed>> {
    let (upload_id, now) = (upload.upload_id, state.clock.now());
    adopt(state, upload).await?;
    let plan = plan(upload)?;
    let mut transaction = begin(state).await?;
    match db::multipart_uploads::lock(&mut transaction, upload_id).await? {
        None => return Err(not_found(upload_id)),
        Some(Standing::Completed) => return Ok(None),
        Some(Standing::Open | Standing::Sealed) => {}
    }
    let limit = plan.part_count() as i64;
    let parts = db::upload_parts::list(&mut transaction, upload_id, 0, limit).await?;
    if let Some(missing) = missing_parts(parts.iter().map(|part| part.number), plan.part_count()) {
        let detail = format!("of {} parts these are missing: {missing}", plan.part_count());
        return Err(AppError::refused(ProblemCode::PartsMissing, detail));
    }
    if parts.iter().all(|part| part.chaining_value.is_some()) {
        check_digest(&plan, &parts, upload.digest_blake3.as_deref())?;
    }
    let upload = super::find_with(&mut transaction, upload_id).await?;
    if upload.sealed_at.is_none() {
        db::multipart_uploads::mark_sealed(&mut transaction, upload_id, now).await?;
    }
    if !db::uploads::renew_upload(&mut transaction, upload_id, now).await? {
        return Err(not_found(upload_id));
    }
    commit(transaction).await?;
    Ok(Some(Sealed { plan, parts, header_blake3: upload.header_blake3 }))
}

/// What the parts make together, which has to be what was announced.
fn check_digest(plan: &PartPlan, parts: &[UploadPart], announced: Option<&str>) -> AppResult<Stored> {
    let chaining_values: Option<Vec<[u8; 32]>> = parts.iter().map(|part| part.chaining_value).collect();
    let digest_blake3 = chaining_values.and_then(|values| plan.digest(&values));
    let digest_blake3 =
        digest_blake3.ok_or_else(|| AppError::internal("a part was not seen, or their number is wrong"))?;
    match announced {
        Some(announced) if announced != digest_blake3 => Err(digest_differs(announced, &digest_blake3)),
        _ => Ok(Stored { size_bytes: plan.size_bytes(), digest_blake3 }),
    }
}

/// Looks at what was not looked at while it passed, and makes the object what the upload is for.
async fn publish(state: &AppState, upload: &MultipartUpload, sealed: Sealed, pending: &PendingUpload) -> AppResult<()> {
    let (layout, stored) = check_file(state, upload, sealed, pending).await?;
    let mut transaction = begin(state).await?;
    match db::multipart_uploads::lock(&mut transaction, upload.upload_id).await? {
        None => return Err(not_found(upload.upload_id)),
        Some(Standing::Completed) => return Ok(()),
        Some(Standing::Open | Standing::Sealed) => {}
    }
    // Read again: what is told beside the file may have changed since.
    let upload = super::find_with(&mut transaction, upload.upload_id).await?;
    let outcome_id = publish_with(state, &mut transaction, &upload, &layout, pending, &stored).await?;
    db::multipart_uploads::mark_completed(&mut transaction, upload.upload_id, outcome_id, state.clock.now()).await?;
    commit(transaction).await?;
    let kind = upload.target.kind();
    metrics::histogram!("barycenter_upload_size_bytes", "kind" => kind).record(stored.size_bytes as f64);
    Ok(())
}

async fn publish_with(
    state: &AppState,
    conn: &mut sqlx::PgConnection,
    upload: &MultipartUpload,
    layout: &Layout,
    pending: &PendingUpload,
    stored: &Stored,
) -> AppResult<Uuid> {
    if let Some(checked) = header::dataset(upload, layout)? {
        let outcome = datasets::publish_with(state, conn, checked, pending, stored).await?;
        let (PutOutcome::Created(dataset) | PutOutcome::Existing(dataset)) = outcome;
        return Ok(dataset.dataset_id.0);
    }
    let file_layout = FileLayout::of(layout);
    let place = match upload.target.clone() {
        UploadTarget::Checkpoint { run_id, step, reported } => checkpoints::Place { run_id, step, reported },
        UploadTarget::File { run_id } => {
            files::publish_with(state, conn, run_id, pending, stored, Some(&file_layout)).await?;
            return Ok(run_id.0);
        }
        UploadTarget::Dataset { .. } => return Err(AppError::internal("a dataset was checked and is none")),
    };
    let outcome = checkpoints::publish_with(state, conn, place, &file_layout, pending, stored).await?;
    let (PutOutcome::Created(checkpoint) | PutOutcome::Existing(checkpoint)) = outcome;
    Ok(checkpoint.checkpoint_id.0)
}

/// Checks the header, where no part held the whole of it, and looks at the parts that were not looked at while they passed:
/// those that came before the header, and those that reached the store past the server.
async fn check_file(
    state: &AppState,
    upload: &MultipartUpload,
    sealed: Sealed,
    pending: &PendingUpload,
) -> AppResult<(Layout, Stored)> {
    let Sealed { plan, mut parts, header_blake3 } = sealed;
    let header = read_header(state, upload, pending).await?;
    for part in &mut parts {
        let by = part.scanned_header_blake3.as_ref().filter(|_| header_blake3.is_some());
        if part.chaining_value.is_none() || by != Some(&header.digest) {
            read_back(state, pending, &header, &plan, part).await?;
        }
    }
    check_cut_elements(&header.layout, &plan, &parts)?;
    let stored = check_digest(&plan, &parts, upload.digest_blake3.as_deref())?;
    Ok((header.layout, stored))
}

/// Looks at the elements that the ends of parts cut.
fn check_cut_elements(layout: &Layout, plan: &PartPlan, parts: &[UploadPart]) -> AppResult<()> {
    for (part, next) in parts.iter().zip(parts.iter().skip(1)) {
        let Some(cut) = cut_element(layout, part.number * plan.part_size_bytes()) else {
            continue;
        };
        match cut.is_not_finite(&part.tail, &next.head) {
            Some(false) => {}
            Some(true) => return Err(not_finite(&cut.tensor.name)),
            None => return Err(AppError::internal("a part has shorter edges than an element")),
        }
    }
    Ok(())
}

async fn read_header(state: &AppState, upload: &MultipartUpload, pending: &PendingUpload) -> AppResult<Header> {
    let (size, limits) = (upload.size_bytes, &state.config.uploads);
    let first = read(state, pending, 0..size.min(8)).await?;
    let first = first.first_chunk::<8>().ok_or_else(|| invalid_file("the file is shorter than eight bytes"))?;
    let end = header_bytes(*first, size, limits)?;
    Header::parse(read(state, pending, 8..end).await?, size, limits)
}

async fn read(state: &AppState, pending: &PendingUpload, range: Range<u64>) -> AppResult<Bytes> {
    let mut chunks = state.store.get_range(&pending.key, range).await?;
    let mut read = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        read.extend_from_slice(&chunk?);
    }
    Ok(read.freeze())
}

/// Reads a part back and looks at it as if it passed.
async fn read_back(
    state: &AppState,
    pending: &PendingUpload,
    header: &Header,
    plan: &PartPlan,
    part: &mut UploadPart,
) -> AppResult<()> {
    let place = plan.range(part.number).zip(plan.hasher(part.number));
    let (range, hasher) = place.ok_or_else(|| AppError::internal("a part is outside its file"))?;
    let mut inspection = Inspection::new(hasher, Some(header), range.clone());
    let mut chunks = state.store.get_range(&pending.key, range).await?;
    while let Some(chunk) = chunks.next().await {
        inspection.take(chunk?)?;
    }
    part.chaining_value = Some(inspection.chaining_value());
    (part.head, part.tail) = (inspection.head, inspection.tail);
    Ok(())
}
