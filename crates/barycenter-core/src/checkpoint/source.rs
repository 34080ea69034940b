//! Where the bytes of tensors lie, and two ways to them: where they lie, and by copies.

use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Bytes that tensors lie in.
#[derive(Debug)]
pub(super) enum Source {
    File { path: PathBuf, file: File, map: memmap2::Mmap },
    Held(Vec<u8>),
}

impl Source {
    /// Opens and maps a file, which must not be changed while it is open.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let metadata = file.metadata().map_err(|e| Error::io(path, e))?;
        if !metadata.is_file() {
            return Err(Error::input(format!("{}: not a regular file", path.display())));
        }
        if metadata.len() == 0 {
            return Err(Error::corrupt(format!("{}: the file is empty", path.display())));
        }
        #[expect(unsafe_code, reason = "a map is sound while nobody changes the file: callers open files they own")]
        // SAFETY: the file is opened for reading only, and the contract above leaves it unchanged while it is open.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Ok(Self::File { path: path.to_owned(), file, map })
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::File { map, .. } => map,
            Self::Held(bytes) => bytes,
        }
    }
}

/// The stored bytes of one tensor.
#[derive(Clone, Debug)]
pub(crate) struct Stored<'a> {
    source: &'a Source,
    range: Range<usize>,
}

impl<'a> Stored<'a> {
    /// `range` lies in the source.
    pub(super) fn new(source: &'a Source, range: Range<usize>) -> Self {
        Self { source, range }
    }

    /// Where they lie.
    pub fn bytes(&self) -> &'a [u8] {
        &self.source.as_slice()[self.range.clone()]
    }

    /// Copies a part, from `start` on.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read or was cut meanwhile.
    ///
    /// # Panics
    /// Where the part reaches beyond the tensor.
    pub fn read(&self, start: usize, into: &mut [u8]) -> Result<()> {
        assert!(start + into.len() <= self.range.len(), "callers stay inside the tensor");
        let start = self.range.start + start;
        match self.source {
            Source::File { path, file, .. } => {
                file.read_exact_at(into, start as u64).map_err(|e| Error::io(path, e))?;
            }
            Source::Held(bytes) => into.copy_from_slice(&bytes[start..][..into.len()]),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_what_lies_there_and_a_file_that_was_cut_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        let bytes: Vec<u8> = (0..200).collect();
        std::fs::write(&path, &bytes).unwrap();
        for source in [Source::open(&path).unwrap(), Source::Held(bytes.clone())] {
            let stored = Stored::new(&source, 20..120);
            let mut copy = [0; 30];
            stored.read(5, &mut copy).unwrap();
            assert_eq!((stored.bytes(), &copy[..]), (&bytes[20..120], &bytes[25..55]));
        }
        let source = Source::open(&path).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(50).unwrap();
        let error = Stored::new(&source, 20..120).read(5, &mut [0; 30]).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}
