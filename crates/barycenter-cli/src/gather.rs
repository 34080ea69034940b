//! Several files that become a folder.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use barycenter_api::{
    CheckpointFile,
    client::{ByteCounter, ClientError},
};

use crate::{checkpoint::digest, exit::usage};

/// `<out>.part`, beside the goal also where that was written with a `/` at its end.
pub fn part_of(out: &Path) -> anyhow::Result<PathBuf> {
    let mut name = out.file_name().ok_or_else(|| usage(format!("{} has no name", out.display())))?.to_owned();
    name.push(".part");
    Ok(out.with_file_name(name))
}

/// Gathers files in a folder; those that an interrupted download left are not fetched again.
pub async fn gather(
    files: &[CheckpointFile],
    folder: &Path,
    received: &ByteCounter,
    fetch: impl AsyncFn(&CheckpointFile, &Path, &ByteCounter) -> Result<(), ClientError>,
) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    refuse_strangers(files, folder)?;
    let mut done = 0;
    for file in files {
        let to = folder.join(&file.name);
        if !is_there(file, &to).await? {
            fetch(file, &to, &received.behind(done)).await?;
        }
        done += file.size_bytes;
    }
    Ok(())
}

/// Whether a file is there and is this one, not that of another download to the same place.
async fn is_there(file: &CheckpointFile, path: &Path) -> anyhow::Result<bool> {
    Ok(path.metadata().is_ok_and(|metadata| metadata.len() == file.size_bytes)
        && digest(path).await? == file.digest_blake3)
}

/// What lies in the folder would be taken for a part of the model.
fn refuse_strangers(files: &[CheckpointFile], folder: &Path) -> anyhow::Result<()> {
    let known: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry.with_context(|| folder.display().to_string())?;
        let name = entry.file_name();
        let is_known = name.to_str().is_some_and(|name| known.contains(name.strip_suffix(".part").unwrap_or(name)));
        if !is_known {
            let path = entry.path();
            return Err(usage(format!("{} is of another download; remove its folder", path.display())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use barycenter_api::FileKind;

    use super::*;

    fn file(name: &str, bytes: &[u8]) -> CheckpointFile {
        let digest_blake3 = blake3::hash(bytes).to_hex().to_string();
        CheckpointFile { name: name.into(), kind: FileKind::Other, digest_blake3, size_bytes: bytes.len() as u64 }
    }

    #[tokio::test]
    async fn what_is_there_is_not_fetched_again_and_what_another_download_left_is() {
        let folder = tempfile::tempdir().unwrap();
        let files = [file("a.json", b"aa"), file("b.json", b"bb"), file("c.json", b"cc")];
        fs::write(folder.path().join("a.json"), b"aa").unwrap();
        fs::write(folder.path().join("b.json"), b"xx").unwrap();
        fs::write(folder.path().join("c.json.part"), b"c").unwrap();
        let fetched = RefCell::new(Vec::new());
        let fetch = async |file: &CheckpointFile, to: &Path, _: &ByteCounter| {
            fetched.borrow_mut().push(file.name.clone());
            fs::write(to, file.name[..1].repeat(2)).unwrap();
            Ok(())
        };
        gather(&files, folder.path(), &ByteCounter::none(), &fetch).await.unwrap();
        assert_eq!(*fetched.borrow(), ["b.json", "c.json"]);
        fs::write(folder.path().join("d.json"), b"d").unwrap();
        let refused = gather(&files, folder.path(), &ByteCounter::none(), &fetch).await.unwrap_err();
        assert!(refused.to_string().contains("d.json is of another download"), "{refused}");
    }
}
