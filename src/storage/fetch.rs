//! Streaming bytes out of the store.

use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{GetOptions, GetRange, ObjectStore};

use super::{ObjectKey, StorageError, Store};

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
        Ok(result.into_stream().map_err(StorageError::from).boxed())
    }

    /// Reads a whole small object.
    pub async fn get_bytes(&self, key: &ObjectKey) -> Result<Bytes, StorageError> {
        let result = self.objects.get_opts(&key.path(), GetOptions::default()).await?;
        Ok(result.bytes().await?)
    }
}
