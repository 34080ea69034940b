//! Receiving a safetensors file: its header is checked before its body is stored, its numbers while they pass.

use barycenter_core::checkpoint::{Layout, header_length};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};

use super::{
    AppError, AppResult,
    blobs::{self, ByteStream, PendingUpload},
    finite::FiniteScan,
};
use crate::{
    config::UploadConfig,
    domain::{layout::Tensor, name::shown, problem_code::ProblemCode},
    state::AppState,
    storage::Stored,
};

/// A file on its way in.
pub struct Incoming {
    /// The bytes as they arrive.
    pub body: ByteStream,
    /// The length that was announced; chunked bodies announce none.
    pub content_length: Option<u64>,
    /// The digest that was announced.
    pub digest_blake3: Option<String>,
}

/// What a PUT came to.
#[derive(Clone, Debug)]
pub enum PutOutcome<T> {
    /// It was stored.
    Created(T),
    /// The same bytes were there already.
    Existing(T),
}

/// A file whose header has arrived and is sound.
pub struct CheckedFile {
    /// What the header says.
    pub layout: Layout,
    /// The whole file, header included.
    body: ByteStream,
    digest_blake3: Option<String>,
}

impl Incoming {
    /// Checks what was announced, before a byte is read.
    pub fn check_announcement(&self, limit_bytes: u64) -> AppResult<()> {
        if self.digest_blake3.as_deref().is_some_and(|digest| !is_digest(digest)) {
            return Err(no_digest("digest_blake3"));
        }
        match self.content_length {
            Some(length) if length > limit_bytes => Err(blobs::too_large(limit_bytes)),
            _ => Ok(()),
        }
    }

    /// Reads the header and checks it against the announced length; the body stays unread.
    pub async fn read_header(mut self, state: &AppState) -> AppResult<CheckedFile> {
        let limits = &state.config.uploads;
        let mut head = BytesMut::new();
        self.fill(&mut head, 8).await?;
        let first = head.first_chunk::<8>().ok_or_else(|| invalid_file("the file is shorter than eight bytes"))?;
        let length = header_length(*first, limits.max_header_bytes).map_err(|error| invalid_file(error.to_string()))?;
        if let Some(file) = self.content_length.filter(|file| length > file.saturating_sub(8)) {
            return Err(header_too_long(length, file));
        }
        self.fill(&mut head, 8 + length as usize).await?;
        let header = head.get(8..8 + length as usize).ok_or_else(|| header_too_long(length, head.len() as u64))?;
        let layout = check_header(header, self.content_length, limits)?;
        let read = stream::once(std::future::ready(Ok(head.freeze())));
        Ok(CheckedFile { layout, body: read.chain(self.body).boxed(), digest_blake3: self.digest_blake3 })
    }

    /// The first bytes, as many as there are up to `wanted`, and the whole body behind them.
    pub async fn peek(mut self, wanted: usize) -> AppResult<(Bytes, ByteStream)> {
        let mut head = BytesMut::new();
        self.fill(&mut head, wanted).await?;
        let head = head.freeze();
        let body = stream::once(std::future::ready(Ok(head.clone()))).chain(self.body).boxed();
        Ok((head, body))
    }

    /// Reads until `head` holds `wanted` bytes or the body ends.
    async fn fill(&mut self, head: &mut BytesMut, wanted: usize) -> AppResult<()> {
        while head.len() < wanted {
            match self.body.next().await {
                Some(chunk) => head.extend_from_slice(&chunk?),
                None => break,
            }
        }
        Ok(())
    }

    /// Reads a body of at most `limit_bytes` to its end and returns its digest; nothing is stored.
    pub async fn digest(mut self, limit_bytes: u64) -> AppResult<Option<String>> {
        let mut hasher = blake3::Hasher::new();
        let mut seen = 0;
        while let Some(chunk) = self.body.next().await {
            let chunk = chunk?;
            seen += chunk.len() as u64;
            if seen > limit_bytes {
                return Ok(None);
            }
            hasher.update(&chunk);
        }
        Ok(Some(hasher.finalize().to_hex().to_string()))
    }
}

