//! Candidates on local disk: files in the cache, joined to a folder where a checkpoint has several.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use barycenter_api::{
    CheckpointFile, FileKind, LeasedCandidate,
    client::{Client, ClientError},
};
use tempfile::TempDir;

use crate::cache::Cache;

/// A fetched checkpoint.
#[derive(Debug)]
pub(crate) struct Model {
    /// What is opened: the file, or the index of several.
    path: PathBuf,
    /// Files of the cache that it rests on.
    cached: Vec<PathBuf>,
    /// Where the names of several files lead to the cache; gone with this.
    #[expect(dead_code, reason = "held so that the links stay")]
    folder: Option<TempDir>,
}

impl Model {
    /// Fetches the files with weights that are not in the cache.
    pub(crate) async fn fetch(
        client: &Client,
        cache: &Cache,
        candidate: &LeasedCandidate,
    ) -> Result<Self, ClientError> {
        let LeasedCandidate { checkpoint_id, size_bytes, digest_blake3, .. } = candidate;
        let files = client.list_checkpoint_files(*checkpoint_id, digest_blake3).await?;
        if let [only] = files.as_slice()
            && only.digest_blake3 == *digest_blake3
        {
            let url_path = Client::checkpoint_content_path(*checkpoint_id);
            let path = cache.fetch(client, &url_path, *size_bytes, digest_blake3).await?;
            return Ok(Self { cached: vec![path.clone()], path, folder: None });
        }
        let folder = TempDir::new_in(cache.scratch()).map_err(|e| ClientError::io(cache.scratch(), e))?;
        let mut cached = Vec::new();
        for file in files.iter().filter(|file| file.kind != FileKind::Other) {
            let url_path = Client::checkpoint_file_path(*checkpoint_id, &file.name);
            let path = cache.fetch(client, &url_path, file.size_bytes, &file.digest_blake3).await?;
            let (target, link) = (std::path::absolute(&path), folder.path().join(&file.name));
            target.and_then(|target| symlink(target, &link)).map_err(|e| ClientError::io(&link, e))?;
            cached.push(path);
        }
        let path = folder.path().join(&opened(&files)?.name);
        Ok(Self { path, cached, folder: Some(folder) })
    }

    /// What is opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Files of the cache that must stay.
    pub(crate) fn cached(&self) -> impl Iterator<Item = &PathBuf> {
        self.cached.iter()
    }
}

/// The index, else the only file with weights.
fn opened(files: &[CheckpointFile]) -> Result<&CheckpointFile, ClientError> {
    let of = |kind| files.iter().find(|file| file.kind == kind);
    let none = || ClientError::Setup("the checkpoint has no file with weights".to_owned());
    of(FileKind::Index).or_else(|| of(FileKind::Weights)).ok_or_else(none)
}
