//! The header of a file that comes in parts.

use barycenter_core::checkpoint::{Layout, header_length};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use sqlx::PgConnection;

use crate::{
    app::{
        AppResult,
        blobs::ByteStream,
        checkpoints::{self, FileLayout},
        datasets::{CheckedDataset, NewDataset},
        tensor_file::{check_header, header_too_long, invalid_file},
    },
    config::UploadConfig,
    domain::upload::{MultipartUpload, UploadTarget},
};

/// A header that is sound.
pub(super) struct Header {
    /// What it says.
    pub layout: Layout,
    /// Its text, without its length.
    pub text: Bytes,
    /// Digest of its text.
    pub digest: String,
}

impl Header {
    /// Reads a header, given without its length, and checks it against the size of the file.
    pub(super) fn parse(text: Bytes, size_bytes: u64, limits: &UploadConfig) -> AppResult<Self> {
        let layout = check_header(&text, Some(size_bytes), limits)?;
        let digest = blake3::hash(&text).to_hex().to_string();
        Ok(Self { layout, text, digest })
    }
}

/// Bytes of the length field and the header, read from the file's first eight bytes.
pub(super) fn header_bytes(first: [u8; 8], size_bytes: u64, limits: &UploadConfig) -> AppResult<u64> {
    let length = header_length(first, limits.max_header_bytes).map_err(|error| invalid_file(error.to_string()))?;
    if length > size_bytes.saturating_sub(8) {
        return Err(header_too_long(length, size_bytes));
    }
    Ok(8 + length)
}

/// Reads the header off the beginning of the first part; returns what was read with it. `None` where the header goes on in
/// the next part.
pub(super) async fn read_off(
    body: &mut ByteStream,
    part_bytes: u64,
    size_bytes: u64,
    limits: &UploadConfig,
) -> AppResult<(Bytes, Option<Header>)> {
    let mut read = BytesMut::new();
    fill(body, &mut read, 8).await?;
    let first = read.first_chunk::<8>().ok_or_else(|| invalid_file("the file is shorter than eight bytes"))?;
    let wanted = header_bytes(*first, size_bytes, limits)?;
    if wanted > part_bytes {
        return Ok((read.freeze(), None));
    }
    fill(body, &mut read, wanted as usize).await?;
    let read = read.freeze();
    if (read.len() as u64) < wanted {
        // The part is too short, which whoever counts its bytes will say.
        return Ok((read, None));
    }
    let header = Header::parse(read.slice(8..wanted as usize), size_bytes, limits)?;
    Ok((read, Some(header)))
}

async fn fill(body: &mut ByteStream, read: &mut BytesMut, wanted: usize) -> AppResult<()> {
    while read.len() < wanted {
        match body.next().await {
            Some(chunk) => read.extend_from_slice(&chunk?),
            None => break,
        }
    }
    Ok(())
}

/// Refuses a file whose header does not suit what it is to become.
pub(super) async fn check_target(conn: &mut PgConnection, upload: &MultipartUpload, layout: &Layout) -> AppResult<()> {
    match &upload.target {
        UploadTarget::Checkpoint { run_id, .. } => {
            checkpoints::check_layout(conn, *run_id, &FileLayout::of(layout)).await
        }
        // Which tensors a file of several must have is for the checkpoint's index to say.
        UploadTarget::File { .. } => Ok(()),
        UploadTarget::Dataset { .. } => dataset(upload, layout).map(drop),
    }
}

/// The dataset that a file is to become; `None` where it is to become something else.
pub(super) fn dataset(upload: &MultipartUpload, layout: &Layout) -> AppResult<Option<CheckedDataset>> {
    let UploadTarget::Dataset { name, told } = &upload.target else {
        return Ok(None);
    };
    let told = told.clone();
    let new = NewDataset { name: name.clone(), scale: told.scale, mean: told.mean, std: told.std };
    CheckedDataset::check(new, layout).map(Some)
}
