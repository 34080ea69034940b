//! Parts in a folder: each is written at its place in one file beside the object, which a rename makes the object at the
//! end. So no byte is copied, and a part in flight holds two pieces of half a mebibyte in memory.
//!
//! A part is locked while it is written, by a lock that its process's death undoes: two requests, be it of two servers on
//! one folder, never write the same bytes at a time. Written bytes are synced before the part counts as stored.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tokio::task::spawn_blocking;

use super::{
    ObjectKey, StorageError,
    parts::{PartError, PartPlace, check_length},
};

/// The file's name follows the pattern of unfinished writes, so that whoever removes those removes it too.
const SUFFIX: &str = "#0";
/// What is gathered before it is written.
const WRITE_BYTES: usize = 512 << 10;

/// Parts in a folder.
#[derive(Clone, Debug)]
pub(super) struct FolderParts {
    folder: PathBuf,
}

impl FolderParts {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn unfinished(&self, key: &ObjectKey) -> PathBuf {
        self.folder.join(format!("{key}{SUFFIX}"))
    }

    /// Makes the file that parts are written into; as long as the object, without taking room.
    pub(super) async fn create(&self, key: &ObjectKey, size_bytes: u64) -> Result<String, StorageError> {
        let path = self.unfinished(key);
        blocking(&self.folder, path.clone(), move || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
            file.set_len(size_bytes)
        })
        .await?;
        Ok(SUFFIX.to_owned())
    }

    /// Opens the file and locks the part; `None` where it is locked.
    pub(super) async fn claim(&self, place: PartPlace<'_>) -> Result<Option<File>, StorageError> {
        let path = self.unfinished(place.key);
        let (offset, length) = (place.offset, place.length);
        // Never made here: a part that is late for a removed upload must not bring its file back.
        blocking(&self.folder, path.clone(), move || {
            let file = OpenOptions::new().write(true).open(&path)?;
            Ok(lock(&file, offset, length)?.then_some(file))
        })
        .await
    }

    /// Makes the file the object.
    pub(super) async fn finish(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let (from, to) = (self.unfinished(key), self.folder.join(key.as_str()));
        blocking(&self.folder, from.clone(), move || {
            File::open(&from)?.sync_all()?;
            std::fs::rename(&from, &to)?;
            // The new name must survive a power cut too.
            to.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        })
        .await
    }
}

/// Writes a part of a file that is locked for it.
pub(super) async fn write<E>(
    file: &File,
    place: PartPlace<'_>,
    mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> Result<String, PartError<E>> {
    let failed = |error| PartError::Store(StorageError::folder(Path::new(place.key.as_str()), error));
    let file = Arc::new(file.try_clone().map_err(failed)?);
    let mut piece = BytesMut::with_capacity(WRITE_BYTES);
    let mut received = 0;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(PartError::Source)?;
        check_length(place, received + chunk.len() as u64, false)?;
        received += chunk.len() as u64;
        piece.extend_from_slice(&chunk);
        if piece.len() >= WRITE_BYTES {
            let at = place.offset + received - piece.len() as u64;
            write_at(&file, piece.split().freeze(), at).await.map_err(failed)?;
        }
    }
    check_length(place, received, true)?;
    let at = place.offset + received - piece.len() as u64;
    write_at(&file, piece.freeze(), at).await.map_err(failed)?;
    spawn_blocking(move || file.sync_data()).await.map_err(io::Error::other).flatten().map_err(failed)?;
    Ok(place.number.to_string())
}

async fn write_at(file: &Arc<File>, bytes: Bytes, at: u64) -> io::Result<()> {
    let file = Arc::clone(file);
    spawn_blocking(move || file.write_all_at(&bytes, at)).await.map_err(io::Error::other).flatten()
}

/// Locks a range of a file for this opening of it; false where another opening has it.
#[cfg(target_os = "linux")]
fn lock(file: &File, offset: u64, length: u64) -> io::Result<bool> {
    use nix::{
        errno::Errno,
        fcntl::{FcntlArg, fcntl},
        libc,
    };
    let range = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: offset.try_into().map_err(io::Error::other)?,
        l_len: length.try_into().map_err(io::Error::other)?,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Other systems lock within one process alone, see [`super::parts`].
#[cfg(not(target_os = "linux"))]
fn lock(_file: &File, _offset: u64, _length: u64) -> io::Result<bool> {
    Ok(true)
}

/// Runs file operations where they may block; a file that is not there is a missing object.
async fn blocking<T: Send + 'static>(
    folder: &Path,
    path: PathBuf,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StorageError> {
    let done = spawn_blocking(work).await.map_err(io::Error::other).flatten();
    done.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            StorageError::Missing { key: path.strip_prefix(folder).unwrap_or(&path).display().to_string() }
        }
        _ => StorageError::folder(&path, error),
    })
}
