//! Every object key is made here.

use std::fmt;

use object_store::path::Path;

use crate::domain::ids::UploadId;

/// A key that never exists; asking for it shows whether the store answers.
pub(super) const PING: &str = "ping";

/// Where an object lies in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectKey(String);

/// Where the bytes of an upload are stored, and stay when they become a blob.
///
/// The digest is known only when all bytes are there, and not every store can rename: so the key is made from the
/// upload's id, and the table `blobs` finds it by digest. Two levels keep the folders of a `file:` store small; the
/// last digits of a `UUIDv7` are random, the first are not.
pub fn upload_object(upload_id: UploadId) -> ObjectKey {
    let id = upload_id.0.simple().to_string();
    ObjectKey(format!("blobs/{}/{id}", &id[30..]))
}

impl ObjectKey {
    /// A key read back from the database.
    pub fn from_stored(key: &str) -> Self {
        Self(key.to_owned())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn path(&self) -> Path {
        Path::from(self.0.as_str())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
