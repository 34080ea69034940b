//! Opening a store by URL.

use std::sync::Arc;

use object_store::{DynObjectStore, local::LocalFileSystem, memory::InMemory, parse_url_opts, prefix::PrefixStore};
use url::Url;

use super::{StorageError, Store};

impl Store {
    /// Opens the store that a URL names: `file:///folder` (made where absent), `memory:///`, `s3://bucket/prefix`.
    ///
    /// `options` are settings by their lower-case names, such as `aws_endpoint`; see [`Store::open_from_environment`].
    pub fn open(url: &Url, options: impl IntoIterator<Item = (String, String)>) -> Result<Self, StorageError> {
        match url.scheme() {
            "file" => Self::open_folder(url),
            "memory" => Ok(Self { objects: Arc::new(InMemory::new()), folder: None }),
            _ => {
                let (store, prefix) = parse_url_opts(url, options).map_err(|error| refused(url, &error.to_string()))?;
                let objects: Arc<DynObjectStore> = Arc::new(PrefixStore::new(store, prefix));
                Ok(Self { objects, folder: None })
            }
        }
    }

    /// Opens a store with the settings in the `AWS_*` variables of the environment.
    pub fn open_from_environment(url: &Url) -> Result<Self, StorageError> {
        let settings = std::env::vars().filter(|(name, _)| name.starts_with("AWS_"));
        Self::open(url, settings.map(|(name, value)| (name.to_ascii_lowercase(), value)))
    }

    fn open_folder(url: &Url) -> Result<Self, StorageError> {
        let folder = url.to_file_path().map_err(|()| refused(url, "it is not the path of a folder"))?;
        std::fs::create_dir_all(&folder).map_err(|error| StorageError::folder(&folder, error))?;
        let folder = folder.canonicalize().map_err(|error| StorageError::folder(&folder, error))?;
        // Synced to disk: a checkpoint that was answered with 201 must survive a power cut.
        let objects = LocalFileSystem::new_with_prefix(&folder).map_err(StorageError::from)?.with_fsync(true);
        Ok(Self { objects: Arc::new(objects), folder: Some(folder) })
    }
}

fn refused(url: &Url, reason: &str) -> StorageError {
    let mut shown = url.clone();
    // A URL without a host refuses to lose its password, and then has none.
    let _ = shown.set_password(None);
    StorageError::Open { url: shown.to_string(), reason: reason.to_owned() }
}
