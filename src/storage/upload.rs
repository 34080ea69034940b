//! Streaming bytes into the store.

use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use object_store::{ObjectStoreExt, PutPayload, buffered::BufWriter};
use tokio::io::AsyncWriteExt;

use super::{ObjectKey, StorageError, Store};

/// Bytes of one part; smaller objects are stored by a single request. S3 takes 10 000 parts of at least 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// Parts on their way at a time: bounds the memory of one upload to (parts + 1) x part.
const PARTS_IN_FLIGHT: usize = 3;

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
    /// Memory is bounded by a few parts of 8 MiB, whatever the length. On any error the unfinished object is aborted.
    pub async fn put_stream<E>(
        &self,
        key: &ObjectKey,
        mut stream: impl Stream<Item = Result<Bytes, E>> + Unpin,
        limit_bytes: u64,
    ) -> Result<Stored, PutError<E>> {
        let mut writer = BufWriter::with_capacity(Arc::clone(&self.objects), key.path(), PART_BYTES)
            .with_max_concurrency(PARTS_IN_FLIGHT);
        let copied = copy(&mut writer, &mut stream, limit_bytes).await;
        match copied {
            Ok(stored) => {
                writer.shutdown().await.map_err(into_storage_error)?;
                Ok(stored)
            }
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
    StorageError::Backend(object_store::Error::Generic { store: "upload", source: error.into() })
}

async fn copy<E>(
    writer: &mut BufWriter,
    stream: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    limit_bytes: u64,
) -> Result<Stored, PutError<E>> {
    let mut hasher = blake3::Hasher::new();
    let mut size_bytes = 0_u64;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(PutError::Source)?;
        size_bytes += chunk.len() as u64;
        if size_bytes > limit_bytes {
            return Err(PutError::TooLarge { limit_bytes });
        }
        hasher.update(&chunk);
        writer.put(chunk).await.map_err(StorageError::from)?;
    }
    Ok(Stored { size_bytes, digest_blake3: hasher.finalize().to_hex().to_string() })
}
