//! Object storage: opened by URL, every key made in [`keys`], bytes streamed in and out.

mod direct;
mod error;
mod fetch;
mod folder_parts;
pub mod keys;
mod measured;
mod open;
mod part_buffers;
mod parts;
mod registered;
mod upload;

use std::{path::PathBuf, sync::Arc};

use object_store::{DynObjectStore, ObjectStoreExt, multipart::MultipartStore, path::Path};

use direct::Direct;
use parts::{BusyParts, NativeParts, PartStore};
use registered::Prefix;

pub use direct::StoredPart;
pub use error::StorageError;
pub use fetch::ObjectStream;
pub use keys::ObjectKey;
pub use parts::{PartClaim, PartError, PartPlace};
pub use registered::FoundObject;
pub use upload::{PutError, Stored};

/// An object store; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<DynObjectStore>,
    /// Folder of a `file:` store, whose unfinished writes lie beside the objects.
    folder: Option<PathBuf>,
    parts: PartStore,
    busy_parts: BusyParts,
    /// Present where the store signs URLs.
    direct: Option<Direct>,
    /// Where objects of others may be read.
    registered: Vec<Prefix>,
}

impl Store {
    /// A store that takes parts by itself.
    pub fn new(objects: Arc<DynObjectStore>, parts: Arc<dyn MultipartStore>) -> Self {
        let parts = PartStore::Native(NativeParts::new(parts));
        Self { objects, folder: None, parts, busy_parts: BusyParts::default(), direct: None, registered: Vec::new() }
    }

    /// Asks the store for a sign of life: any answer will do, also that an object does not exist.
    pub async fn ping(&self) -> Result<(), StorageError> {
        match self.objects.head(&Path::from(keys::PING)).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes an object and whatever an unfinished write left beside it; a missing object is no error. An object that was registered
    /// in place is not ours to delete: it stays.
    pub async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        if key.is_registered() {
            return Ok(());
        }
        if let Some(folder) = &self.folder {
            remove_unfinished_writes(&folder.join(key.as_str())).await?;
        }
        match self.objects.delete(&key.path()).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Keys of every object, in no order; for audits and tests, since it walks the whole store.
    pub async fn list_keys(&self) -> Result<Vec<String>, StorageError> {
        use futures::TryStreamExt;
        let keys = self.objects.list(None).map_ok(|object| object.location.to_string());
        Ok(keys.try_collect().await?)
    }
}

/// A `file:` store writes `<object>#<n>` and renames it at the end; a process that was killed leaves the former.
async fn remove_unfinished_writes(object: &std::path::Path) -> Result<(), StorageError> {
    let (Some(parent), Some(name)) = (object.parent(), object.file_name().and_then(|name| name.to_str())) else {
        return Ok(());
    };
    let mut entries = match tokio::fs::read_dir(parent).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StorageError::folder(parent, error)),
    };
    let prefix = format!("{name}#");
    while let Some(entry) = entries.next_entry().await.map_err(|error| StorageError::folder(parent, error))? {
        if entry.file_name().to_str().is_some_and(|candidate| candidate.starts_with(&prefix)) {
            tokio::fs::remove_file(entry.path()).await.map_err(|error| StorageError::folder(parent, error))?;
        }
    }
    Ok(())
}
