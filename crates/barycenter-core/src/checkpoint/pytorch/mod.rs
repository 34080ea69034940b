//! State dicts in the zip files that `torch.save` writes, read without running anything.
//!
//! Such a file holds a pickle, which is a program, and one entry for each storage, which is plain bytes. The pickle is followed by
//! a small machine of our own ([`machine`]): it knows the opcodes that `torch.save` emits in protocols 2 to 5, keeps a reference
//! to a class or function as the mere name that it is, and builds tensors from the handful of rebuild functions it knows by name. Everything
//! else becomes an opaque value, which is an error where a tensor is asked for. Values live in one flat arena and refer to each other by number, so
//! that copies cost nothing and no nesting is too deep to drop. Storages that are neither compressed nor strided are not copied.
//!
//! What is refused, by name: tensors of a kind that a checkpoint cannot hold, files from before `PyTorch` 1.6, `TorchScript`, whole
//! pickled modules, and anything that would grow beyond [`EXPANSION`] times its file.

mod archive;
mod machine;
mod rebuild;
mod state_dict;
mod tensors;
mod value;

use super::{CheckpointFile, source::Source};
use crate::{Error, Result};
use archive::Archive;
use machine::Machine;

/// Longest pickle; storages, which are the bulk of a file, do not count.
const LONGEST_PICKLE: u64 = 64 << 20;
/// Largest growth from a file to its tensors: by compression, by tensors that share a storage, by strides of 0.
const EXPANSION: u64 = 16;
/// What may be added in any case, so that small files have room.
const HEADROOM: u64 = 16 << 20;

/// Bytes that may yet be made out of a file.
struct Budget {
    left: u64,
}

impl Budget {
    fn of(file_bytes: usize) -> Self {
        Self { left: (file_bytes as u64).saturating_mul(EXPANSION).saturating_add(HEADROOM) }
    }

    fn spend(&mut self, bytes: u64) -> Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            Error::corrupt(format!("its tensors have more than {EXPANSION} times the bytes of the file"))
        })?;
        Ok(())
    }
}

impl CheckpointFile {
    /// Takes a `PyTorch` zip file that lies in memory; `key` as in [`super::OpenOptions`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] where it is not such a file or holds what cannot be taken, [`Error::Input`] where `key` leads nowhere or is
    /// needed.
    pub fn from_pytorch(bytes: Vec<u8>, key: Option<&str>) -> Result<Self> {
        read(Source::Held(bytes), key)
    }
}

/// Reads the state dict at `key`, or the only one.
pub(super) fn read(source: Source, key: Option<&str>) -> Result<CheckpointFile> {
    let (layout, held, places) = {
        let file = source.as_slice();
        check_form(file)?;
        let archive = Archive::parse(file)?;
        let prefix = archive.folder_of_pickle()?;
        check_kind(&archive, prefix)?;
        let mut budget = Budget::of(file.len());
        let pickle = archive.contents(&format!("{prefix}data.pkl"), LONGEST_PICKLE, &mut budget)?;
        let (root, nodes) = Machine::run(&pickle)?;
        let chosen = state_dict::find(&nodes, root, key)?;
        tensors::collect(&archive, prefix, file, &chosen, &mut budget)?
    };
    let sources = std::iter::once(source).chain(held.into_iter().map(Source::Held)).map(Into::into).collect();
    Ok(CheckpointFile::assemble(sources, layout, places))
}

fn check_form(file: &[u8]) -> Result<()> {
    // The first number that `torch.save` pickled before 1.6, 0x1950a86a20f9469cfc6c, as protocol 2 writes it.
    const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    if file.starts_with(LEGACY) {
        let what = "written in the form from before PyTorch 1.6; load it and save it again with a later one";
        return Err(Error::corrupt(what));
    }
    if file.first() == Some(&0x80) {
        return Err(Error::corrupt("a bare pickle, not a file that `torch.save` writes"));
    }
    Ok(())
}

fn check_kind(archive: &Archive<'_>, prefix: &str) -> Result<()> {
    if archive.has(&format!("{prefix}constants.pkl")) {
        return Err(Error::corrupt("a TorchScript archive; save the module's `state_dict()` instead"));
    }
    let name = format!("{prefix}byteorder");
    if archive.has(&name) && &*archive.contents(&name, 16, &mut Budget::of(0))? != b"little" {
        return Err(Error::corrupt("written on a big-endian machine"));
    }
    Ok(())
}
