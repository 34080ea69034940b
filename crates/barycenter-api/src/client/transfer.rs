//! Whole files up and down, streamed.

use std::{
    ffi::OsString,
    fmt,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backon::Retryable;
use bytes::Bytes;
use futures::TryStreamExt;
use reqwest::{
    Body, Method, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    fs::{File, OpenOptions},
    io::AsyncRead,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::io::ReaderStream;

use super::{
    Client, ClientError, Result,
    exchange::{Repeat, accepted, decode, in_time, may_repeat, note_retry, pause},
};

/// A read of a file on its way up.
const READ_BYTES: usize = 256 * 1024;
/// Pieces of a download that may wait for the disk, each as the connection brought it: some hundred kilobytes at most.
const PIECES_WAITING: usize = 8;
/// A download that brings nothing for so long is dead.
const STALL: Duration = Duration::from_mins(1);

/// Hears how many bytes of a transfer are done.
#[derive(Clone)]
pub struct ByteCounter(Arc<dyn Fn(u64) + Send + Sync>);

impl ByteCounter {
    /// Calls `count` with the bytes done so far; a repeated transfer starts again from a smaller number.
    pub fn new(count: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(count))
    }

    /// Hears nothing.
    pub fn none() -> Self {
        Self::new(|_| ())
    }

    /// A counter of what comes behind so many bytes.
    #[must_use]
    pub fn behind(&self, bytes: u64) -> Self {
        let all = self.clone();
        Self::new(move |more| all.tell(bytes + more))
    }

    pub(super) fn tell(&self, bytes: u64) {
        (self.0)(bytes);
    }
}

impl fmt::Debug for ByteCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByteCounter")
    }
}

/// What a downloaded file must be.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Its size.
    pub size_bytes: u64,
    /// Its BLAKE3 digest, lower-case hexadecimal.
    pub digest_blake3: &'a str,
}

impl Client {
    /// Downloads `path` of the server (`/v1/checkpoints/{id}/content`) into the file `to`.
    ///
    /// The bytes gather in `<to>.part`; one that an interrupted download left is continued. The digest is verified before
    /// the file takes its name, so `to` is complete and right or absent. One download a file at a time.
    ///
    /// # Errors
    /// [`ClientError::Digest`] where the bytes are others than promised; they are removed then.
    pub async fn download(&self, path: &str, to: &Path, expected: Expected<'_>, received: &ByteCounter) -> Result<()> {
        let url = self.url_of_path(path)?;
        let part = part_of(to);
        let found = (async || self.continue_part(&url, &part, expected.size_bytes, received).await)
            .retry(self.backoff())
            .when(|error| may_repeat(error, Repeat::Harmless))
            .adjust(pause)
            .notify(note_retry)
            .await?;
        if found != expected.digest_blake3 {
            tokio::fs::remove_file(&part).await.map_err(|e| ClientError::io(&part, e))?;
            let expected = expected.digest_blake3.to_owned();
            return Err(ClientError::Digest { path: to.to_owned(), expected, found });
        }
        tokio::fs::rename(&part, to).await.map_err(|e| ClientError::io(to, e))
    }

    /// Fetches what `part` lacks of `size` bytes; returns the digest of all of it.
    async fn continue_part(&self, url: &Url, part: &Path, size: u64, received: &ByteCounter) -> Result<String> {
        let failed = |error| ClientError::io(part, error);
        let mut options = OpenOptions::new();
        let opened = options.create(true).truncate(false).read(true).write(true).open(part).await;
        let file = opened.map_err(failed)?;
        let mut have = file.metadata().await.map_err(failed)?.len();
        if have > size {
            have = 0;
        }
        let mut answer = None;
        if have < size || size == 0 {
            let mut request = self.request(Method::GET, url);
            if have > 0 {
                request = request.header(RANGE, format!("bytes={have}-"));
            }
            let accepted = accepted(url, in_time(url, STALL, request.send()).await?).await?;
            have = first_byte(url, &accepted, have)?;
            answer = Some(accepted);
        }
        let (pieces, written) = WrittenBehind::start(file.into_std().await, have);
        let came = receive(url, answer, pieces, have, size, received).await;
        // What came is written and synced whatever became of the rest: the next try goes on from there.
        let digest = written.digest().await.map_err(failed)?;
        came?;
        received.tell(size);
        Ok(digest)
    }

