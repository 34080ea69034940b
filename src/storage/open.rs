//! Opening a store by URL.

use std::sync::Arc;

use object_store::{
    ObjectStoreScheme, aws::AmazonS3Builder, local::LocalFileSystem, memory::InMemory, path::Path, prefix::PrefixStore,
};
use url::Url;

use super::{
    StorageError, Store,
    folder_parts::FolderParts,
    parts::{BusyParts, PartStore},
};

impl Store {
    /// Opens the store that a URL names: `file:///folder` (made where absent), `memory:///`, `s3://bucket/prefix`.
    ///
    /// `options` are settings by their lower-case names, such as `aws_endpoint`; see [`Store::open_from_environment`].
    pub fn open(url: &Url, options: impl IntoIterator<Item = (String, String)>) -> Result<Self, StorageError> {
        match url.scheme() {
            "file" => Self::open_folder(url),
            "memory" => {
                let memory = Arc::new(InMemory::new());
                Ok(Self::new(memory.clone(), memory))
            }
            _ => Self::open_s3(url, options),
        }
    }

    fn open_s3(url: &Url, options: impl IntoIterator<Item = (String, String)>) -> Result<Self, StorageError> {
        let refuse = |error: object_store::Error| refused(url, &error.to_string());
        let (scheme, prefix) = ObjectStoreScheme::parse(url).map_err(|error| refused(url, &error.to_string()))?;
        if scheme != ObjectStoreScheme::AmazonS3 {
            return Err(refused(url, "this build knows `file:`, `memory:` and `s3:`"));
        }
        let builder = AmazonS3Builder::new().with_url(url.as_str());
        let known = options.into_iter().filter_map(|(name, value)| Some((name.parse().ok()?, value)));
        let s3 = known.fold(builder, |builder, (key, value)| builder.with_config(key, value)).build();
        let prefix = Path::parse(prefix).map_err(|error| refused(url, &error.to_string()))?;
        let store = Arc::new(PrefixStore::new(s3.map_err(refuse)?, prefix));
        Ok(Self::new(store.clone(), store))
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
        let parts = PartStore::Folder(FolderParts::new(folder.clone()));
        Ok(Self { objects: Arc::new(objects), folder: Some(folder), parts, busy_parts: BusyParts::default() })
    }
}

fn refused(url: &Url, reason: &str) -> StorageError {
    let mut shown = url.clone();
    // A URL without a host refuses to lose its password, and then has none.
    let _ = shown.set_password(None);
    StorageError::Open { url: shown.to_string(), reason: reason.to_owned() }
}
