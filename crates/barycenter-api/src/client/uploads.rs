//! Uploads in parts.

use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backon::{ConstantBuilder, Retryable};
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::{
    Method,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};
use uuid::Uuid;

use super::{
    ByteCounter, Client, ClientError, Result,
    exchange::{Repeat, accepted, decode, may_repeat, note_retry, pause},
    transfer::counted,
};
use crate::{
    Checkpoint, CreateUpload, ListQuery, ListUploads, Page, PartUrls, PutPart, RegisterCheckpoint, SignParts, Upload,
    UploadPart, UploadState, UploadTarget,
    tree::{self, FileTree, usual_part_bytes},
};

/// The largest page that the server gives.
const PAGE_SIZE: u32 = 1000;
/// A server gives a silent connection up after a minute: so long its part may seem to be on its way.
const BUSY_PAUSE: Duration = Duration::from_secs(2);
const BUSY_TIMES: usize = 40;

/// Larger files are better sent in parts: an interruption costs the parts that were on their way.
pub const IN_PARTS_ABOVE: u64 = 64 << 20;

impl Client {
    /// Begins an upload in parts, or finds the one that is open for the same bytes at the same place.
    pub async fn create_upload(&self, body: &CreateUpload) -> Result<Upload> {
        self.create(&self.url(&["uploads"]), body).await
    }

    /// An upload in parts.
    pub async fn find_upload(&self, upload_id: Uuid) -> Result<Upload> {
        self.fetch(&self.url(&["uploads", &upload_id.to_string()]), &()).await
    }

    /// One page of uploads in parts, newest first.
    pub async fn list_uploads(&self, query: &ListUploads) -> Result<Page<Upload>> {
        self.fetch(&self.url(&["uploads"]), query).await
    }

    /// Every part of an upload that is there, in order.
    pub async fn list_parts(&self, upload_id: Uuid) -> Result<Vec<UploadPart>> {
        let url = self.url(&["uploads", &upload_id.to_string(), "parts"]);
        let mut parts = Vec::new();
        let mut query = ListQuery { page_size: Some(PAGE_SIZE), page_token: None };
        loop {
            let page: Page<UploadPart> = self.fetch(&url, &query).await?;
            parts.extend(page.items);
            query.page_token = page.next_page_token;
            if query.page_token.is_none() {
                return Ok(parts);
            }
        }
    }

