//! What can go wrong in object storage.

use std::path::{Path, PathBuf};

/// What can go wrong in object storage.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The URL names no store that this build knows.
    #[error("`{url}` names no usable object store: {reason}")]
    Open {
        /// The URL, without any password.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The object does not exist.
    #[error("object `{key}` does not exist")]
    Missing {
        /// Key of the object.
        key: String,
    },
    /// The folder of a `file:` store cannot be used.
    #[error("{path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store has no room.
    #[error("the object store is full")]
    Full(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store failed or cannot be reached.
    #[error("the object store failed")]
    Backend(#[source] object_store::Error),
}

impl StorageError {
    /// A [`StorageError::Folder`], or that there is no room in it.
    pub(super) fn folder(path: &Path, source: std::io::Error) -> Self {
        if is_full(&source) {
            return Self::Full(source.into());
        }
        Self::Folder { path: path.to_owned(), source }
    }
}

impl From<object_store::Error> for StorageError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { path, .. } => Self::Missing { key: path },
            other if is_full(&other) => Self::Full(other.into()),
            other => Self::Backend(other),
        }
    }
}

/// Whether a disk without room, or a quota, is at the bottom of an error.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded))
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_failures_however_deep_it_lies() {
        let wrapped = |kind: ErrorKind| {
            let inner = object_store::Error::Generic { store: "file", source: Error::from(kind).into() };
            StorageError::from(object_store::Error::Generic { store: "upload", source: Error::other(inner).into() })
        };
        assert!(matches!(wrapped(ErrorKind::StorageFull), StorageError::Full(_)));
        assert!(matches!(wrapped(ErrorKind::PermissionDenied), StorageError::Backend(_)));
        assert!(matches!(StorageError::folder(Path::new("/"), ErrorKind::QuotaExceeded.into()), StorageError::Full(_)));
    }
}
