//! A set of samples with what they are judged by.

use std::fs::File;
use std::path::Path;

use candle_core::Tensor;
use memmap2::Mmap;

use super::header::{DatasetHeader, DatasetKind};
use super::labels::Labels;
use super::samples::{Inputs, Samples, Stored};
use super::tokens::Tokens;
use super::{Augmentation, Epoch, Normalisation};
use crate::checkpoint::{DEFAULT_HEADER_LIMIT, Dtype, Layout};
use crate::{Error, Result};

/// A batch as the network takes it.
pub struct Batch {
    /// Normalised inputs, [batch, height, width, channels] or [batch, features], or tokens (`u32`), [batch, positions].
    pub inputs: Tensor,
    /// What each sample is judged by.
    pub labels: Labels,
}

/// Samples, read as they are needed, with what they are judged by.
pub struct Dataset(Content);

enum Content {
    Labels { samples: Samples, classes: Vec<u32> },
    Targets { samples: Samples, values: Vec<f32>, count: usize },
    Tokens(Tokens),
}

impl Dataset {
    /// Maps a safetensors file of one of the kinds that [`DatasetHeader::read`] knows.
    ///
    /// Without a `normalisation` that of the file's metadata (`scale`, `mean`, `std`) is taken; tokens have none. Errors
    /// name what is wrong with the file; floats are checked to be finite and tokens to be tokens, which reads them once.
    pub fn open(path: &Path, normalisation: Option<Normalisation>) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::io(path, source))?;
        #[expect(unsafe_code, reason = "mapping a file is how a set larger than memory is read")]
        // SAFETY: the map is read-only; the files are a worker's own downloads, which nobody cuts short while it runs.
        let file = unsafe { Mmap::map(&file) }.map_err(|source| Error::io(path, source))?;
        let layout = Layout::of_file(&file, DEFAULT_HEADER_LIMIT).map_err(|error| match error {
            Error::Corrupt(what) => Error::corrupt(format!("{}: {what}", path.display())),
            other => other,
        })?;
        let header = DatasetHeader::read(&layout)?;
        match header.kind {
            DatasetKind::Labels => {
                let classes = read_classes(&file[range(&layout, "labels")])?;
                Self::with_classes(map_samples(file, &layout, &header, normalisation)?, classes)
            }
            DatasetKind::Targets { count } => {
                let values = read_floats(&file[range(&layout, "targets")]);
                Self::with_targets(map_samples(file, &layout, &header, normalisation)?, values, count)
            }
            DatasetKind::Tokens => {
                let start = range(&layout, "tokens").start;
                Ok(Self(Content::Tokens(Tokens::mapped(file, start, &header)?)))
            }
        }
    }

    /// From inputs in memory, of shape [N, C, H, W] or [N, F], with a class for each.
    pub fn from_inputs(
        inputs: Inputs,
        shape: &[usize],
        labels: Vec<u32>,
        normalisation: Normalisation,
    ) -> Result<Self> {
        Self::with_classes(Samples::new(Stored::Owned(inputs), shape, normalisation)?, labels)
    }

    /// From inputs in memory, of shape [N, C, H, W] or [N, F], with `count` target numbers for each.
    pub fn from_targets(
        inputs: Inputs,
        shape: &[usize],
        targets: Vec<f32>,
        count: usize,
        normalisation: Normalisation,
    ) -> Result<Self> {
        Self::with_targets(Samples::new(Stored::Owned(inputs), shape, normalisation)?, targets, count)
    }

    /// From rows of `length` tokens in memory: all but the last of a row are its input, all but the first are predicted,
    /// where they are not the padding token.
    pub fn from_tokens(tokens: Vec<u32>, length: usize, padding_token: Option<u32>) -> Result<Self> {
        Ok(Self(Content::Tokens(Tokens::owned(tokens, length, padding_token)?)))
    }

    fn with_classes(samples: Samples, classes: Vec<u32>) -> Result<Self> {
        if classes.len() != samples.len() {
            return Err(Error::input(format!("{} inputs but {} labels", samples.len(), classes.len())));
        }
        Ok(Self(Content::Labels { samples, classes }))
    }

    fn with_targets(samples: Samples, values: Vec<f32>, count: usize) -> Result<Self> {
        if count == 0 || values.len() != samples.len() * count {
            let message = format!("{} inputs but {} targets of {count} a sample", samples.len(), values.len());
            return Err(Error::input(message));
        }
        if let Some(bad) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::input(format!("`targets` holds {} in sample {}", values[bad], bad / count)));
        }
        Ok(Self(Content::Targets { samples, values, count }))
    }

    /// What the samples are judged by.
    pub fn kind(&self) -> DatasetKind {
        match &self.0 {
            Content::Labels { .. } => DatasetKind::Labels,
            Content::Targets { count, .. } => DatasetKind::Targets { count: *count },
            Content::Tokens(_) => DatasetKind::Tokens,
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        match &self.0 {
            Content::Labels { samples, .. } | Content::Targets { samples, .. } => samples.len(),
            Content::Tokens(tokens) => tokens.len(),
        }
    }

    /// Whether there are no samples; a dataset is never made without any.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shape of one input as it is stored: `[channels, height, width]`, `[features]` or `[positions]`.
    pub fn sample_shape(&self) -> &[usize] {
        match &self.0 {
            Content::Labels { samples, .. } | Content::Targets { samples, .. } => samples.shape(),
            Content::Tokens(tokens) => tokens.shape(),
        }
    }

    /// Errors where a label or a token is none that a network with so many outputs can predict.
    pub fn check_labels(&self, outputs: usize) -> Result<()> {
        match &self.0 {
            Content::Labels { classes, .. } => match classes.iter().position(|label| *label as usize >= outputs) {
                None => Ok(()),
                Some(sample) => {
                    let label = classes[sample];
                    Err(Error::input(format!("label {label} of sample {sample} is none of {outputs} classes")))
                }
            },
            Content::Targets { .. } => Ok(()),
            Content::Tokens(tokens) => tokens.check_vocabulary(outputs),
        }
    }

    /// The samples of these indices, in this order, augmented where they are images.
    pub fn batch(&self, indices: &[usize], augmentation: Augmentation, epoch: Epoch) -> Result<Batch> {
        if let Some(index) = indices.iter().find(|index| **index >= self.len()) {
            return Err(Error::input(format!("sample {index} of a dataset of {}", self.len())));
        }
        let (inputs, labels) = match &self.0 {
            Content::Labels { samples, classes } => {
                let labels = Labels::Classes(indices.iter().map(|&index| classes[index]).collect());
                (samples.batch(indices, augmentation, epoch)?, labels)
            }
            Content::Targets { samples, values, count } => {
                let values = indices.iter().flat_map(|index| &values[index * count..][..*count]).copied().collect();
                (samples.batch(indices, augmentation, epoch)?, Labels::Targets { values, count: *count })
            }
            Content::Tokens(tokens) => tokens.batch(indices)?,
        };
        Ok(Batch { inputs, labels })
    }
}

