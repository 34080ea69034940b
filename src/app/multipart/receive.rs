//! Taking a part.

use barycenter_api::tree;
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{
    check_open,
    header::{self, Header},
    inspection::Inspection,
    not_found, pending, place, plan, sealed,
};
use crate::{
    app::{
        AppError, AppResult, Incoming,
        tensor_file::{digest_differs, no_digest},
        transaction::{begin, commit, connection},
    },
    db,
    domain::{
        ids::UploadId,
        problem_code::ProblemCode,
        upload::{MultipartUpload, UploadPart},
    },
    state::AppState,
    storage::{PartClaim, PartError, PartPlace},
};

/// The part that holds the beginning of the file.
const FIRST: u64 = 1;

/// Stores a part; one of this number that was there is replaced. A part that is refused is missing then.
///
/// `part.digest_blake3` is the chaining value that the caller announces.
pub async fn receive_part(
    state: &AppState,
    upload_id: UploadId,
    number: &str,
    part: Incoming,
) -> AppResult<UploadPart> {
    let announced = announced(part.digest_blake3.as_deref())?;
    let upload = super::find_upload(state, upload_id).await?;
    let whereto = place(&upload).map_err(|_| sealed("the upload is completed"))?;
    let pending = pending(&upload, whereto);
    let (number, range) = part_range(&upload, number)?;
    let length = range.end - range.start;
    if let Some(received) = part.content_length.filter(|announced| *announced != length) {
        return Err(wrong_length(number, length, received));
    }
    let place =
        PartPlace { key: &pending.key, store_upload_id: &whereto.store_upload_id, number, offset: range.start, length };
    // Held until the row is there: nobody else may write these bytes meanwhile.
    let claim = match state.store.claim_part(place).await {
        Ok(claim) => claim.ok_or_else(|| busy(number))?,
        Err(crate::storage::StorageError::Missing { .. }) => return Err(not_found(upload_id)),
        Err(error) => return Err(error.into()),
    };
    let header = forget(state, &upload, number).await?;
    let (received, header) = store(state, &upload, &claim, part, header).await?;
    if let (Some(announced), Some(found)) = (announced, received.chaining_value)
        && announced != found
    {
        return Err(digest_differs(&tree::to_hex(&announced), &tree::to_hex(&found)));
    }
    note(state, &upload, &received, header.as_ref()).await?;
    Ok(received)
}

fn announced(text: Option<&str>) -> AppResult<Option<[u8; 32]>> {
    let read = |text| tree::from_hex(text).ok_or_else(|| no_digest("chaining_value_blake3"));
    text.map(read).transpose()
}

fn part_range(upload: &MultipartUpload, number: &str) -> AppResult<(u64, std::ops::Range<u64>)> {
    let plan = plan(upload)?;
    let found = number.parse().ok().and_then(|number| Some((number, plan.range(number)?)));
    found.ok_or_else(|| {
        let shown = crate::domain::name::shown(number);
        let detail = format!("must be 1 to {}, the number of parts, not `{shown}`", plan.part_count());
        AppError::invalid_field("number", detail)
    })
}

/// Forgets the part, since its bytes are about to change, and returns the header by which its numbers can be looked at.
async fn forget(state: &AppState, upload: &MultipartUpload, number: u64) -> AppResult<Option<Header>> {
    let upload_id = upload.upload_id;
    let mut transaction = begin(state).await?;
    let standing = if number == FIRST {
        db::multipart_uploads::lock(&mut transaction, upload_id).await?
    } else {
        db::multipart_uploads::lock_for_part(&mut transaction, upload_id).await?
    };
    check_open(upload_id, standing)?;
    db::upload_parts::delete(&mut transaction, upload_id, number).await?;
    let text = if number == FIRST {
        db::multipart_uploads::save_header(&mut transaction, upload_id, None).await?;
        None
    } else {
        db::multipart_uploads::find_header(&mut transaction, upload_id).await?
    };
    commit(transaction).await?;
    let parse = |text: Vec<u8>| Header::parse(text.into(), upload.size_bytes, &state.config.uploads);
    text.map(parse).transpose()
}

/// Streams the part into the store; returns it with the header by which it was looked at.
async fn store(
    state: &AppState,
    upload: &MultipartUpload,
    claim: &PartClaim<'_>,
    part: Incoming,
    known: Option<Header>,
) -> AppResult<(UploadPart, Option<Header>)> {
    let PartPlace { number, offset, length, .. } = claim.place();
    let mut body = part.body;
    let (read, header) = if number == FIRST {
        header::read_off(&mut body, length, upload.size_bytes, &state.config.uploads).await?
    } else {
        (Bytes::new(), known)
    };
    if let Some(header) = header.as_ref().filter(|_| number == FIRST) {
        let mut conn = connection(state).await?;
        header::check_target(&mut conn, upload, &header.layout).await?;
    }
    let hasher = plan(upload)?.hasher(number).ok_or_else(|| AppError::internal("a part is outside its file"))?;
    let mut inspection = Inspection::new(hasher, header.as_ref(), offset..offset + length);
    let whole = stream::iter([Ok(read)]).chain(body).map(|chunk| inspection.take(chunk?));
    let store_part_id = state.store.write_part(claim, whole).await.map_err(|error| into_app_error(number, error))?;
    let part = UploadPart {
        number,
        size_bytes: length,
        chaining_value: Some(inspection.chaining_value()),
        store_part_id,
        scanned_header_blake3: header.as_ref().map(|header| header.digest.clone()),
        head: inspection.head,
        tail: inspection.tail,
        stored_at: state.clock.now(),
    };
    Ok((part, header))
}

/// Notes a part that the store holds.
async fn note(state: &AppState, upload: &MultipartUpload, part: &UploadPart, header: Option<&Header>) -> AppResult<()> {
    let upload_id = upload.upload_id;
    let mut transaction = begin(state).await?;
    let standing = if part.number == FIRST {
        db::multipart_uploads::lock(&mut transaction, upload_id).await?
    } else {
        db::multipart_uploads::lock_for_part(&mut transaction, upload_id).await?
    };
    check_open(upload_id, standing)?;
    db::upload_parts::insert(&mut transaction, upload_id, part).await?;
    if part.number == FIRST {
        let kept = header.map(|header| (header.text.as_ref(), header.digest.as_str()));
        db::multipart_uploads::save_header(&mut transaction, upload_id, kept).await?;
    }
    if !db::uploads::renew_upload(&mut transaction, upload_id, part.stored_at).await? {
        return Err(not_found(upload_id));
    }
    commit(transaction).await?;
    metrics::counter!("barycenter_upload_parts_total").increment(1);
    Ok(())
}

fn into_app_error(number: u64, error: PartError<AppError>) -> AppError {
    match error {
        PartError::Source(error) => error,
        PartError::Length { expected, received } => wrong_length(number, expected, received),
        PartError::Store(error) => error.into(),
    }
}

fn wrong_length(number: u64, expected: u64, received: u64) -> AppError {
    let detail = format!("part {number} has {expected} bytes; {received} came");
    AppError::fault(ProblemCode::PartLength, "number", detail)
}

fn busy(number: u64) -> AppError {
    AppError::refused(ProblemCode::PartBusy, format!("another request is sending part {number}"))
}
