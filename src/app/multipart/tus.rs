//! Uploads by the tus protocol: bytes that come in order, over the same parts as everything else.
//!
//! What a client appends is cut into parts. A part that is cut off is lost, so the offset always stands at the end of a part:
//! a client that asks where to go on sends one part again at most.

use std::{collections::BTreeMap, sync::Arc};

use barycenter_api::tree::MAX_PARTS;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::Mutex;

use super::{
    complete::complete_upload,
    create::{self, Begun, NewTarget, NewUpload},
    find_upload, plan,
    receive::receive_part,
};
use crate::{
    app::{AppError, AppResult, Incoming, blobs::ByteStream, idempotency::Reply, transaction::connection},
    db,
    domain::{
        checkpoint::Reported,
        ids::UploadId,
        name::shown,
        problem_code::ProblemCode,
        upload::{MultipartUpload, ToldNormalisation},
    },
    state::AppState,
};

/// How far an upload is, as tus counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes from the start of the file that are there.
    pub offset: u64,
    /// Bytes of the whole file.
    pub length: u64,
}

/// Begins an upload; `metadata` is the `Upload-Metadata` header: `run` and `step`, `run` and `file` (without a
/// value), or `dataset`, and what the single PUT takes
/// as query parameters.
pub async fn create_upload(
    state: &AppState,
    length: u64,
    metadata: Option<&str>,
    render: impl Fn(UploadId) -> AppResult<Reply>,
) -> AppResult<Reply> {
    let mut told = read_metadata(metadata.unwrap_or_default())?;
    let target = target(&mut told)?;
    let digest_blake3 = told.remove("digest_blake3");
    let few = length.div_ceil(MAX_PARTS).next_power_of_two();
    let part_size_bytes = Some(few.max(state.config.uploads.min_part_bytes));
    let new = NewUpload { target, size_bytes: length, part_size_bytes, digest_blake3 };
    create::create_upload(state, new, None, |begun| {
        let (Begun::Created(upload) | Begun::Found(upload)) = begun;
        render(upload.upload_id)
    })
    .await
}

/// Reads `key base64,key base64`; a key may stand alone.
fn read_metadata(text: &str) -> AppResult<BTreeMap<String, String>> {
    let invalid = |detail: String| AppError::fault(ProblemCode::BadRequest, "upload-metadata", detail);
    let mut told = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let value = STANDARD.decode(value.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let value = value.ok_or_else(|| invalid(format!("`{}` is not base64 of a text", shown(key))))?;
        if told.insert(key.to_owned(), value).is_some() {
            return Err(invalid(format!("`{}` is given twice", shown(key))));
        }
    }
    Ok(told)
}

/// Takes what names the target; what clients send of their own, such as a file's name, stays unread.
fn target(told: &mut BTreeMap<String, String>) -> AppResult<NewTarget> {
    if let Some(name) = told.remove("dataset") {
        let mut take = |key: &str| told.remove(key);
        let told = ToldNormalisation { scale: take("scale"), mean: take("mean"), std: take("std") };
        return Ok(NewTarget::Dataset { name, told });
    }
    let required = |key: &str, value: Option<String>| {
        value.ok_or_else(|| {
            let detail = format!("lacks `{key}`: a checkpoint needs `run` and `step`, a file of several `run` and `file`, a dataset `dataset`");
            AppError::invalid_field("upload-metadata", detail)
        })
    };
    let run = required("run", told.remove("run"))?;
    if told.remove("file").is_some() {
        return Ok(NewTarget::File { run });
    }
    let step = required("step", told.remove("step"))?;
    let step = step.parse().map_err(|_| {
        AppError::invalid_field("upload-metadata.step", format!("`{}` is not a whole number", shown(&step)))
    })?;
    let epoch = told.remove("epoch").map(|epoch| epoch.parse()).transpose();
    let epoch = epoch.map_err(|_| AppError::invalid_field("upload-metadata.epoch", "is not a number"))?;
    let reported =
        Reported::parse(epoch, told.get("metrics").map(String::as_str), told.get("tags").map(String::as_str))?;
    Ok(NewTarget::Checkpoint { run, step, reported })
}

/// How far an upload is.
pub async fn find_progress(state: &AppState, upload_id: UploadId) -> AppResult<Progress> {
    progress(state, &find_upload(state, upload_id).await?).await
}

async fn progress(state: &AppState, upload: &MultipartUpload) -> AppResult<Progress> {
    let length = upload.size_bytes;
    if upload.outcome_id.is_some() {
        return Ok(Progress { offset: length, length });
    }
    let plan = plan(upload)?;
    let mut conn = connection(state).await?;
    let parts = db::upload_parts::list(&mut conn, upload.upload_id, 0, plan.part_count() as i64).await?;
    let there = parts.iter().zip(1..).take_while(|(part, number)| part.number == *number).count() as u64;
    let offset = plan.range(there).map_or(0, |last| last.end);
    // Before it is completed, the end is not reached: whoever asks is to send the last part again.
    let offset = if offset == length { plan.range(there).map_or(0, |last| last.start) } else { offset };
    Ok(Progress { offset, length })
}