fn map_samples(
    file: Mmap,
    layout: &Layout,
    header: &DatasetHeader,
    normalisation: Option<Normalisation>,
) -> Result<Samples> {
    let normalisation = normalisation.map_or_else(|| Normalisation::of_metadata(&layout.metadata), Ok)?;
    let (start, is_f32) = (range(layout, "inputs").start, header.input_dtype == Dtype::F32);
    let shape = [&[header.sample_count], &header.sample_shape[..]].concat();
    Samples::new(Stored::Mapped { file, start, is_f32 }, &shape, normalisation)
}

/// Bytes of a tensor in its file, whose size was checked.
fn range(layout: &Layout, name: &str) -> std::ops::Range<usize> {
    let tensor = layout.find(name).expect("the dataset's header was read");
    let at = |position: u64| (layout.header_bytes + position) as usize;
    at(tensor.range.start)..at(tensor.range.end)
}

fn read_classes(bytes: &[u8]) -> Result<Vec<u32>> {
    let (labels, _) = bytes.as_chunks();
    let class = |(sample, bytes): (usize, &[u8; 8])| {
        let label = i64::from_le_bytes(*bytes);
        u32::try_from(label).map_err(|_| Error::input(format!("label {label} of sample {sample} is no class")))
    };
    labels.iter().enumerate().map(class).collect()
}

fn read_floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[cfg(test)]
#[path = "dataset_tests.rs"]
mod tests;
