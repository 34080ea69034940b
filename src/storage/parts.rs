//! Objects that are stored in parts, which arrive in any order, at any time, through any server.
//!
//! Stores with multi-part uploads of their own (S3, memory) are used as they are: a part is held in memory until the store
//! has it, see [`super::part_buffers`]. A folder needs no buffers, see [`super::folder_parts`].

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use object_store::{
    ObjectStoreExt, PutPayload,
    multipart::{MultipartStore, PartId},
};

use super::{ObjectKey, StorageError, Store, folder_parts::FolderParts, part_buffers::PartBuffers};

/// How a store takes parts.
#[derive(Clone, Debug)]
pub(super) enum PartStore {
    /// By itself.
    Native(NativeParts),
    /// In files of a folder.
    Folder(FolderParts),
}

/// A store with multi-part uploads of its own.
#[derive(Clone)]
pub(super) struct NativeParts {
    store: Arc<dyn MultipartStore>,
    buffers: PartBuffers,
}

impl std::fmt::Debug for NativeParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NativeParts")
    }
}

impl NativeParts {
    pub(super) fn new(store: Arc<dyn MultipartStore>) -> Self {
        Self { store, buffers: PartBuffers::new() }
    }

    pub(super) fn store(&self) -> Arc<dyn MultipartStore> {
        Arc::clone(&self.store)
    }
}

/// Parts that are being written by this process, by object and number.
#[derive(Clone, Debug, Default)]
pub(super) struct BusyParts(Arc<Mutex<HashSet<(String, u64)>>>);

impl BusyParts {
    fn claim(&self, key: &ObjectKey, number: u64) -> Option<BusyPart> {
        let name = (key.as_str().to_owned(), number);
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(name.clone()).then(|| BusyPart { busy: self.clone(), name })
    }
}

/// Frees the part when it is dropped.
#[derive(Debug)]
struct BusyPart {
    busy: BusyParts,
    name: (String, u64),
}

impl Drop for BusyPart {
    fn drop(&mut self) {
        self.busy.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// Which part of which object.
#[derive(Clone, Copy, Debug)]
pub struct PartPlace<'a> {
    /// The object.
    pub key: &'a ObjectKey,
    /// What the store calls the upload.
    pub store_upload_id: &'a str,
    /// Number of the part, from 1.
    pub number: u64,
    /// Where the part begins.
    pub offset: u64,
    /// Its exact length.
    pub length: u64,
}

/// The right to write a part; nobody else has it until this is dropped, or its process dies.
#[derive(Debug)]
pub struct PartClaim<'a> {
    place: PartPlace<'a>,
    file: Option<std::fs::File>,
    _busy: BusyPart,
}

impl<'a> PartClaim<'a> {
    /// Which part may be written.
    pub fn place(&self) -> PartPlace<'a> {
        self.place
    }
}

/// Why a part was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PartError<E> {
    /// The stream ended with an error of its own.
    #[error("the stream failed")]
    Source(E),
    /// The stream is longer or shorter than the part.
    #[error("{received} bytes of {expected}")]
    Length {
        /// The part's length.
        expected: u64,
        /// What came, or at least that.
        received: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StorageError),
}

impl Store {
    /// Opens an object that is to be stored in parts; returns the store's own name for the upload.
    pub async fn create_parts(&self, key: &ObjectKey, size_bytes: u64) -> Result<String, StorageError> {
        match &self.parts {
            PartStore::Native(native) => Ok(native.store.create_multipart(&key.path()).await?),
            PartStore::Folder(folder) => folder.create(key, size_bytes).await,
        }
    }

    /// Takes the right to write a part; `None` where somebody else has it.
    pub async fn claim_part<'a>(&self, place: PartPlace<'a>) -> Result<Option<PartClaim<'a>>, StorageError> {
        let Some(busy) = self.busy_parts.claim(place.key, place.number) else {
            return Ok(None);
        };
        let file = match &self.parts {
            PartStore::Native(_) => None,
            PartStore::Folder(folder) => match folder.claim(place).await? {
                Some(file) => Some(file),
                None => return Ok(None),
            },
        };
        Ok(Some(PartClaim { place, file, _busy: busy }))
    }

    /// Stores a part and returns what the store calls it. On an error the part may hold anything.
    pub async fn write_part<E>(
        &self,
        claim: &PartClaim<'_>,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<String, PartError<E>> {
        match (&self.parts, &claim.file) {
            (PartStore::Folder(_), Some(file)) => super::folder_parts::write(file, claim.place, body).await,
            (PartStore::Native(native), _) => native.write(claim.place, body).await,
            (PartStore::Folder(_), None) => Err(StorageError::Missing { key: claim.place.key.to_string() }.into()),
        }
    }

    /// Puts the parts together, in their order; does nothing where that has been done. The object is visible then.
    pub async fn finish_parts(
        &self,
        key: &ObjectKey,
        store_upload_id: &str,
        parts: Vec<String>,
        size_bytes: u64,
    ) -> Result<(), StorageError> {
        let finished = match &self.parts {
            PartStore::Folder(folder) => folder.finish(key).await,
            PartStore::Native(native) => {
                let parts = parts.into_iter().map(|content_id| PartId { content_id }).collect();
                let id = store_upload_id.to_owned();
                let completed = native.store.complete_multipart(&key.path(), &id, parts).await;
                completed.map(drop).map_err(StorageError::from)
            }
        };
        match finished {
            Ok(()) => Ok(()),
            // A server that died after this step left it done: no other upload ever has this key.
            Err(_) if self.has_object(key, size_bytes).await => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn has_object(&self, key: &ObjectKey, size_bytes: u64) -> bool {
        self.objects.head(&key.path()).await.is_ok_and(|object| object.size == size_bytes)
    }

    /// Gives back the parts of an upload that will not be finished; none is no error.
    pub async fn abort_parts(&self, key: &ObjectKey, store_upload_id: &str) -> Result<(), StorageError> {
        let PartStore::Native(native) = &self.parts else {
            // The file with the parts goes with whatever else lies beside the object.
            return self.delete(key).await;
        };
        // Where the object is there, its parts have become it; some stores refuse to abort what is finished.
        if self.objects.head(&key.path()).await.is_ok() {
            return Ok(());
        }
        match native.store.abort_multipart(&key.path(), &store_upload_id.to_owned()).await {
            // The only error of the store in memory is that there is no such upload.
            Ok(())
            | Err(object_store::Error::NotFound { .. } | object_store::Error::Generic { store: "InMemory", .. }) => {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl NativeParts {
    async fn write<E>(
        &self,
        place: PartPlace<'_>,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<String, PartError<E>> {
        let room = self.buffers.room(place.length as usize).await;
        // Copied out of the pieces in which they came: a piece may keep several times its length of a connection's buffer alive.
        let mut part = room.buffer();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(PartError::Source)?;
            check_length(place, (part.len() + chunk.len()) as u64, false)?;
            part.extend(&chunk);
        }
        check_length(place, part.len() as u64, true)?;
        let id = place.store_upload_id.to_owned();
        let index = place.number as usize - 1;
        let payload = PutPayload::from_bytes(part.freeze());
        let part = self.store.put_part(&place.key.path(), &id, index, payload).await;
        Ok(part.map_err(StorageError::from)?.content_id)
    }
}

/// Refuses a part that is too long or, at its end, too short.
pub(super) fn check_length<E>(place: PartPlace<'_>, received: u64, ended: bool) -> Result<(), PartError<E>> {
    let expected = place.length;
    if received > expected || ended && received < expected {
        return Err(PartError::Length { expected, received });
    }
    Ok(())
}
