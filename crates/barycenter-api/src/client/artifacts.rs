//! Artifacts.

use std::path::Path;

use uuid::Uuid;

use super::{ByteCounter, Client, Expected, Result};
use crate::{Artifact, Lineage, Manifest};

impl Client {
    /// An artifact by id.
    pub async fn artifact(&self, artifact_id: Uuid) -> Result<Artifact> {
        self.fetch(&self.url(&["artifacts", &artifact_id.to_string()]), &()).await
    }

    /// Everything needed to make an artifact again.
    pub async fn manifest(&self, artifact_id: Uuid) -> Result<Manifest> {
        self.fetch(&self.url(&["artifacts", &artifact_id.to_string(), "manifest"]), &()).await
    }

    /// Where an artifact comes from.
    pub async fn lineage(&self, artifact_id: Uuid) -> Result<Lineage> {
        self.fetch(&self.url(&["artifacts", &artifact_id.to_string(), "lineage"]), &()).await
    }

    /// Downloads an artifact's safetensors file and verifies its digest, see [`Client::download`].
    pub async fn download_artifact(&self, artifact: &Artifact, to: &Path, received: &ByteCounter) -> Result<()> {
        let path = format!("/v1/artifacts/{}/content", artifact.artifact_id);
        let expected = Expected { size_bytes: artifact.size_bytes, digest_blake3: &artifact.digest_blake3 };
        self.download(&path, to, expected, received).await
    }
}
