//! Objects that lie where somebody else keeps them: read in place, never written, never deleted.

use std::sync::Arc;

use object_store::{DynObjectStore, ObjectStoreExt, path::Path};
use url::Url;

use super::{ObjectKey, StorageError, Store};

/// Where objects may be registered.
#[derive(Clone, Debug)]
pub(super) struct Prefix {
    /// URL of the folder, which ends with a slash.
    url: Url,
    objects: Arc<DynObjectStore>,
}

/// An object that was found where it may be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundObject {
    /// Its key: its URL.
    pub key: ObjectKey,
    /// Its size.
    pub size_bytes: u64,
}

impl Store {
    /// The same store, where also objects below these URLs are read; `options` are as for [`Store::open`].
    pub fn with_registered(mut self, prefixes: &[Url], options: &[(String, String)]) -> Result<Self, StorageError> {
        for prefix in prefixes {
            let mut url = prefix.clone();
            if !url.path().ends_with('/') {
                url.set_path(&format!("{}/", url.path()));
            }
            let objects = Self::open_existing(&url, options.iter().cloned())?;
            self.registered.push(Prefix { url, objects });
        }
        Ok(self)
    }

    /// The object of a URL; `None` where it does not lie below a prefix that was allowed, [`StorageError::Missing`] where it does not
    /// exist.
    pub async fn find_registered(&self, url: &str) -> Result<Option<FoundObject>, StorageError> {
        // Parsing takes `..` and `.` out of the path, so that what is below a prefix is below it.
        let Some(key) = Url::parse(url).ok().map(|url| ObjectKey::from_stored(url.as_str())) else {
            return Ok(None);
        };
        let Some((objects, path)) = self.registered_place(&key) else {
            return Ok(None);
        };
        let size_bytes = objects.head(&path).await?.size;
        Ok(Some(FoundObject { key, size_bytes }))
    }

    /// Where a key leads, if it is the URL of an object below an allowed prefix.
    pub(super) fn registered_place(&self, key: &ObjectKey) -> Option<(&Arc<DynObjectStore>, Path)> {
        self.registered.iter().find_map(|prefix| {
            let rest = key.as_str().strip_prefix(prefix.url.as_str())?;
            let path = Path::from_url_path(rest).ok().filter(|path| !path.as_ref().is_empty())?;
            Some((&prefix.objects, path))
        })
    }
}

impl ObjectKey {
    /// Whether the object lies where somebody else keeps it: keys of our own are never URLs.
    pub fn is_registered(&self) -> bool {
        self.as_str().contains("://")
    }
}