/// Reads a header, given without its length, and checks it against the size of the file, where that is known.
pub(super) fn check_header(header: &[u8], file_bytes: Option<u64>, limits: &UploadConfig) -> AppResult<Layout> {
    let layout = Layout::parse(header).map_err(|error| invalid_file(error.to_string()))?;
    if layout.total_bytes > limits.max_upload_bytes {
        return Err(blobs::too_large(limits.max_upload_bytes));
    }
    if let Some(file_bytes) = file_bytes {
        layout.check_size(file_bytes).map_err(|error| invalid_file(error.to_string()))?;
    }
    if let Some(tensor) = layout.tensors.iter().find(|tensor| tensor.name.contains('\0')) {
        return Err(invalid_file(format!("tensor `{}` has a NUL character in its name", shown(&tensor.name))));
    }
    Ok(layout)
}

/// The tensors of a layout by name, as they are kept.
pub(super) fn tensors_of(layout: &Layout) -> Vec<Tensor> {
    let mut tensors: Vec<Tensor> = layout.tensors.iter().map(stored_tensor).collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

/// The refusal of a tensor whose numbers are not all numbers.
pub(super) fn not_finite(tensor: &str) -> AppError {
    AppError::fault(ProblemCode::NotFinite, shown(tensor), "holds NaN or infinity")
}

/// The refusal of bytes that are not those that were announced.
pub(super) fn digest_differs(announced: &str, received: &str) -> AppError {
    let detail = format!("announced {announced}, received {received}");
    AppError::fault(ProblemCode::DigestDiffers, "digest_blake3", detail)
}

/// Whether a text is a digest as it is written.
pub(super) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The refusal of a field that should hold a digest.
pub(super) fn no_digest(field: &str) -> AppError {
    AppError::invalid_field(field, "must be 64 lower-case hexadecimal digits")
}

impl CheckedFile {
    /// Reads the file to its end, checks it as [`CheckedFile::store`] does, and returns its digest; nothing is stored.
    pub async fn digest(self) -> AppResult<String> {
        let Self { layout, mut body, .. } = self;
        let mut inspection = Inspection { scan: FiniteScan::new(&layout), seen: 0, total: layout.total_bytes };
        let mut hasher = blake3::Hasher::new();
        while let Some(chunk) = body.next().await {
            hasher.update(&inspection.check(chunk?)?);
        }
        layout.check_size(inspection.seen).map_err(|error| invalid_file(error.to_string()))?;
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Streams the file into a new upload; refuses, with nothing left in the store, what is truncated, too long, not finite
    /// or of another digest than announced.
    pub async fn store(self, state: &AppState) -> AppResult<(PendingUpload, Stored)> {
        let upload = blobs::begin_upload(state).await?;
        match self.receive(state, &upload).await {
            Ok(stored) => Ok((upload, stored)),
            Err(error) => {
                blobs::discard(state, &upload).await;
                Err(error)
            }
        }
    }

    async fn receive(self, state: &AppState, upload: &PendingUpload) -> AppResult<Stored> {
        let Self { layout, body, digest_blake3 } = self;
        let mut inspection = Inspection { scan: FiniteScan::new(&layout), seen: 0, total: layout.total_bytes };
        let inspected = body.map(move |chunk| inspection.check(chunk?));
        let stored = blobs::receive(state, upload, inspected, state.config.uploads.max_upload_bytes).await?;
        layout.check_size(stored.size_bytes).map_err(|error| invalid_file(error.to_string()))?;
        if let Some(announced) = digest_blake3.filter(|announced| *announced != stored.digest_blake3) {
            return Err(digest_differs(&announced, &stored.digest_blake3));
        }
        Ok(stored)
    }
}

/// Looks at the bytes of a body as they pass.
struct Inspection {
    scan: FiniteScan,
    seen: u64,
    total: u64,
}

impl Inspection {
    fn check(&mut self, chunk: Bytes) -> AppResult<Bytes> {
        self.seen += chunk.len() as u64;
        if self.seen > self.total {
            return Err(invalid_file(format!(
                "the file goes on after its last tensor, which ends at byte {}",
                self.total
            )));
        }
        match self.scan.scan(&chunk) {
            Ok(()) => Ok(chunk),
            Err(tensor) => Err(not_finite(tensor)),
        }
    }
}

fn stored_tensor(tensor: &barycenter_core::checkpoint::TensorLayout) -> Tensor {
    Tensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype.to_string(),
        shape: tensor.shape.iter().map(|extent| *extent as u64).collect(),
    }
}

pub(super) fn header_too_long(length: u64, file: u64) -> AppError {
    let rest = file.saturating_sub(8);
    invalid_file(format!("the header claims {length} bytes, the file has {rest} after its length"))
}

/// The refusal of a file that is not what its format says.
pub fn invalid_file(detail: impl Into<String>) -> AppError {
    AppError::refused(ProblemCode::InvalidFile, detail)
}
