//! A set of labelled samples.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::augmentation::Crop;
use super::{Augmentation, Epoch, Normalisation};
use crate::{Error, Result};

/// Stored inputs, row-major: [samples, channels, height, width] or [samples, features].
pub enum Inputs {
    /// Bytes.
    U8(Vec<u8>),
    /// Floats.
    F32(Vec<f32>),
}

/// Inputs where they lie.
enum Stored {
    Owned(Inputs),
    /// Little-endian elements in a file, from `start` on; `f32` need not be aligned there.
    Mapped {
        file: Mmap,
        start: usize,
        is_f32: bool,
    },
}

/// A batch as the network takes it.
pub struct Batch {
    /// Normalised inputs: [batch, height, width, channels] or [batch, features].
    pub inputs: Tensor,
    /// Class of each sample.
    pub labels: Arc<[u32]>,
}

/// Samples with labels, read as they are needed.
pub struct Dataset {
    inputs: Stored,
    labels: Vec<u32>,
    sample_shape: Vec<usize>,
    normalisation: Normalisation,
    /// What each byte becomes, for each distinct channel.
    table: Vec<[f32; 256]>,
}

impl Dataset {
    /// Maps a safetensors file with `inputs` (`u8` or `f32`, `[N, C, H, W]` or `[N, F]`) and `labels` (`i64`, `[N]`).
    ///
    /// Without a `normalisation` that of the file's metadata (`scale`, `mean`, `std`) is taken. Errors name what is wrong
    /// with the file; `f32` inputs are checked to be finite, which reads them once.
    pub fn open(path: &Path, normalisation: Option<Normalisation>) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        #[expect(unsafe_code, reason = "mapping a file is how a set larger than memory is read")]
        // SAFETY: the map is read-only; the files are a worker's own downloads, which nobody cuts short while it runs.
        let file = unsafe { Mmap::map(&file) }.map_err(|source| Error::io(path, source))?;
        let corrupt = |error: safetensors::SafeTensorError| Error::corrupt(format!("{}: {error}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&file).map_err(corrupt)?;
        let tensors = SafeTensors::deserialize(&file).map_err(corrupt)?;
        let normalisation = match normalisation {
            Some(normalisation) => normalisation,
            None => Normalisation::of_metadata(header.metadata().as_ref())?,
        };
        let find =
            |name: &str| tensors.tensor(name).map_err(|_| Error::input(format!("dataset has no tensor `{name}`")));
        let (inputs, labels) = (find("inputs")?, find("labels")?);
        let is_f32 = match inputs.dtype() {
            Dtype::U8 => false,
            Dtype::F32 => true,
            other => return Err(Error::input(format!("`inputs` has dtype {other:?}, it must be U8 or F32"))),
        };
        let shape = inputs.shape().to_vec();
        let labels = read_labels(&labels)?;
        let start = inputs.data().as_ptr().addr() - file.as_ptr().addr();
        Self::new(Stored::Mapped { file, start, is_f32 }, &shape, labels, normalisation)
    }

    /// From inputs in memory, of shape [N, C, H, W] or [N, F].
    pub fn from_inputs(
        inputs: Inputs,
        shape: &[usize],
        labels: Vec<u32>,
        normalisation: Normalisation,
    ) -> Result<Self> {
        let found = match &inputs {
            Inputs::U8(values) => values.len(),
            Inputs::F32(values) => values.len(),
        };
        if found != shape.iter().product::<usize>() {
            return Err(Error::input(format!(
                "`inputs` has {found} elements, its shape {shape:?} asks for another number"
            )));
        }
        Self::new(Stored::Owned(inputs), shape, labels, normalisation)
    }

    fn new(inputs: Stored, shape: &[usize], labels: Vec<u32>, normalisation: Normalisation) -> Result<Self> {
        let Some((&count, sample_shape)) = shape.split_first().filter(|(_, sample)| matches!(sample.len(), 1 | 3))
        else {
            return Err(Error::input(format!("`inputs` has shape {shape:?}, it must be [N, C, H, W] or [N, F]")));
        };
        if shape.contains(&0) {
            return Err(Error::input(format!("`inputs` of shape {shape:?} holds nothing")));
        }
        if labels.len() != count {
            return Err(Error::input(format!("{count} inputs but {} labels", labels.len())));
        }
        normalisation.check()?;
        normalisation.check_channels(sample_shape[0])?;
        let byte_table = |channel| std::array::from_fn(|byte| normalisation.apply(byte as f64, channel));
        let table = (0..normalisation.distinct()).map(byte_table).collect();
        let dataset = Self { inputs, labels, sample_shape: sample_shape.to_vec(), normalisation, table };
        dataset.check_finite()?;
        Ok(dataset)
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples; a dataset is never made without any.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Shape of one stored input: `[channels, height, width]` or `[features]`.
    pub fn sample_shape(&self) -> &[usize] {
        &self.sample_shape
    }

    /// How stored inputs are normalised.
    pub fn normalisation(&self) -> &Normalisation {
        &self.normalisation
    }

    /// Errors where a label is none of `classes` classes.
    pub fn check_labels(&self, classes: usize) -> Result<()> {
        match self.labels.iter().position(|label| *label as usize >= classes) {
            None => Ok(()),
            Some(sample) => {
                let label = self.labels[sample];
                Err(Error::input(format!("label {label} of sample {sample} is none of {classes} classes")))
            }
        }
    }

    /// The samples of these indices, in this order, augmented where they are images.
    pub fn batch(&self, indices: &[usize], augmentation: Augmentation, epoch: Epoch) -> Result<Batch> {
        if let Some(index) = indices.iter().find(|index| **index >= self.len()) {
            return Err(Error::input(format!("sample {index} of a dataset of {}", self.len())));
        }
        let length: usize = self.sample_shape.iter().product();
        let mut values = vec![0.0; indices.len() * length];
        values
            .par_chunks_mut(length)
            .zip(indices)
            .for_each(|(sample, &index)| self.write_sample(index, augmentation.crop(epoch, index), sample));
        let mut shape = vec![indices.len()];
        match self.sample_shape[..] {
            [channels, height, width] => shape.extend([height, width, channels]),
            _ => shape.extend(&self.sample_shape),
        }
        let inputs = Tensor::from_vec(values, shape, &Device::Cpu)?;
        Ok(Batch { inputs, labels: indices.iter().map(|&index| self.labels[index]).collect() })
    }

    fn write_sample(&self, index: usize, crop: Crop, target: &mut [f32]) {
        let [channels, height, width] = self.sample_shape[..] else {
            for (feature, target) in target.iter_mut().enumerate() {
                *target = self.value(index * self.sample_shape[0] + feature, feature);
            }
            return;
        };
        let first = index * channels * height * width;
        for (pixel, target) in target.chunks_exact_mut(channels).enumerate() {
            let source = crop.source(pixel / width, pixel % width, height, width);
            for (channel, target) in target.iter_mut().enumerate() {
                *target = match source {
                    Some((row, column)) => self.value(first + (channel * height + row) * width + column, channel),
                    None => self.normalisation.apply(0.0, channel),
                };
            }
        }
    }

    /// The normalised element at this position of the stored inputs.
    fn value(&self, position: usize, channel: usize) -> f32 {
        let of_byte = |byte: u8| self.table[if self.table.len() == 1 { 0 } else { channel }][byte as usize];
        match &self.inputs {
            Stored::Owned(Inputs::U8(values)) => of_byte(values[position]),
            Stored::Mapped { file, start, is_f32: false } => of_byte(file[start + position]),
            _ => self.normalisation.apply(f64::from(self.stored_f32(position)), channel),
        }
    }

    /// A stored float; a stored byte is a whole number.
    fn stored_f32(&self, position: usize) -> f32 {
        match &self.inputs {
            Stored::Owned(Inputs::U8(values)) => f32::from(values[position]),
            Stored::Owned(Inputs::F32(values)) => values[position],
            Stored::Mapped { file, start, is_f32: false } => f32::from(file[start + position]),
            Stored::Mapped { file, start, is_f32: true } => {
                let bytes = &file[start + 4 * position..][..4];
                f32::from_le_bytes(bytes.try_into().expect("the slice has 4 bytes"))
            }
        }
    }

    fn check_finite(&self) -> Result<()> {
        if matches!(self.inputs, Stored::Owned(Inputs::U8(_)) | Stored::Mapped { is_f32: false, .. }) {
            return Ok(());
        }
        let length: usize = self.sample_shape.iter().product();
        let bad =
            (0..self.len() * length).into_par_iter().find_first(|position| !self.stored_f32(*position).is_finite());
        match bad {
            None => Ok(()),
            Some(position) => {
                let value = self.stored_f32(position);
                Err(Error::input(format!("`inputs` holds {value} in sample {}", position / length)))
            }
        }
    }
}

impl Normalisation {
    /// From the metadata of a safetensors file.
    pub fn of_metadata(metadata: Option<&std::collections::HashMap<String, String>>) -> Result<Self> {
        let text = |name: &str| metadata.and_then(|metadata| metadata.get(name)).map(String::as_str);
        Self::parse(text("scale"), text("mean"), text("std"))
    }
}

fn read_labels(labels: &TensorView<'_>) -> Result<Vec<u32>> {
    if labels.dtype() != Dtype::I64 || labels.shape().len() != 1 {
        let message = format!("`labels` is {:?} {:?}, it must be I64 [N]", labels.dtype(), labels.shape());
        return Err(Error::input(message));
    }
    let labels = labels.data().chunks_exact(8).enumerate().map(|(sample, bytes)| {
        let label = i64::from_le_bytes(bytes.try_into().expect("the chunk has 8 bytes"));
        u32::try_from(label).map_err(|_| Error::input(format!("label {label} of sample {sample} is no class")))
    });
    labels.collect()
}

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
