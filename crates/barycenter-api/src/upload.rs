//! Uploads in parts, which outlive connections, clients and servers.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Begins an upload in parts, or finds the one that is open for the same bytes at the same place.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUpload {
    /// What the file is to become.
    pub target: UploadTarget,
    /// Size of the file.
    pub size_bytes: u64,
    /// BLAKE3 digest of the file; verified when the upload is completed.
    pub digest_blake3: String,
    /// Size of every part but the last: a power of two, so that a part is a subtree of BLAKE3. Chosen by the server unless
    /// told: 16 MiB, more where the file would have above 10 000 parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_size_bytes: Option<u64>,
}

/// What an uploaded file is to become.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum UploadTarget {
    /// A checkpoint.
    Checkpoint {
        /// The run, by name or id; answers have the id.
        run: String,
        /// Training step, 0 or more.
        step: i64,
        /// Epoch of the training run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<f64>,
        /// Reported metrics; finite.
        #[serde(default)]
        metrics: BTreeMap<String, f64>,
        /// Tags.
        #[serde(default)]
        tags: Vec<String>,
    },
    /// A safetensors file for a checkpoint of several files, which is made once all of them are there.
    File {
        /// The run, by name or id; answers have the id.
        run: String,
    },
    /// A dataset.
    Dataset {
        /// Unique name.
        name: String,
        /// Factor applied to stored inputs before the mean is taken off: `1/255` or a number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scale: Option<String>,
        /// Comma-separated mean of each channel (or feature), or one number for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mean: Option<String>,
        /// Comma-separated standard deviation of each channel (or feature), or one number for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        std: Option<String>,
    },
}

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadState {
    /// It takes parts.
    Open,
    /// Its parts are being put together; `complete` may be asked for again.
    Completing,
    /// Its file is visible.
    Completed,
}

/// An upload in parts.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Upload {
    /// Identifier.
    pub upload_id: Uuid,
    /// What the file is to become.
    pub target: UploadTarget,
    /// How far it is.
    pub state: UploadState,
    /// Size of the file.
    pub size_bytes: u64,
    /// Size of every part but the last.
    pub part_size_bytes: u64,
    /// Number of parts.
    pub part_count: u64,
    /// BLAKE3 digest of the file, where it was announced.
    pub digest_blake3: Option<String>,
    /// Parts that are there.
    pub received_parts: u64,
    /// Bytes that are there.
    pub received_bytes: u64,
    /// The checkpoint that it has become.
    pub checkpoint_id: Option<Uuid>,
    /// The dataset that it has become.
    pub dataset_id: Option<Uuid>,
    /// When it was begun.
    pub created_at: DateTime<Utc>,
    /// When it is removed unless a part arrives before; absent once it is completed.
    pub lapses_at: Option<DateTime<Utc>>,
}

/// A part that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadPart {
    /// Number, from 1.
    pub number: u64,
    /// Size.
    pub size_bytes: u64,
    /// Chaining value of the part's subtree in the BLAKE3 tree of the file; the digest itself where the file has one part.
    /// Absent where the part was sent to the store directly: it is computed when the upload is completed.
    pub chaining_value_blake3: Option<String>,
    /// When it was stored.
    pub stored_at: DateTime<Utc>,
}

/// Asks for URLs by which parts can be sent to the store directly.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignParts {
    /// The parts, 1 to 100 of them: those that are sent next.
    pub numbers: Vec<u64>,
}

/// URLs by which parts can be sent to the store directly.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PartUrls {
    /// One URL a part, in the order that was asked for.
    pub urls: Vec<PartUrl>,
}

/// A URL by which one part can be sent to the store directly.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PartUrl {
    /// Number of the part.
    pub number: u64,
    /// Its exact size; a part of another size does not count.
    pub size_bytes: u64,
    /// Where to PUT it, without the API token.
    pub url: String,
    /// When the URL is of no more use; another can be asked for at any time.
    pub expires_at: DateTime<Utc>,
}

/// What may be told beside a part.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PutPart {
    /// Chaining value of the part; the part is refused where its bytes have another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chaining_value_blake3: Option<String>,
}

/// Which uploads are listed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListUploads {
    /// Only those for checkpoints of this run, by name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Items a page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_size: Option<u32>,
    /// The `next_page_token` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_token: Option<String>,
}

/// Makes a safetensors file that lies below an allowed prefix a checkpoint, in place.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterCheckpoint {
    /// Training step, 0 or more.
    pub step: i64,
    /// Where the file lies: `s3://bucket/key` or `file:///path`, below a prefix that the server allows.
    pub url: String,
    /// BLAKE3 digest of the file; the file is read to verify it.
    pub digest_blake3: String,
    /// Epoch of the training run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<f64>,
    /// Reported metrics; finite.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// Tags.
    #[serde(default)]
    pub tags: Vec<String>,
}
