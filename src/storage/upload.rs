//! Streaming bytes into the store.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::Stream;
use object_store::{ObjectStoreExt, PutPayload, buffered::BufWriter, multipart::PartId, path::Path};
use tokio::{io::AsyncWriteExt, task::JoinSet};

use super::{
    ObjectKey, StorageError, Store,
    measured::Measured,
    parts::{NativeParts, PartStore},
};

/// Bytes of one part; smaller objects are stored by a single request. S3 takes 10 000 parts of at least 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Parts on their way at a time: bounds the memory of one upload to (parts + 1) x part.
const PARTS_IN_FLIGHT: usize = 3;

/// Bytes that are written to a file at a time, of which one lot is gathered while another is written: a disk gains nothing from more.
const WRITE_BYTES: usize = 4 << 20;

/// What was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Bytes received.
    pub size_bytes: u64,
    /// Their BLAKE3 digest, lower-case hexadecimal.
    pub digest_blake3: String,
}

/// Why a stream was not stored; nothing of it is visible then.
#[derive(Debug, thiserror::Error)]
pub enum PutError<E> {
    /// The stream ended with an error of its own.
    #[error("the stream failed")]
    Source(E),
    /// The stream is longer than allowed.
    #[error("more than {limit_bytes} bytes")]
    TooLarge {
        /// What is allowed.
        limit_bytes: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StorageError),
}

impl Store {
    /// Stores a stream of at most `limit_bytes` under `key`, hashing and counting what passes.
    ///
    /// Memory is bounded by a few parts of 8 MiB, whatever the length. What is longer than one is a multi-part upload where the
    /// store has such: `opened` hears the store's name for it before the first part goes, so that [`Store::abort_parts`] can give
    /// back what a process that dies here leaves. On any error the unfinished object is aborted.
    pub async fn put_stream<E>(
        &self,
        key: &ObjectKey,
        stream: impl Stream<Item = Result<Bytes, E>> + Unpin,
        limit_bytes: u64,
        opened: impl AsyncFnOnce(String) -> Result<(), E>,
    ) -> Result<Stored, PutError<E>> {
        let mut stream = Measured::new(stream, limit_bytes);
        match &self.parts {
            PartStore::Folder(_) => self.put_file(key, &mut stream).await?,
            PartStore::Native(native) => {
                let first = stream.take(PART_BYTES).await?;
                if stream.is_over().await? {
                    let whole = PutPayload::from_bytes(first);
                    self.objects.put(&key.path(), whole).await.map_err(StorageError::from)?;
                } else {
                    native.put_stream(key, first, &mut stream, opened).await?;
                }
            }
        }
        Ok(stream.stored())
    }

    /// A stream as a file, which a rename makes visible.
    async fn put_file<E>(
        &self,
        key: &ObjectKey,
        stream: &mut Measured<impl Stream<Item = Result<Bytes, E>> + Unpin>,
    ) -> Result<(), PutError<E>> {
        let mut writer =
            BufWriter::with_capacity(Arc::clone(&self.objects), key.path(), WRITE_BYTES).with_max_concurrency(1);
        match copy(&mut writer, stream).await {
            Ok(()) => Ok(writer.shutdown().await.map_err(into_storage_error)?),
            Err(error) => {
                if let Err(abort) = writer.abort().await {
                    tracing::warn!(object.key = %key, error = %abort, "an unfinished object could not be aborted");
                }
                Err(error)
            }
        }
    }

    /// Stores a small object.
    pub async fn put_bytes(&self, key: &ObjectKey, bytes: Bytes) -> Result<Stored, StorageError> {
        let stored =
            Stored { size_bytes: bytes.len() as u64, digest_blake3: blake3::hash(&bytes).to_hex().to_string() };
        self.objects.put(&key.path(), PutPayload::from_bytes(bytes)).await?;
        Ok(stored)
    }
}

/// The writer wraps what the store said in an I/O error.
fn into_storage_error(error: std::io::Error) -> StorageError {
    object_store::Error::Generic { store: "upload", source: error.into() }.into()
}

async fn copy<E>(
    writer: &mut BufWriter,
    stream: &mut Measured<impl Stream<Item = Result<Bytes, E>> + Unpin>,
) -> Result<(), PutError<E>> {
    while let Some(chunk) = stream.next().await? {
        writer.put(chunk).await.map_err(StorageError::from)?;
    }
    Ok(())
}

impl NativeParts {
    /// Stores a stream of which these are the first bytes and more follow.
    async fn put_stream<E>(
        &self,
        key: &ObjectKey,
        first: Bytes,
        stream: &mut Measured<impl Stream<Item = Result<Bytes, E>> + Unpin>,
        opened: impl AsyncFnOnce(String) -> Result<(), E>,
    ) -> Result<(), PutError<E>> {
        let (store, path) = (self.store(), key.path());
        let id = store.create_multipart(&path).await.map_err(StorageError::from)?;
        let sent = match opened(id.clone()).await {
            Ok(()) => self.send(&path, &id, first, stream).await,
            Err(error) => Err(PutError::Source(error)),
        };
        let finished = match sent {
            Ok(parts) => store.complete_multipart(&path, &id, parts).await.map_err(|e| StorageError::from(e).into()),
            Err(error) => Err(error),
        };
        let Err(error) = finished else { return Ok(()) };
        if let Err(abort) = store.abort_multipart(&path, &id).await {
            tracing::warn!(object.key = %key, error = %abort, "an unfinished object could not be aborted");
        }
        Err(error)
    }

    /// Sends all parts, a few at a time; none is on its way any more when it returns.
    async fn send<E>(
        &self,
        path: &Path,
        id: &str,
        first: Bytes,
        stream: &mut Measured<impl Stream<Item = Result<Bytes, E>> + Unpin>,
    ) -> Result<Vec<PartId>, PutError<E>> {
        let (mut sending, mut sent) = (JoinSet::new(), BTreeMap::new());
        let result = self.send_with(&mut sending, &mut sent, (path, id), first, stream).await;
        sending.shutdown().await;
        result.map(|()| sent.into_values().collect())
    }

    async fn send_with<E>(
        &self,
        sending: &mut JoinSet<object_store::Result<(usize, PartId)>>,
        sent: &mut BTreeMap<usize, PartId>,
        (path, id): (&Path, &str),
        first: Bytes,
        stream: &mut Measured<impl Stream<Item = Result<Bytes, E>> + Unpin>,
    ) -> Result<(), PutError<E>> {
        let mut next = Some(first);
        for index in 0.. {
            while sending.len() >= if next.is_some() { PARTS_IN_FLIGHT } else { 1 } {
                let Some(joined) = sending.join_next().await else { break };
                sent.extend([joined.map_err(object_store::Error::from).flatten().map_err(StorageError::from)?]);
            }
            let Some(part) = next else { break };
            let (store, path, id) = (self.store(), path.clone(), id.to_owned());
            let payload = PutPayload::from_bytes(part);
            sending.spawn(async move { Ok((index, store.put_part(&path, &id, index, payload).await?)) });
            next = if stream.is_over().await? { None } else { Some(stream.take(PART_BYTES).await?) };
        }
        Ok(())
    }
}
