//! Uploads in parts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    checkpoint::Reported,
    ids::{RunId, UploadId},
};

/// Bytes at each end of a part that are kept beside it: an element that the end cuts has fewer on either side.
pub const EDGE_BYTES: usize = 7;

/// An upload in parts.
#[derive(Clone, Debug)]
pub struct MultipartUpload {
    /// Identifier.
    pub upload_id: UploadId,
    /// What the file is to become.
    pub target: UploadTarget,
    /// Size of the file.
    pub size_bytes: u64,
    /// Size of every part but the last.
    pub part_size_bytes: u64,
    /// Digest of the file, where it was announced.
    pub digest_blake3: Option<String>,
    /// Digest of the file's header, where the header has arrived in one part.
    pub header_blake3: Option<String>,
    /// Whether clients may have sent parts to the store by themselves.
    pub direct: bool,
    /// Where its bytes go; absent once they are a blob.
    pub place: Option<UploadPlace>,
    /// Parts that are there.
    pub received_parts: u64,
    /// Bytes that are there.
    pub received_bytes: u64,
    /// When it was begun.
    pub created_at: DateTime<Utc>,
    /// When its parts began to be put together.
    pub sealed_at: Option<DateTime<Utc>>,
    /// The checkpoint or dataset that it became; of a file, the run in which its digest finds it.
    pub outcome_id: Option<Uuid>,
}

/// Where the bytes of an upload go.
#[derive(Clone, Debug)]
pub struct UploadPlace {
    /// Key of the object that the parts become.
    pub object_key: String,
    /// The store's own name for the upload.
    pub store_upload_id: String,
    /// The last sign of life.
    pub renewed_at: DateTime<Utc>,
}

/// What an uploaded file is to become.
#[derive(Clone, Debug, PartialEq)]
pub enum UploadTarget {
    /// A checkpoint.
    Checkpoint {
        /// The run.
        run_id: RunId,
        /// Training step.
        step: i64,
        /// What training reports.
        reported: Reported,
    },
    /// A file for a checkpoint that is made once all its files are there.
    File {
        /// The run.
        run_id: RunId,
    },
    /// A dataset.
    Dataset {
        /// Unique name.
        name: String,
        /// What is told of its inputs.
        told: ToldNormalisation,
    },
}

impl UploadTarget {
    /// The word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Checkpoint { .. } => "checkpoint",
            Self::File { .. } => "file",
            Self::Dataset { .. } => "dataset",
        }
    }
}

/// A normalisation as it is told beside a dataset's file, before what the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldNormalisation {
    /// Factor.
    pub scale: Option<String>,
    /// Means.
    pub mean: Option<String>,
    /// Standard deviations.
    pub std: Option<String>,
}

/// A part that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPart {
    /// Number, from 1.
    pub number: u64,
    /// Size.
    pub size_bytes: u64,
    /// Chaining value of its subtree in the BLAKE3 tree of the file; the digest itself where the file has one part. `None`
    /// where the part has reached the store past the server.
    pub chaining_value: Option<[u8; 32]>,
    /// What the store calls it.
    pub store_part_id: String,
    /// Digest of the header by which its numbers were looked at; `None` where they were not.
    pub scanned_header_blake3: Option<String>,
    /// Its first bytes, up to [`EDGE_BYTES`].
    pub head: Vec<u8>,
    /// Its last bytes, up to [`EDGE_BYTES`].
    pub tail: Vec<u8>,
    /// When it was stored.
    pub stored_at: DateTime<Utc>,
}

/// Numbers of the parts that are missing, in words: `2, 5 to 9`; `None` where all of `1..=count` are there.
pub fn missing_parts(present: impl IntoIterator<Item = u64>, count: u64) -> Option<String> {
    let present: std::collections::BTreeSet<u64> = present.into_iter().collect();
    let mut gaps = Vec::new();
    let mut expected = 1;
    for number in present.into_iter().chain([count + 1]) {
        match number - expected {
            0 => {}
            1 => gaps.push(expected.to_string()),
            _ => gaps.push(format!("{expected} to {}", number - 1)),
        }
        expected = number + 1;
    }
    let more = gaps.len().saturating_sub(MAX_GAPS_TOLD);
    gaps.truncate(MAX_GAPS_TOLD);
    let told = gaps.join(", ");
    match (gaps.len(), more) {
        (0, _) => None,
        (_, 0) => Some(told),
        _ => Some(format!("{told} and more")),
    }
}

const MAX_GAPS_TOLD: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_parts_are_told_as_ranges() {
        let missing = |present: &[u64], count| missing_parts(present.iter().copied(), count);
        assert_eq!(missing(&[1, 2, 3], 3), None);
        assert_eq!(missing(&[], 1).unwrap(), "1");
        assert_eq!(missing(&[3], 7).unwrap(), "1 to 2, 4 to 7");
        assert_eq!(missing(&[1, 3, 4, 8], 9).unwrap(), "2, 5 to 7, 9");
        let even: Vec<u64> = (1..50).map(|n| 2 * n).collect();
        assert!(missing(&even, 100).unwrap().ends_with("17, 19 and more"));
    }
}
