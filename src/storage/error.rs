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
    /// The store failed or cannot be reached.
    #[error("the object store failed")]
    Backend(#[source] object_store::Error),
}

impl StorageError {
    /// A [`StorageError::Folder`].
    pub(super) fn folder(path: &Path, source: std::io::Error) -> Self {
        Self::Folder { path: path.to_owned(), source }
    }
}

impl From<object_store::Error> for StorageError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { path, .. } => Self::Missing { key: path },
            other => Self::Backend(other),
        }
    }
}