/// Appends a body at the offset where the upload stands; returns how far it is then. With its last byte it is completed.
pub async fn append(state: &AppState, upload_id: UploadId, offset: u64, body: ByteStream) -> AppResult<Progress> {
    let upload = find_upload(state, upload_id).await?;
    let mut progress = progress(state, &upload).await?;
    if offset != progress.offset {
        let detail = format!("is {offset}, the upload stands at {}", progress.offset);
        return Err(AppError::fault(ProblemCode::OffsetDiffers, "upload-offset", detail));
    }
    if upload.sealed_at.is_some() {
        // All of it is there: whoever put it together has died, or is at it.
        complete_upload(state, upload_id).await?;
        return Ok(Progress { offset: progress.length, ..progress });
    }
    let plan = plan(&upload)?;
    let body = Arc::new(Mutex::new(Cut { body, left: Bytes::new(), ended: false }));
    while progress.offset < progress.length && body.lock().await.has_more().await? {
        let number = progress.offset / plan.part_size_bytes() + 1;
        let range = plan.range(number).ok_or_else(|| AppError::internal("an offset is outside its file"))?;
        let part = Cut::part(Arc::clone(&body), range.end - range.start);
        let part = Incoming { body: part, content_length: None, digest_blake3: None };
        match receive_part(state, upload_id, &number.to_string(), part).await {
            Ok(_) => progress.offset = range.end,
            Err(AppError::Refused { code: ProblemCode::PartLength, .. }) if body.lock().await.ended => {
                return cut_short(offset, progress, plan.part_size_bytes());
            }
            Err(error) => return Err(error),
        }
    }
    if progress.offset == progress.length {
        complete_upload(state, upload_id).await?;
    }
    Ok(progress)
}

/// The body ended inside a part: what came before that part is there. A body that brings no part at all never would.
fn cut_short(offset: u64, progress: Progress, part_bytes: u64) -> AppResult<Progress> {
    if progress.offset > offset {
        return Ok(progress);
    }
    let detail = format!("append at least {part_bytes} bytes at a time, or all that are left");
    Err(AppError::refused(ProblemCode::AppendTooSmall, detail))
}

/// A body that is cut into parts.
struct Cut {
    body: ByteStream,
    left: Bytes,
    ended: bool,
}

impl Cut {
    /// Whether a byte is there, or comes.
    async fn has_more(&mut self) -> AppResult<bool> {
        while self.left.is_empty() && !self.ended {
            match self.body.next().await {
                Some(chunk) => self.left = chunk?,
                None => self.ended = true,
            }
        }
        Ok(!self.left.is_empty())
    }

    /// The next bytes, so many at most, as a body of their own.
    fn part(cut: Arc<Mutex<Self>>, length: u64) -> ByteStream {
        stream::unfold((cut, length), async |(cut, wanted)| {
            if wanted == 0 {
                return None;
            }
            let chunk = cut.lock().await.next(wanted).await?;
            let taken = chunk.as_ref().map_or(wanted, |chunk| chunk.len() as u64);
            Some((chunk, (cut, wanted - taken)))
        })
        .boxed()
    }

    async fn next(&mut self, wanted: u64) -> Option<AppResult<Bytes>> {
        match self.has_more().await {
            Ok(false) => None,
            Ok(true) => {
                let count = (self.left.len() as u64).min(wanted) as usize;
                Some(Ok(self.left.split_to(count)))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read_as_tus_writes_it() {
        let told = read_metadata("run cjIw,step MTI=,filename YS5zYWZldGVuc29ycw==,flag").unwrap();
        assert_eq!(told["run"], "r20");
        assert_eq!((told["step"].as_str(), told["flag"].as_str()), ("12", ""));
        for wrong in ["run !", "run cjIw,run cjIw", "run /w=="] {
            read_metadata(wrong).unwrap_err();
        }
    }

    #[test]
    fn what_a_target_lacks_is_named() {
        let lacking = |text: &str| target(&mut read_metadata(text).unwrap()).unwrap_err().to_string();
        assert!(lacking("").contains("`run`"));
        assert!(lacking("run cjIw").contains("`step`"));
        assert!(lacking("run cjIw,step eA==").contains("`x` is not a whole number"));
    }

    #[tokio::test]
    async fn a_body_is_cut_wherever_its_chunks_end() {
        for size in 1..12 {
            let bytes: Vec<u8> = (0..20).collect();
            let chunks: Vec<_> = bytes.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            let body = stream::iter(chunks).boxed();
            let cut = Arc::new(Mutex::new(Cut { body, left: Bytes::new(), ended: false }));
            let mut parts = Vec::new();
            while cut.lock().await.has_more().await.unwrap() {
                let part: Vec<_> = Cut::part(Arc::clone(&cut), 8).collect().await;
                parts.push(part.into_iter().flat_map(Result::unwrap).collect::<Vec<u8>>());
            }
            assert_eq!(parts, [&bytes[..8], &bytes[8..16], &bytes[16..]]);
        }
    }
}
