//! Stored bytes.

/// Bytes in object storage, named by their digest; equal files are one blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// BLAKE3 digest, lower-case hexadecimal.
    pub digest_blake3: String,
    /// Size.
    pub size_bytes: u64,
    /// Where the bytes lie in the store.
    pub object_key: String,
}
