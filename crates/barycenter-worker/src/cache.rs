//! Files on local disk, named by digest, bounded by bytes.

use std::{
    collections::HashSet,
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use barycenter_api::{
    LeasedProjection, SharedProjection,
    client::{ByteCounter, Client, ClientError, Expected},
};
use tracing::info;

/// A folder of fetched files, projections and scratch space.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    files: PathBuf,
    projections: PathBuf,
    scratch: PathBuf,
    limits: Limits,
}

/// How much the cache keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes above which the least recently used files go.
    pub bytes: u64,
    /// How long a file stays that nobody uses.
    pub unused_for: Duration,
}

impl Cache {
    /// Opens the cache, making its folders.
    pub fn open(root: &Path, limits: Limits) -> anyhow::Result<Self> {
        let folder = |name: &str| -> anyhow::Result<PathBuf> {
            let path = root.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot make the cache folder {}", path.display()))?;
            Ok(path)
        };
        Ok(Self { files: folder("files")?, projections: folder("projections")?, scratch: folder("scratch")?, limits })
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

    /// The projection of this key from the server, as [`Cache::fetch`] fetches files.
    pub async fn fetch_projection(
        &self,
        client: &Client,
        key: &str,
        shared: &SharedProjection,
    ) -> Result<PathBuf, ClientError> {
        let path = self.projection(key).ok_or_else(|| ClientError::Setup(format!("`{key}` can name no file")))?;
        let expected = Expected { size_bytes: shared.size_bytes, digest_blake3: &shared.digest_blake3 };
        client.download(&shared.url_path, &path, expected, &ByteCounter::none()).await?;
        Ok(path)
    }

    /// Where the projection of this key is, or will be; none where the key can name no file.
    pub fn projection(&self, key: &str) -> Option<PathBuf> {
        let path = is_name(key).then(|| self.projections.join(key))?;
        touch(&path);
        Some(path)
    }

    /// Where a job's projection is, and those that it extends, or would be.
    pub fn projections_of(&self, leased: &LeasedProjection) -> impl Iterator<Item = PathBuf> {
        let links = leased.links.iter().map(|link| &link.projection_key);
        let fresh = leased.fresh.iter().map(|fresh| &fresh.projection_key);
        links.chain(fresh).chain([&leased.projection_key]).map(|key| self.projections.join(key))
    }

    /// Keys of the projections that are here.
    pub fn held_projections(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.projections) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut held: Vec<String> = names.filter(|name| is_name(name)).collect();
        held.sort();
        held
    }

    /// Folder for files that one attempt makes; on the same disk as the cache.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Deletes files that nobody used for long, then the least recently used ones until the cache is within its bound; `in_use` stay.
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
        let oldest = SystemTime::now().checked_sub(self.limits.unused_for);
        for (used, bytes, path) in entries {
            if total <= self.limits.bytes && oldest.is_none_or(|oldest| used >= oldest) {
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
    use super::*;

    const LONG: Duration = Duration::from_hours(24);

    fn open(folder: &Path, unused_for: Duration) -> Cache {
        Cache::open(folder, Limits { bytes: 250, unused_for }).unwrap()
    }

    /// Writes files of 100 bytes that were used so many seconds ago.
    fn write(cache: &Cache, files: &[(&str, u64)]) {
        let now = SystemTime::now();
        for (name, age) in files {
            let path = cache.files.join(name);
            fs::write(&path, [0; 100]).unwrap();
            let file = File::options().append(true).open(&path).unwrap();
            file.set_modified(now - Duration::from_secs(*age)).unwrap();
        }
    }

    #[test]
    fn the_projections_that_are_here_are_told_by_their_keys() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), LONG);
        for name in ["def456", "abc123", "abc123.part", "abc123.partial-7"] {
            fs::write(cache.projections.join(name), [0; 10]).unwrap();
        }
        assert_eq!(cache.held_projections(), ["abc123", "def456"]);
        assert!(cache.projection("../abc").is_none(), "a key is the name of a file and no path");
        fs::remove_file(cache.projection("abc123").unwrap()).unwrap();
        assert_eq!(cache.held_projections(), ["def456"]);
    }

    #[test]
    fn the_least_recently_used_file_goes_first_and_files_in_use_stay() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), LONG);
        write(&cache, &[("oldest", 30), ("older", 20), ("old", 10), ("new", 0)]);
        cache.evict(&HashSet::from([cache.files.join("oldest")])).unwrap();
        let left = |name: &str| cache.files.join(name).exists();
        assert_eq!(["oldest", "older", "old", "new"].map(left), [true, false, false, true]);
    }

    #[test]
    fn a_file_that_nobody_used_for_long_goes_although_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), Duration::from_mins(5));
        write(&cache, &[("unused", 600), ("used", 60)]);
        cache.evict(&HashSet::new()).unwrap();
        assert_eq!(["unused", "used"].map(|name| cache.files.join(name).exists()), [false, true]);
    }
}
