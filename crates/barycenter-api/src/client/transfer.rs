//! Whole files up and down, streamed.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backon::Retryable;
use futures::TryStreamExt;
use reqwest::{
    Body, Method, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncRead, AsyncSeekExt, AsyncWriteExt, BufWriter},
};
use tokio_util::io::ReaderStream;

use super::{
    Client, ClientError, Result,
    exchange::{Repeat, accepted, decode, in_time, may_repeat, note_retry, pause},
};

/// A read of a file on its way up.
const READ_BYTES: usize = 256 * 1024;
/// What gathers before it is written to a file.
const WRITE_BYTES: usize = 1 << 20;
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
        (async || self.continue_part(&url, &part, expected.size_bytes, received).await)
            .retry(self.backoff())
            .when(|error| may_repeat(error, Repeat::Harmless))
            .adjust(pause)
            .notify(note_retry)
            .await?;
        let found = digest_of(&part).await?;
        if found != expected.digest_blake3 {
            tokio::fs::remove_file(&part).await.map_err(|e| ClientError::io(&part, e))?;
            let expected = expected.digest_blake3.to_owned();
            return Err(ClientError::Digest { path: to.to_owned(), expected, found });
        }
        tokio::fs::rename(&part, to).await.map_err(|e| ClientError::io(to, e))
    }

    /// Fetches what `part` lacks of `size` bytes.
    async fn continue_part(&self, url: &Url, part: &Path, size: u64, received: &ByteCounter) -> Result<()> {
        let mut options = OpenOptions::new();
        let opened = options.create(true).truncate(false).write(true).open(part).await;
        let mut file = opened.map_err(|e| ClientError::io(part, e))?;
        let mut have = file.metadata().await.map_err(|e| ClientError::io(part, e))?.len();
        if have > size {
            have = 0;
        }
        if have < size || size == 0 {
            let mut request = self.request(Method::GET, url);
            if have > 0 {
                request = request.header(RANGE, format!("bytes={have}-"));
            }
            let answer = in_time(url, STALL, request.send()).await?;
            let answer = accepted(url, answer).await?;
            have = first_byte(url, &answer, have)?;
            cut(&mut file, have).await.map_err(|e| ClientError::io(part, e))?;
            have = write_all(url, answer, &mut file, part, have, size, received).await?;
        }
        file.sync_all().await.map_err(|e| ClientError::io(part, e))?;
        received.tell(have);
        Ok(())
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

/// Forgets everything in the file from `length` on.
async fn cut(file: &mut File, length: u64) -> std::io::Result<()> {
    file.set_len(length).await?;
    file.seek(std::io::SeekFrom::Start(length)).await.map(drop)
}

/// Writes the answer's body behind the `have` bytes that are there; returns how many are there then.
async fn write_all(
    url: &Url,
    mut answer: Response,
    file: &mut File,
    part: &Path,
    mut have: u64,
    size: u64,
    received: &ByteCounter,
) -> Result<u64> {
    let mut file = BufWriter::with_capacity(WRITE_BYTES, file);
    loop {
        let chunk = in_time(url, STALL, answer.chunk()).await?.map_err(|e| ClientError::transport(url, e))?;
        let Some(chunk) = chunk else { break };
        have += chunk.len() as u64;
        if have > size {
            break;
        }
        file.write_all(&chunk).await.map_err(|e| ClientError::io(part, e))?;
        received.tell(have);
    }
    file.flush().await.map_err(|e| ClientError::io(part, e))?;
    if have == size {
        return Ok(have);
    }
    let detail =
        format!("{size} bytes were promised, {} came", if have > size { "more".into() } else { have.to_string() });
    Err(ClientError::Protocol { url: url.to_string(), detail })
}

async fn digest_of(path: &Path) -> Result<String> {
    let owned = path.to_owned();
    let digest = tokio::task::spawn_blocking(move || -> std::io::Result<String> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(std::fs::File::open(owned)?)?;
        Ok(hasher.finalize().to_hex().to_string())
    });
    digest.await.map_err(std::io::Error::other).flatten().map_err(|e| ClientError::io(path, e))
}
