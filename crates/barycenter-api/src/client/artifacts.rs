//! Artifacts.

use std::path::Path;

use reqwest::Method;
use uuid::Uuid;

use super::{
    ByteCounter, Client, Expected, Result,
    exchange::{Repeat, decode},
};
use crate::{Artifact, DroppedArtifact, KeptTensors, Lineage, ListArtifacts, Manifest, Page};

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

    /// One page of artifacts, newest first.
    pub async fn list_artifacts_page(&self, query: &ListArtifacts) -> Result<Page<Artifact>> {
        self.fetch(&self.url(&["artifacts"]), query).await
    }

    /// Drops an artifact's bytes, which a merge of its candidates makes again.
    pub async fn drop_artifact(&self, artifact_id: Uuid) -> Result<DroppedArtifact> {
        let url = self.url(&["artifacts", &artifact_id.to_string(), "drop"]);
        decode(&url, self.send(&url, Repeat::Harmless, || self.request(Method::POST, &url)).await?).await
    }

    /// Downloads what was kept of a dropped artifact and verifies its digest, see [`Client::download`].
    pub async fn download_kept_tensors(&self, artifact_id: Uuid, kept: &KeptTensors, to: &Path) -> Result<()> {
        let path = format!("/v1/artifacts/{artifact_id}/kept");
        let expected = Expected { size_bytes: kept.size_bytes, digest_blake3: &kept.digest_blake3 };
        self.download(&path, to, expected, &ByteCounter::none()).await
    }

    /// Gives a dropped artifact its bytes again; the server takes those of its digest and no others.
    pub async fn restore_artifact(&self, artifact_id: Uuid, file: &Path, sent: &ByteCounter) -> Result<Artifact> {
        let url = self.url(&["artifacts", &artifact_id.to_string(), "content"]);
        self.put_file(&url, &(), file, sent, Repeat::Harmless).await
    }

    /// Downloads an artifact's safetensors file and verifies its digest, see [`Client::download`].
    pub async fn download_artifact(&self, artifact: &Artifact, to: &Path, received: &ByteCounter) -> Result<()> {
        let path = format!("/v1/artifacts/{}/content", artifact.artifact_id);
        let expected = Expected { size_bytes: artifact.size_bytes, digest_blake3: &artifact.digest_blake3 };
        self.download(&path, to, expected, received).await
    }
}
