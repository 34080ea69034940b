//! Datasets: safetensors files with `inputs` and `labels` or `targets`, or with `tokens`.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// What stands beside a pushed dataset, given as query parameters of the PUT.
///
/// The normalisation is read from the file's metadata (`scale`, `mean`, `std`, comma-separated where they are lists);
/// a parameter given here takes its place. Tokens have none.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PushDataset {
    /// Factor applied to stored inputs before the mean is taken off: `1/255` or a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<String>,
    /// Comma-separated mean of each channel (or feature), or one number for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<String>,
    /// Comma-separated standard deviation of each channel (or feature), or one number for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<String>,
    /// BLAKE3 digest of the whole file; the upload is refused where the bytes differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest_blake3: Option<String>,
}

/// `x = (scale * stored - mean) / std`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// Factor.
    pub scale: f64,
    /// Mean of each channel, or one for all.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel, or one for all.
    pub std: Vec<f64>,
}

/// What the samples of a dataset are judged by, which decides what a job can make small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatasetKind {
    /// `labels`: a class for each of the `inputs`.
    Labels,
    /// `targets`: some numbers for each of the `inputs`.
    Targets,
    /// `tokens`: each is judged by the one that follows it.
    Tokens,
}

impl fmt::Display for DatasetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Labels => "labels",
            Self::Targets => "targets",
            Self::Tokens => "tokens",
        })
    }
}

/// A stored dataset.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Dataset {
    /// Identifier.
    pub dataset_id: Uuid,
    /// Unique name; job specs take it in place of the id.
    pub name: String,
    /// What its samples are judged by.
    pub kind: DatasetKind,
    /// Number of samples.
    pub sample_count: u64,
    /// Shape of one input: channels, height and width, or features, or the positions of a row of tokens.
    pub input_shape: Vec<u64>,
    /// Element type of the inputs, or of the tokens.
    pub input_dtype: String,
    /// Numbers that each sample is judged by, for `targets`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_count: Option<u64>,
    /// How stored inputs become what the network sees; changes nothing where they are tokens.
    pub normalisation: Normalisation,
    /// Size of the file.
    pub size_bytes: u64,
    /// BLAKE3 digest of the file; also its `ETag`.
    pub digest_blake3: String,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
}