    /// A streamed PUT of a file with its length, read anew for every try.
    pub(super) async fn put_file<T: DeserializeOwned>(
        &self,
        url: &Url,
        query: &impl Serialize,
        path: &Path,
        sent: &ByteCounter,
        repeat: Repeat,
    ) -> Result<T> {
        let answer = (async || {
            let file = File::open(path).await.map_err(|e| ClientError::io(path, e))?;
            let length = file.metadata().await.map_err(|e| ClientError::io(path, e))?.len();
            let request = self
                .request(Method::PUT, url)
                .query(query)
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, length)
                .body(counted(file, sent.clone()));
            accepted(url, request.send().await).await
        })
        .retry(self.backoff())
        .when(|error| may_repeat(error, repeat))
        .adjust(pause)
        .notify(note_retry)
        .await?;
        decode(url, answer).await
    }
}

fn part_of(to: &Path) -> PathBuf {
    let mut name = OsString::from(to);
    name.push(".part");
    name.into()
}

/// The file as a body that tells how much of it was taken.
pub(super) fn counted(file: impl AsyncRead + Send + 'static, sent: ByteCounter) -> Body {
    let mut total = 0;
    Body::wrap_stream(ReaderStream::with_capacity(file, READ_BYTES).inspect_ok(move |chunk| {
        total += chunk.len() as u64;
        sent.tell(total);
    }))
}

/// Where in the file the answer's first byte belongs: a server may ignore the range and send everything.
fn first_byte(url: &Url, answer: &Response, asked: u64) -> Result<u64> {
    if asked == 0 || answer.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(0);
    }
    let header = answer.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let start = header.strip_prefix("bytes ").and_then(|v| v.split('-').next()).and_then(|v| v.parse().ok());
    if start == Some(asked) {
        return Ok(asked);
    }
    let detail = format!("asked for bytes from {asked}, got content-range `{header}`");
    Err(ClientError::Protocol { url: url.to_string(), detail })
}

/// Hands the answer's body on, which belongs behind `have` bytes; refuses one that does not end at `size`. Without an answer
/// nothing was lacking.
async fn receive(
    url: &Url,
    answer: Option<Response>,
    pieces: mpsc::Sender<Bytes>,
    mut have: u64,
    size: u64,
    received: &ByteCounter,
) -> Result<()> {
    let Some(mut answer) = answer else { return Ok(()) };
    while let Some(chunk) = in_time(url, STALL, answer.chunk()).await?.map_err(|e| ClientError::transport(url, e))? {
        have += chunk.len() as u64;
        if have > size {
            break;
        }
        // Where nobody takes it, writing has failed, and says so at its end.
        if pieces.send(chunk).await.is_err() {
            return Ok(());
        }
        received.tell(have);
    }
    if have == size {
        return Ok(());
    }
    let detail =
        format!("{size} bytes were promised, {} came", if have > size { "more".into() } else { have.to_string() });
    Err(ClientError::Protocol { url: url.to_string(), detail })
}

/// A file that is hashed and written while the next bytes arrive.
struct WrittenBehind(JoinHandle<std::io::Result<String>>);

impl WrittenBehind {
    /// Keeps the first `have` bytes of the file and writes what is sent behind them.
    fn start(mut file: std::fs::File, have: u64) -> (mpsc::Sender<Bytes>, Self) {
        let (pieces, mut taken) = mpsc::channel::<Bytes>(PIECES_WAITING);
        let written = tokio::task::spawn_blocking(move || {
            let mut hasher = blake3::Hasher::new();
            file.set_len(have)?;
            hasher.update_reader(&file)?;
            while let Some(piece) = taken.blocking_recv() {
                hasher.update(&piece);
                file.write_all(&piece)?;
            }
            file.sync_all()?;
            Ok(hasher.finalize().to_hex().to_string())
        });
        (pieces, Self(written))
    }

    /// Waits for the last byte; the digest of the whole file.
    async fn digest(self) -> std::io::Result<String> {
        self.0.await.map_err(std::io::Error::other).flatten()
    }
}
