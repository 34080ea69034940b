//! Images and rows of features: stored inputs, normalised as they are read.

use candle_core::{Device, Tensor};
use memmap2::Mmap;
use rayon::prelude::*;

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
pub(super) enum Stored {
    Owned(Inputs),
    /// Little-endian elements in a file, from `start` on; `f32` need not be aligned there.
    Mapped {
        file: Mmap,
        start: usize,
        is_f32: bool,
    },
}

/// Inputs with what is done to them.
pub(super) struct Samples {
    inputs: Stored,
    count: usize,
    shape: Vec<usize>,
    normalisation: Normalisation,
    /// What each byte becomes, for each distinct channel.
    table: Vec<[f32; 256]>,
}

impl Samples {
    /// Inputs of this shape, checked to be finite, which reads them once.
    pub(super) fn new(inputs: Stored, shape: &[usize], normalisation: Normalisation) -> Result<Self> {
        let Some((&count, sample_shape)) = shape.split_first().filter(|(_, sample)| matches!(sample.len(), 1 | 3))
        else {
            return Err(Error::input(format!("`inputs` has shape {shape:?}, it must be [N, C, H, W] or [N, F]")));
        };
        if shape.contains(&0) {
            return Err(Error::input(format!("`inputs` of shape {shape:?} holds nothing")));
        }
        let held = match &inputs {
            Stored::Owned(Inputs::U8(values)) => Some(values.len()),
            Stored::Owned(Inputs::F32(values)) => Some(values.len()),
            Stored::Mapped { .. } => None,
        };
        if let Some(held) = held.filter(|held| *held != shape.iter().product::<usize>()) {
            let message = format!("`inputs` has {held} elements, its shape {shape:?} asks for another number");
            return Err(Error::input(message));
        }
        normalisation.check()?;
        normalisation.check_channels(sample_shape[0])?;
        let byte_table = |channel| std::array::from_fn(|byte| normalisation.apply(byte as f64, channel));
        let table = (0..normalisation.distinct()).map(byte_table).collect();
        let samples = Self { inputs, count, shape: sample_shape.to_vec(), normalisation, table };
        samples.check_finite()?;
        Ok(samples)
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// `[channels, height, width]` or `[features]`.
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// `[samples, height, width, channels]`, augmented, or `[samples, features]`.
    pub(super) fn batch(&self, indices: &[usize], augmentation: Augmentation, epoch: Epoch) -> Result<Tensor> {
        let length: usize = self.shape.iter().product();
        let mut values = vec![0.0; indices.len() * length];
        values
            .par_chunks_mut(length)
            .zip(indices)
            .for_each(|(sample, &index)| self.write_sample(index, augmentation.crop(epoch, index), sample));
        let mut shape = vec![indices.len()];
        match self.shape[..] {
            [channels, height, width] => shape.extend([height, width, channels]),
            _ => shape.extend(&self.shape),
        }
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    fn write_sample(&self, index: usize, crop: Crop, target: &mut [f32]) {
        let [channels, height, width] = self.shape[..] else {
            for (feature, target) in target.iter_mut().enumerate() {
                *target = self.value(index * self.shape[0] + feature, feature);
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
        let length: usize = self.shape.iter().product();
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
