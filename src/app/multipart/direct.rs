//! Parts that clients send to the store themselves.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};

use super::{check_open, find_upload, not_found, pending, place, plan, sealed};
use crate::{
    app::{
        AppError, AppResult,
        transaction::{begin, commit, connection},
    },
    db,
    domain::{
        ids::UploadId,
        problem_code::ProblemCode,
        upload::{MultipartUpload, UploadPart},
    },
    state::AppState,
    storage::{PartPlace, StorageError, StoredPart},
};

/// How long a URL is good for. Whoever needs longer asks for another.
const VALID: Duration = Duration::from_hours(1);
/// URLs that are handed out at a time: those that lie unused would only expire.
const MAX_URLS: usize = 100;

/// A URL by which one part may be sent.
#[derive(Clone, Debug)]
pub struct SignedPart {
    /// The part.
    pub number: u64,
    /// Its exact size.
    pub size_bytes: u64,
    /// Where to PUT it.
    pub url: String,
    /// When the URL is of no more use.
    pub expires_at: DateTime<Utc>,
}

/// Signs URLs for parts of an upload; refused where the store does not sign.
pub async fn sign_parts(state: &AppState, upload_id: UploadId, numbers: &[u64]) -> AppResult<Vec<SignedPart>> {
    if !state.store.signs_urls() {
        let detail = "the object store of this server signs no URLs; send parts to /v1/uploads/{id}/parts/{number}";
        return Err(AppError::refused(ProblemCode::DirectUploadUnsupported, detail));
    }
    if !(1..=MAX_URLS).contains(&numbers.len()) {
        return Err(AppError::invalid_field("numbers", format!("must name 1 to {MAX_URLS} parts")));
    }
    let upload = find_upload(state, upload_id).await?;
    let whereto = place(&upload).map_err(|_| sealed("the upload is completed"))?;
    let pending = pending(&upload, whereto);
    let plan = plan(&upload)?;
    let expires_at = state.clock.now() + VALID;
    mark_direct(state, upload_id).await?;
    let mut signed = Vec::new();
    for number in numbers {
        let range = plan.range(*number).ok_or_else(|| {
            AppError::invalid_field("numbers", format!("must be 1 to {}, not {number}", plan.part_count()))
        })?;
        let place = PartPlace {
            key: &pending.key,
            store_upload_id: &whereto.store_upload_id,
            number: *number,
            offset: range.start,
            length: range.end - range.start,
        };
        let url = state.store.sign_part(place, VALID).await?;
        let url = url.ok_or_else(|| AppError::internal("a store that signs has not signed"))?.to_string();
        signed.push(SignedPart { number: *number, size_bytes: place.length, url, expires_at });
    }
    Ok(signed)
}

/// Notes that parts may reach the store past the server. To ask for URLs is a sign of life.
async fn mark_direct(state: &AppState, upload_id: UploadId) -> AppResult<()> {
    let mut transaction = begin(state).await?;
    check_open(upload_id, db::multipart_uploads::lock(&mut transaction, upload_id).await?)?;
    db::multipart_uploads::mark_direct(&mut transaction, upload_id).await?;
    if !db::uploads::renew_upload(&mut transaction, upload_id, state.clock.now()).await? {
        return Err(not_found(upload_id));
    }
    commit(transaction).await
}

/// Notes the parts that have reached the store past the server. What is in them is looked at when the upload is completed.
pub(super) async fn adopt(state: &AppState, upload: &MultipartUpload) -> AppResult<()> {
    let (Some(whereto), true, None) = (&upload.place, upload.direct, upload.sealed_at) else {
        return Ok(());
    };
    let pending = pending(upload, whereto);
    let listed = match state.store.list_stored_parts(&pending.key, &whereto.store_upload_id).await {
        Err(StorageError::Missing { .. }) => return Ok(()),
        listed => listed?,
    };
    let plan = plan(upload)?;
    let mut conn = connection(state).await?;
    let known = db::upload_parts::list(&mut conn, upload.upload_id, 0, plan.part_count() as i64).await?;
    drop(conn);
    let known: BTreeMap<u64, String> = known.into_iter().map(|part| (part.number, part.store_part_id)).collect();
    let is_news = |part: &StoredPart| match (known.get(&part.number), &part.id) {
        (None, _) => true,
        (Some(known), Some(id)) => known != id,
        (Some(_), None) => false,
    };
    let fits =
        |part: &StoredPart| plan.range(part.number).is_some_and(|range| range.end - range.start == part.size_bytes);
    let news: Vec<StoredPart> = listed.into_iter().filter(|part| is_news(part) && fits(part)).collect();
    if news.is_empty() {
        return Ok(());
    }
    let mut transaction = begin(state).await?;
    check_open(upload.upload_id, db::multipart_uploads::lock(&mut transaction, upload.upload_id).await?)?;
    for part in news {
        let part = unseen(part, state.clock.now());
        db::upload_parts::insert(&mut transaction, upload.upload_id, &part).await?;
    }
    commit(transaction).await
}

fn unseen(part: StoredPart, now: DateTime<Utc>) -> UploadPart {
    UploadPart {
        number: part.number,
        size_bytes: part.size_bytes,
        chaining_value: None,
        // A store that lists no tags does not compare them either.
        store_part_id: part.id.unwrap_or_else(|| "\"\"".to_owned()),
        scanned_header_blake3: None,
        head: Vec::new(),
        tail: Vec::new(),
        stored_at: now,
    }
}
