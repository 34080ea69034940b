//! Artifacts as folders.

use std::path::Path;

use uuid::Uuid;

use super::{ByteCounter, Client, Expected, Result};
use crate::CheckpointFile;

impl Client {
    /// The files of an artifact: the model as `model.safetensors`, and what goes with it.
    pub async fn list_artifact_files(&self, artifact_id: Uuid) -> Result<Vec<CheckpointFile>> {
        self.fetch(&self.url(&["artifacts", &artifact_id.to_string(), "files"]), &()).await
    }

    /// Downloads a file of an artifact and verifies its digest, see [`Client::download`].
    pub async fn download_artifact_file(
        &self,
        artifact_id: Uuid,
        file: &CheckpointFile,
        to: &Path,
        received: &ByteCounter,
    ) -> Result<()> {
        let expected = Expected { size_bytes: file.size_bytes, digest_blake3: &file.digest_blake3 };
        self.download(&format!("/v1/artifacts/{artifact_id}/files/{}", file.name), to, expected, received).await
    }
}
