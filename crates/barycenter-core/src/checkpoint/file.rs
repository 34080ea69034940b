//! Checkpoints opened for reading.

use std::{collections::HashMap, io::Write, ops::Range, path::Path, sync::Arc};

use super::{
    DEFAULT_HEADER_LIMIT, Dtype, Layout, TensorLayout, TensorSpec, Writer, Written,
    layout::shown,
    numbers::{decode_f32, decode_f64},
    source::{Source, Stored},
};
use crate::{Error, Result};

/// A checkpoint whose headers have been checked; tensors are read where they lie, in one file or in several.
#[derive(Debug)]
pub struct CheckpointFile {
    sources: Vec<Arc<Source>>,
    layout: Layout,
    /// Where each tensor of the layout lies.
    places: Vec<Place>,
    index: HashMap<String, usize>,
}

/// Bytes of one tensor.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Position among the sources.
    pub(super) source: usize,
    /// Bytes there; they are checked to be.
    pub(super) range: Range<usize>,
}

impl CheckpointFile {
    /// Maps one safetensors file into memory and checks its header and size; [`super::open`] takes other forms too.
    ///
    /// The file must not be changed while it is open.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be opened, [`Error::Corrupt`] as [`Layout::of_file`], naming the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::of_source(Source::open(path)?).map_err(|e| e.in_file(path))
    }

    /// Takes a safetensors file that lies in memory and checks its header and size.
    ///
    /// # Errors
    /// [`Error::Corrupt`] as [`Layout::of_file`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::of_source(Source::Held(bytes))
    }

    pub(super) fn of_source(source: Source) -> Result<Self> {
        let layout = Layout::of_file(source.as_slice(), DEFAULT_HEADER_LIMIT)?;
        // The size of the file was checked against the layout, so the ranges lie inside and fit a usize.
        let place = |tensor: &TensorLayout| Place {
            source: 0,
            range: (layout.header_bytes + tensor.range.start) as usize
                ..(layout.header_bytes + tensor.range.end) as usize,
        };
        let places = layout.tensors.iter().map(place).collect();
        Ok(Self::assemble(vec![Arc::new(source)], layout, places))
    }

    /// From tensors with their places; all names differ, and a place has the bytes that its tensor needs.
    pub(super) fn assemble(sources: Vec<Arc<Source>>, layout: Layout, places: Vec<Place>) -> Self {
        let index = layout.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        Self { sources, layout, places, index }
    }

    /// The tensors of several files as one checkpoint, in the order of the files; all names differ.
    pub(super) fn join(files: Vec<Self>) -> Self {
        let metadata = files.first().map(|file| file.layout.metadata.clone()).unwrap_or_default();
        let (mut sources, mut places, mut tensors) = (Vec::new(), Vec::new(), Vec::new());
        for file in files {
            places.extend(file.places.into_iter().map(|place| Place { source: sources.len() + place.source, ..place }));
            tensors.extend(file.layout.tensors);
            sources.extend(file.sources);
        }
        Self::assemble(sources, Layout::of_tensors(tensors, metadata), places)
    }

    /// The same checkpoint with these tensors alone, in this order; the bytes are shared.
    ///
    /// # Errors
    /// [`Error::Input`] where there is no such tensor or one is named twice.
    pub fn select<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let (mut tensors, mut places) = (Vec::new(), Vec::new());
        let mut seen = std::collections::HashSet::new();
        for name in names {
            tensors.push(self.tensor(name)?.clone());
            places.push(self.places[self.index[name]].clone());
            if !seen.insert(name) {
                return Err(Error::input(format!("tensor `{}` is selected twice", shown(name))));
            }
        }
        Ok(Self::assemble(self.sources.clone(), Layout::of_tensors(tensors, self.layout.metadata.clone()), places))
    }

    /// Writes the checkpoint as one safetensors file, in the order of its layout.
    ///
    /// # Errors
    /// [`Error::Io`] where the output refuses; [`Error::Input`] where a name is one that the format reserves.
    pub fn write_to<W: Write>(&self, output: W) -> Result<Written> {
        let specs = self.layout.tensors.iter().map(TensorSpec::from).collect();
        let mut writer = Writer::new(output, specs, &self.layout.metadata)?;
        for tensor in &self.layout.tensors {
            writer.write(&tensor.name, self.bytes_of(tensor))?;
        }
        writer.finish()
    }

    /// What the checkpoint holds.
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

    /// The same, for whoever goes through them in order.
    ///
    /// # Errors
    /// As [`CheckpointFile::bytes`].
    pub(crate) fn stored(&self, name: &str) -> Result<Stored<'_>> {
        let place = self.place_of(self.tensor(name)?);
        Ok(Stored::new(&self.sources[place.source], place.range.clone()))
    }

    /// A floating-point tensor as f32, rounded to nearest where it is stored wider.
    ///
    /// # Errors
    /// [`Error::Input`] where there is no such tensor or its type is no float.
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

    /// A tensor of f32 where it lies; nothing where it is of another type, not aligned, or this machine orders bytes
    /// otherwise.
    ///
    /// # Errors
    /// [`Error::Input`] where there is no such tensor.
    pub(crate) fn as_f32(&self, name: &str) -> Result<Option<&[f32]>> {
        let tensor = self.tensor(name)?;
        let is_stored_so = tensor.dtype == Dtype::F32 && cfg!(target_endian = "little");
        Ok(if is_stored_so { bytemuck::try_cast_slice(self.bytes_of(tensor)).ok() } else { None })
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

    /// Bytes of a tensor of this checkpoint's layout.
    pub(super) fn bytes_of(&self, tensor: &TensorLayout) -> &[u8] {
        let place = self.place_of(tensor);
        &self.sources[place.source].as_slice()[place.range.clone()]
    }

    fn place_of(&self, tensor: &TensorLayout) -> &Place {
        &self.places[self.index[&tensor.name]]
    }

    fn elements(&self, tensor: &TensorLayout, range: Range<usize>) -> Result<&[u8]> {
        if !tensor.dtype.is_averageable() {
            let (name, dtype) = (shown(&tensor.name), tensor.dtype);
            return Err(Error::input(format!("tensor `{name}` is {dtype}; only floating-point tensors are averaged")));
        }
        let size = tensor.dtype.size();
        self.bytes_of(tensor).get(range.start * size..range.end * size).ok_or_else(|| {
            let (name, held) = (shown(&tensor.name), tensor.elements());
            Error::input(format!("tensor `{name}` has {held} elements, not {}", range.end))
        })
    }
}