    /// Sends a part: these bytes of a file; `sent` hears the bytes of the part sent so far.
    pub async fn put_part(
        &self,
        upload_id: Uuid,
        number: u64,
        file: &Path,
        range: Range<u64>,
        beside: &PutPart,
        sent: &ByteCounter,
    ) -> Result<UploadPart> {
        let url = self.url(&["uploads", &upload_id.to_string(), "parts", &number.to_string()]);
        let length = range.end - range.start;
        let answer = (async || {
            let mut opened = File::open(file).await.map_err(|e| ClientError::io(file, e))?;
            opened.seek(std::io::SeekFrom::Start(range.start)).await.map_err(|e| ClientError::io(file, e))?;
            let request = self
                .request(Method::PUT, &url)
                .query(beside)
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, length)
                .body(counted(opened.take(length), sent.clone()));
            accepted(&url, request.send().await).await
        })
        .retry(self.backoff())
        .when(|error| may_repeat(error, Repeat::Harmless))
        .adjust(pause)
        .notify(note_retry)
        .await?;
        decode(&url, answer).await
    }

    /// Sends a part, as long as need be while another request seems to be sending it: that of a client which is gone, but whose
    /// connection the server has not yet given up.
    async fn put_part_patiently(
        &self,
        upload_id: Uuid,
        number: u64,
        file: &Path,
        range: Range<u64>,
        beside: &PutPart,
        sent: &ByteCounter,
    ) -> Result<UploadPart> {
        (async || self.put_part(upload_id, number, file, range.clone(), beside, sent).await)
            .retry(ConstantBuilder::new().with_delay(BUSY_PAUSE).with_max_times(BUSY_TIMES))
            .when(|error| error.problem().is_some_and(|problem| problem.code == "part_busy"))
            .notify(note_retry)
            .await
    }

    /// URLs by which these parts, 1 to 100 of them, can be sent to the store directly.
    pub async fn sign_parts(&self, upload_id: Uuid, numbers: &[u64]) -> Result<PartUrls> {
        let url = self.url(&["uploads", &upload_id.to_string(), "part_urls"]);
        let answer = self.post(&url, Repeat::Harmless, &SignParts { numbers: numbers.to_vec() }).await?;
        decode(&url, answer).await
    }

    /// Completes an upload whose parts are all there; asked again, the answer is the same.
    pub async fn complete_upload(&self, upload_id: Uuid) -> Result<Upload> {
        let url = self.url(&["uploads", &upload_id.to_string(), "complete"]);
        let answer = self.post(&url, Repeat::Harmless, &()).await?;
        decode(&url, answer).await
    }

    /// Aborts an upload in parts and gives its bytes back.
    pub async fn abort_upload(&self, upload_id: Uuid) -> Result<()> {
        let url = self.url(&["uploads", &upload_id.to_string()]);
        self.send(&url, Repeat::Harmless, || self.request(Method::DELETE, &url)).await.map(drop)
    }

    /// Makes a file that lies below a prefix which the server allows a checkpoint, in place.
    pub async fn register_checkpoint(&self, run: &str, body: &RegisterCheckpoint) -> Result<Checkpoint> {
        self.create(&self.url(&["runs", run, "checkpoints", "register"]), body).await
    }

    /// Uploads a file in parts, `parallel` of them at a time, and completes it. Parts that the server has are not sent: whoever
    /// was interrupted calls this again, with nothing to remember. `sent` hears the bytes that are there.
    ///
    /// The file is read once for its digest before the first byte is sent; it must not change meanwhile.
    pub async fn push_in_parts(
        &self,
        target: UploadTarget,
        file: &Path,
        parallel: usize,
        sent: &ByteCounter,
    ) -> Result<Upload> {
        let size_bytes = tokio::fs::metadata(file).await.map_err(|e| ClientError::io(file, e))?.len();
        let mut tree = read_tree(file, usual_part_bytes(size_bytes)).await?;
        let upload = self
            .create_upload(&CreateUpload {
                target,
                size_bytes: tree.plan.size_bytes(),
                digest_blake3: tree.digest_blake3.clone(),
                part_size_bytes: Some(tree.plan.part_size_bytes()),
            })
            .await?;
        if upload.state == UploadState::Open {
            if upload.part_size_bytes != tree.plan.part_size_bytes() {
                tree = read_tree(file, upload.part_size_bytes).await?;
            }
            self.send_missing(upload.upload_id, file, &tree, parallel, sent).await?;
        }
        sent.tell(upload.size_bytes);
        match upload.state {
            UploadState::Completed => Ok(upload),
            UploadState::Open | UploadState::Completing => self.complete_upload(upload.upload_id).await,
        }
    }

    /// Sends the parts that the server lacks or has other bytes of.
    async fn send_missing(
        &self,
        upload_id: Uuid,
        file: &Path,
        tree: &FileTree,
        parallel: usize,
        sent: &ByteCounter,
    ) -> Result<()> {
        let mut wanted: Vec<Option<String>> =
            tree.chaining_values.iter().map(|value| Some(tree::to_hex(value))).collect();
        let mut there = 0;
        for part in self.list_parts(upload_id).await? {
            let place = part.number.checked_sub(1).and_then(|index| wanted.get_mut(index as usize));
            if let Some(place) =
                place.filter(|place| part.chaining_value_blake3.is_some() && **place == part.chaining_value_blake3)
            {
                *place = None;
                there += part.size_bytes;
            }
        }
        let total = Total { bytes: Arc::new(AtomicU64::new(there)), sent: sent.clone() };
        let missing = wanted.into_iter().zip(1..).filter_map(|(value, number)| Some((value?, number)));
        let mut sending = missing.map(|(value, number)| {
            let range = tree.plan.range(number).unwrap_or_default();
            let beside = PutPart { chaining_value_blake3: Some(value) };
            let counter = total.of_part();
            async move { self.put_part_patiently(upload_id, number, file, range, &beside, &counter).await }
        });
        // The first part goes ahead: it holds the header, by which the server looks at the others while they pass.
        if let Some(first) = sending.next() {
            first.await?;
        }
        stream::iter(sending).buffer_unordered(parallel.max(1)).try_for_each(|_| std::future::ready(Ok(()))).await
    }
}

/// Bytes of all parts together.
struct Total {
    bytes: Arc<AtomicU64>,
    sent: ByteCounter,
}

impl Total {
    /// A counter of one part; a part that is sent again counts once.
    fn of_part(&self) -> ByteCounter {
        let (bytes, sent, counted) = (Arc::clone(&self.bytes), self.sent.clone(), AtomicU64::new(0));
        ByteCounter::new(move |part| {
            let before = counted.swap(part, Ordering::Relaxed);
            let change = part.wrapping_sub(before);
            sent.tell(bytes.fetch_add(change, Ordering::Relaxed).wrapping_add(change));
        })
    }
}

async fn read_tree(file: &Path, part_size_bytes: u64) -> Result<FileTree> {
    let path = file.to_owned();
    let read = tokio::task::spawn_blocking(move || FileTree::read(&path, part_size_bytes));
    read.await.map_err(std::io::Error::other).flatten().map_err(|e| ClientError::io(file, e))
}
