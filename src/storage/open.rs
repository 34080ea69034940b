//! Opening a store by URL.

use std::sync::Arc;

use object_store::{
    DynObjectStore, ObjectStoreScheme,
    aws::{AmazonS3, AmazonS3Builder},
    local::LocalFileSystem,
    memory::InMemory,
    path::Path,
    prefix::PrefixStore,
};
use url::Url;

use super::{
    StorageError, Store,
    direct::Direct,
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
        let store = Arc::new(s3(url, options)?);
        Ok(Self { direct: Some(Direct::new(store.clone())), ..Self::new(store.clone(), store) })
    }

    /// Objects below a URL that must be there already, to be read.
    pub(super) fn open_existing(
        url: &Url,
        options: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Arc<DynObjectStore>, StorageError> {
        if url.scheme() != "file" {
            return Ok(Arc::new(s3(url, options)?));
        }
        let folder = url.to_file_path().map_err(|()| refused(url, "it is not the path of a folder"))?;
        Ok(Arc::new(LocalFileSystem::new_with_prefix(&folder).map_err(StorageError::from)?))
    }

    /// Opens a store with the settings in the `AWS_*` variables of the environment; objects below `register_prefixes` may be
    /// read where they lie.
    pub fn open_from_environment(url: &Url, register_prefixes: &[Url]) -> Result<Self, StorageError> {
        let settings = std::env::vars().filter(|(name, _)| name.starts_with("AWS_"));
        let settings: Vec<_> = settings.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        Self::open(url, settings.clone())?.with_registered(register_prefixes, &settings)
    }

    fn open_folder(url: &Url) -> Result<Self, StorageError> {
        let folder = url.to_file_path().map_err(|()| refused(url, "it is not the path of a folder"))?;
        std::fs::create_dir_all(&folder).map_err(|error| StorageError::folder(&folder, error))?;
        let folder = folder.canonicalize().map_err(|error| StorageError::folder(&folder, error))?;
        // Synced to disk: a checkpoint that was answered with 201 must survive a power cut.
        let objects = LocalFileSystem::new_with_prefix(&folder).map_err(StorageError::from)?.with_fsync(true);
        let parts = PartStore::Folder(FolderParts::new(folder.clone()));
        Ok(Self {
            objects: Arc::new(objects),
            folder: Some(folder),
            parts,
            busy_parts: BusyParts::default(),
            direct: None,
            registered: Vec::new(),
        })
    }
}

fn s3(url: &Url, options: impl IntoIterator<Item = (String, String)>) -> Result<PrefixStore<AmazonS3>, StorageError> {
    let refuse = |error: &dyn std::fmt::Display| refused(url, &error.to_string());
    let (scheme, prefix) = ObjectStoreScheme::parse(url).map_err(|error| refuse(&error))?;
    if scheme != ObjectStoreScheme::AmazonS3 {
        return Err(refused(url, "this build knows `file:`, `memory:` and `s3:`"));
    }
    let builder = AmazonS3Builder::new().with_url(url.as_str());
    let known = options.into_iter().filter_map(|(name, value)| Some((name.parse().ok()?, value)));
    let s3 = known.fold(builder, |builder, (key, value)| builder.with_config(key, value)).build();
    let prefix = Path::parse(prefix).map_err(|error| refuse(&error))?;
    Ok(PrefixStore::new(s3.map_err(|error| refuse(&error))?, prefix))
}

fn refused(url: &Url, reason: &str) -> StorageError {
    let mut shown = url.clone();
    // A URL without a host refuses to lose its password, and then has none.
    let _ = shown.set_password(None);
    StorageError::Open { url: shown.to_string(), reason: reason.to_owned() }
}
