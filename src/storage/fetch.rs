//! Streaming bytes out of the store.

use std::{
    fs::File,
    io::{Seek, SeekFrom},
    ops::Range,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::{ObjectKey, StorageError, Store};

/// What is read of a file at once. The store itself reads 8 KiB, each in a task of its own.
const READ_BYTES: usize = 1 << 19;

/// Bytes of an object as they arrive.
pub type ObjectStream = BoxStream<'static, Result<Bytes, StorageError>>;

impl Store {
    /// Streams the bytes of `range` (start inclusive, end exclusive, inside the object); an empty range is no bytes.
    pub async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<ObjectStream, StorageError> {
        if range.is_empty() {
            return Ok(futures::stream::empty().boxed());
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let (objects, path) = match self.registered_place(key) {
            Some((objects, path)) => (objects, path),
            None if key.is_registered() => return Err(StorageError::Missing { key: key.to_string() }),
            None => (&self.objects, key.path()),
        };
        let result = objects.get_opts(&path, options).await?;
        let range = result.range.clone();
        match result.payload {
            GetResultPayload::File(file, path) => {
                let failed = move |error| StorageError::folder(&path, error);
                Ok(stream_file(file, range).map_err(&failed)?.map_err(failed).boxed())
            }
            GetResultPayload::Stream(stream) => Ok(stream.map_err(StorageError::from).boxed()),
        }
    }

    /// Whether the object is there.
    pub async fn holds(&self, key: &ObjectKey) -> Result<bool, StorageError> {
        match self.objects.head(&key.path()).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a whole small object.
    pub async fn get_bytes(&self, key: &ObjectKey) -> Result<Bytes, StorageError> {
        let result = self.objects.get_opts(&key.path(), GetOptions::default()).await?;
        Ok(result.bytes().await?)
    }
}

fn stream_file(mut file: File, range: Range<u64>) -> std::io::Result<ReaderStream<impl tokio::io::AsyncRead>> {
    file.seek(SeekFrom::Start(range.start))?;
    let file = tokio::fs::File::from_std(file).take(range.end - range.start);
    Ok(ReaderStream::with_capacity(file, READ_BYTES))
}
