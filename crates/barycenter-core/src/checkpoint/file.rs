//! Checkpoint files opened for reading.

use std::{collections::HashMap, fs::File, ops::Range, path::Path};

use super::{
    DEFAULT_HEADER_LIMIT, Layout, TensorLayout,
    layout::shown,
    numbers::{decode_f32, decode_f64},
};
use crate::{Error, Result};

/// A checkpoint whose header has been checked; tensors are read where they lie.
#[derive(Debug)]
pub struct CheckpointFile {
    bytes: Bytes,
    layout: Layout,
    index: HashMap<String, usize>,
}

#[derive(Debug)]
enum Bytes {
    Mapped(memmap2::Mmap),
    Held(Vec<u8>),
}

impl CheckpointFile {
    /// Maps a file into memory and checks its header and size.
    ///
    /// The file must not be changed while it is open.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be opened, [`Error::Corrupt`] as [`Layout::of_file`], naming the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        if file.metadata().map_err(|e| Error::io(path, e))?.len() == 0 {
            return Err(Error::corrupt(format!("{}: the file is empty", path.display())));
        }
        #[expect(unsafe_code, reason = "a map is sound while nobody changes the file: callers open files they own")]
        // SAFETY: the file is opened for reading only, and the contract above leaves it unchanged while it is open.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Self::check(Bytes::Mapped(map)).map_err(|e| match e {
            Error::Corrupt(what) => Error::corrupt(format!("{}: {what}", path.display())),
            other => other,
        })
    }

    /// Takes a file that lies in memory and checks its header and size.
    ///
    /// # Errors
    /// [`Error::Corrupt`] as [`Layout::of_file`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::check(Bytes::Held(bytes))
    }

    fn check(bytes: Bytes) -> Result<Self> {
        let layout = Layout::of_file(bytes.as_slice(), DEFAULT_HEADER_LIMIT)?;
        let index = layout.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        Ok(Self { bytes, layout, index })
    }

    /// What the file holds.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`Error::Input`] where there is none.
    pub fn tensor(&self, name: &str) -> Result<&TensorLayout> {
        let index = self.index.get(name).ok_or_else(|| Error::input(format!("no tensor `{}`", shown(name))))?;
        Ok(&self.layout.tensors[*index])
    }

    /// Bytes of a tensor, as stored.
    ///
    /// # Errors
    /// [`Error::Input`] where there is no such tensor.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        Ok(self.bytes_of(self.tensor(name)?))
    }

    /// A floating-point tensor as f32, rounded to nearest where it is stored wider.
    ///
    /// # Errors
    /// [`Error::Input`] where there is no such tensor or its type is not `F16`, `BF16`, `F32` or `F64`.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.tensor(name)?.elements()];
        self.fill_f32(name, 0, &mut values)?;
        Ok(values)
    }

    /// Elements `first .. first + into.len()` of a floating-point tensor as f32; as [`CheckpointFile::read_f32`].
    ///
    /// # Errors
    /// As [`CheckpointFile::read_f32`]; [`Error::Input`] where the tensor is shorter.
    pub fn fill_f32(&self, name: &str, first: usize, into: &mut [f32]) -> Result<()> {
        let tensor = self.tensor(name)?;
        decode_f32(tensor.dtype, self.elements(tensor, first..first + into.len())?, into);
        Ok(())
    }

    /// Elements `first .. first + into.len()` of a floating-point tensor as f64, exactly.
    ///
    /// # Errors
    /// As [`CheckpointFile::fill_f32`].
    pub fn fill_f64(&self, name: &str, first: usize, into: &mut [f64]) -> Result<()> {
        let tensor = self.tensor(name)?;
        decode_f64(tensor.dtype, self.elements(tensor, first..first + into.len())?, into);
        Ok(())
    }

    pub(super) fn bytes_of(&self, tensor: &TensorLayout) -> &[u8] {
        let start = self.layout.header_bytes + tensor.range.start;
        let end = self.layout.header_bytes + tensor.range.end;
        // The size of the file was checked against the layout, so the range lies inside and fits a usize.
        &self.bytes.as_slice()[start as usize..end as usize]
    }

    fn elements(&self, tensor: &TensorLayout, range: Range<usize>) -> Result<&[u8]> {
        if !tensor.dtype.is_averageable() {
            let (name, dtype) = (shown(&tensor.name), tensor.dtype);
            return Err(Error::input(format!("tensor `{name}` is {dtype}; only F16, BF16, F32 and F64 are averaged")));
        }
        let size = tensor.dtype.size();
        self.bytes_of(tensor).get(range.start * size..range.end * size).ok_or_else(|| {
            let (name, held) = (shown(&tensor.name), tensor.elements());
            Error::input(format!("tensor `{name}` has {held} elements, not {}", range.end))
        })
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Held(bytes) => bytes,
        }
    }
}
