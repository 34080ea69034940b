//! Files on local disk, named by digest, bounded by bytes.

use std::{
    collections::HashSet,
    fs::{self, File},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context as _;
use barycenter_api::client::{ByteCounter, Client, ClientError, Expected};
use tracing::{info, warn};

/// A folder of fetched files, projections and scratch space.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    files: PathBuf,
    projections: PathBuf,
    names: PathBuf,
    scratch: PathBuf,
    limit_bytes: u64,
}

impl Cache {
    /// Opens the cache, making its folders.
    pub fn open(root: &Path, limit_bytes: u64) -> anyhow::Result<Self> {
        let folder = |name: &str| -> anyhow::Result<PathBuf> {
            let path = root.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot make the cache folder {}", path.display()))?;
            Ok(path)
        };
        Ok(Self {
            files: folder("files")?,
            projections: folder("projections")?,
            names: folder("projection_names")?,
            scratch: folder("scratch")?,
            limit_bytes,
        })
    }

    /// The file of this digest, fetched from `url_path` unless it is here; a torn download goes on where it ended.
    pub async fn fetch(
        &self,
        client: &Client,
        url_path: &str,
        size_bytes: u64,
        digest_blake3: &str,
    ) -> Result<PathBuf, ClientError> {
        let path = self.files.join(digest_blake3);
        let is_here = fs::metadata(&path).is_ok_and(|metadata| metadata.len() == size_bytes);
        if !is_here {
            let expected = Expected { size_bytes, digest_blake3 };
            client.download(url_path, &path, expected, &ByteCounter::none()).await?;
        }
        touch(&path);
        Ok(path)
    }

    /// Where the projection of this key is, or will be.
    pub fn projection(&self, key: &str) -> PathBuf {
        let path = self.projections.join(key);
        touch(&path);
        path
    }

    /// Notes that the projection of this key is what the server calls `name`.
    pub fn name_projection(&self, name: &str, key: &str) {
        // A name that is not there costs the server's preference for this worker and no more.
        if is_name(name)
            && let Err(error) = fs::write(self.names.join(name), key)
        {
            warn!(%error, "a projection could not be noted by its name");
        }
    }

    /// The server's names of the projections that are here. Forgets those of projections that were evicted.
    pub fn held_projections(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.names) else { return Vec::new() };
        let mut held = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let is_here = fs::read_to_string(&path).is_ok_and(|key| self.projections.join(key).exists());
            match path.file_name().and_then(|name| name.to_str()) {
                Some(name) if is_here => held.push(name.to_owned()),
                _ => _ = fs::remove_file(&path),
            }
        }
        held.sort();
        held
    }

    /// Folder for files that one attempt makes; on the same disk as the cache.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Deletes the least recently used files until the cache is within its bound; `in_use` stay.
    pub fn evict(&self, in_use: &HashSet<PathBuf>) -> anyhow::Result<()> {
        let mut entries = Vec::new();
        for folder in [&self.files, &self.projections] {
            for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                entries.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        entries.sort();
        for (_, bytes, path) in entries {
            if total <= self.limit_bytes {
                break;
            }
            if !in_use.contains(&path) {
                fs::remove_file(&path).with_context(|| path.display().to_string())?;
                total -= bytes;
                info!(file = %path.display(), bytes, "evicted from the cache");
            }
        }
        Ok(())
    }
}

/// Whether a name from the server may be the name of a file.
fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Marks a file as used now; one that is not there, or cannot be marked, is merely evicted sooner.
fn touch(path: &Path) {
    if let Ok(file) = File::options().append(true).open(path) {
        let _ = file.set_modified(SystemTime::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_projection_is_told_by_its_name_until_it_is_evicted() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 250).unwrap();
        fs::write(cache.projections.join("key"), [0; 10]).unwrap();
        cache.name_projection("abc123", "key");
        cache.name_projection("def456", "another");
        cache.name_projection("../abc", "key");
        assert_eq!(cache.held_projections(), ["abc123"]);
        fs::remove_file(cache.projections.join("key")).unwrap();
        assert!(cache.held_projections().is_empty());
        assert_eq!(fs::read_dir(&cache.names).unwrap().count(), 0);
    }

    #[test]
    fn the_least_recently_used_file_goes_first_and_files_in_use_stay() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 250).unwrap();
        let now = SystemTime::now();
        for (name, age) in [("oldest", 30), ("older", 20), ("old", 10), ("new", 0)] {
            let path = cache.files.join(name);
            fs::write(&path, [0; 100]).unwrap();
            let file = File::options().append(true).open(&path).unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
        }
        cache.evict(&HashSet::from([cache.files.join("oldest")])).unwrap();
        let left = |name: &str| cache.files.join(name).exists();
        assert_eq!(["oldest", "older", "old", "new"].map(left), [true, false, false, true]);
    }
}
