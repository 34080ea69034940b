//! Checkpoints of several files: shards with their index, and what lies beside them.

use std::{collections::BTreeMap, fmt::Write};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Makes files that were uploaded before a checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCheckpoint {
    /// Training step, 0 or more.
    pub step: i64,
    /// Every file: one or more safetensors files, the index `*.safetensors.index.json` where they are several, and files such
    /// as `config.json` and `tokenizer.json` that go with them.
    pub files: Vec<NamedFile>,
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

/// A file by the name that it has in its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedFile {
    /// Name, without a folder: ASCII letters, digits, `.`, `_`, `-`, `+`, a letter, a digit or `_` first.
    pub name: String,
    /// BLAKE3 digest.
    pub digest_blake3: String,
    /// Size.
    pub size_bytes: u64,
}

/// What a file is to its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A safetensors file.
    Weights,
    /// Says which safetensors file holds which tensor.
    Index,
    /// Anything else that goes with the weights.
    Other,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointFile {
    /// Name in the checkpoint; `model.safetensors` where the checkpoint is one file.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// BLAKE3 digest; also its `ETag`.
    pub digest_blake3: String,
    /// Size.
    pub size_bytes: u64,
}

/// How a file is looked at when it comes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StagedKind {
    /// A safetensors file: its header, its shapes and its numbers are checked.
    #[default]
    Weights,
    /// Anything else, an index too; kept as it is.
    Other,
}

/// What stands beside an uploaded file.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PutFile {
    /// How the file is looked at; as a safetensors file unless told.
    #[serde(default)]
    #[param(inline)]
    pub kind: StagedKind,
}

/// A file that is there for checkpoints of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StagedFile {
    /// The run.
    pub run_id: Uuid,
    /// BLAKE3 digest, by which it is named.
    pub digest_blake3: String,
    /// Size.
    pub size_bytes: u64,
    /// Whether it was looked at as a safetensors file.
    pub is_weights: bool,
    /// When it is removed unless a checkpoint needs it by then; it does not lapse where one does.
    pub lapses_at: Option<DateTime<Utc>>,
}

/// Makes a safetensors file that lies below an allowed prefix a file for checkpoints of a run, in place.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterFile {
    /// Where the file lies: `s3://bucket/key` or `file:///path`, below a prefix that the server allows.
    pub url: String,
    /// BLAKE3 digest of the file; the file is read to verify it.
    pub digest_blake3: String,
}

/// The text whose BLAKE3 digest is that of a checkpoint of several files: a line `barycenter checkpoint 1`, then for each file, in
/// the byte order of names, a line of its digest, its size and its name.
pub fn file_list<'a>(files: impl IntoIterator<Item = &'a NamedFile>) -> String {
    let mut sorted: Vec<&NamedFile> = files.into_iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut text = String::from("barycenter checkpoint 1\n");
    for NamedFile { name, digest_blake3, size_bytes } in sorted {
        writeln!(text, "{digest_blake3} {size_bytes} {name}").expect("writing to a string cannot fail");
    }
    text
}

impl From<CheckpointFile> for NamedFile {
    fn from(file: CheckpointFile) -> Self {
        Self { name: file.name, digest_blake3: file.digest_blake3, size_bytes: file.size_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_does_not_depend_on_the_order_of_its_files() {
        let file = |name: &str, size_bytes| NamedFile { name: name.into(), digest_blake3: "ab".repeat(32), size_bytes };
        let (a, b) = (file("config.json", 7), file("model.safetensors", 1 << 40));
        let digest = "ab".repeat(32);
        let text =
            format!("barycenter checkpoint 1\n{digest} 7 config.json\n{digest} 1099511627776 model.safetensors\n");
        assert_eq!(file_list([&a, &b]), text);
        assert_eq!(file_list([&b, &a]), text);
    }
}
