//! Samples of a language: rows of tokens, each judged by the one that follows it.

use candle_core::{Device, Tensor};
use memmap2::Mmap;
use rayon::prelude::*;

use super::header::DatasetHeader;
use super::labels::{Labels, NO_LABEL};
use crate::checkpoint::Dtype;
use crate::{Error, Result};

/// N rows of T + 1 tokens, checked to be whole numbers from 0 on.
pub(super) struct Tokens {
    stored: Stored,
    count: usize,
    /// `[T]`: the shape of one input.
    shape: Vec<usize>,
    padding: Option<u32>,
    largest: u32,
}

/// Tokens where they lie.
enum Stored {
    Owned(Vec<u32>),
    /// Little-endian integers in a file, from `start` on.
    Mapped {
        file: Mmap,
        start: usize,
        dtype: Dtype,
    },
}

impl Tokens {
    /// Tokens of a file, from its byte `start` on.
    pub(super) fn mapped(file: Mmap, start: usize, header: &DatasetHeader) -> Result<Self> {
        let stored = Stored::Mapped { file, start, dtype: header.input_dtype };
        Self::checked(stored, header.sample_count, header.sample_shape[0], header.padding_token)
    }

    /// Rows of `length` tokens in memory.
    pub(super) fn owned(tokens: Vec<u32>, length: usize, padding: Option<u32>) -> Result<Self> {
        if length < 2 || tokens.is_empty() || !tokens.len().is_multiple_of(length) {
            let message = format!("{} tokens are not rows of {length}, of at least 2 each", tokens.len());
            return Err(Error::input(message));
        }
        let count = tokens.len() / length;
        Self::checked(Stored::Owned(tokens), count, length - 1, padding)
    }

    fn checked(stored: Stored, count: usize, positions: usize, padding: Option<u32>) -> Result<Self> {
        let mut tokens = Self { stored, count, shape: vec![positions], padding, largest: 0 };
        if let Some(fault) = (0..count).into_par_iter().find_map_first(|sample| tokens.fault(sample)) {
            return Err(Error::input(fault));
        }
        tokens.largest = (0..count * (positions + 1)).into_par_iter().map(|at| tokens.token(at)).max().unwrap_or(0);
        Ok(tokens)
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Errors where a token is none of a vocabulary of this size.
    pub(super) fn check_vocabulary(&self, size: usize) -> Result<()> {
        if (self.largest as usize) < size {
            return Ok(());
        }
        let length = self.shape[0] + 1;
        let position = (0..self.count * length).find(|position| self.token(*position) as usize >= size);
        let position = position.expect("the largest token lies somewhere");
        let (token, sample) = (self.token(position), position / length);
        Err(Error::input(format!("token {token} of sample {sample} is none of a vocabulary of {size}")))
    }

    /// The inputs `[samples, T]` (`u32`) of these samples, and the token that follows each; padding follows nothing.
    pub(super) fn batch(&self, indices: &[usize]) -> Result<(Tensor, Labels)> {
        let positions = self.shape[0];
        let rows = || indices.iter().map(|index| index * (positions + 1));
        let inputs: Vec<u32> = rows().flat_map(|start| (start..start + positions).map(|at| self.token(at))).collect();
        let next = rows().flat_map(|start| (start + 1..=start + positions).map(|at| self.label(at))).collect();
        let inputs = Tensor::from_vec(inputs, (indices.len(), positions), &Device::Cpu)?;
        Ok((inputs, Labels::Tokens { next, positions }))
    }

    fn label(&self, position: usize) -> u32 {
        let token = self.token(position);
        if self.padding == Some(token) { NO_LABEL } else { token }
    }

    /// What is wrong with a sample.
    fn fault(&self, sample: usize) -> Option<String> {
        let length = self.shape[0] + 1;
        let mut stored = (sample * length..(sample + 1) * length).map(|position| self.stored(position));
        if let Some(wrong) = stored.find(|token| !(0..i64::from(NO_LABEL)).contains(token)) {
            return Some(format!("token {wrong} of sample {sample} is no token: it must be a whole number from 0 on"));
        }
        let is_empty = (sample * length + 1..(sample + 1) * length).all(|position| self.label(position) == NO_LABEL);
        is_empty.then(|| format!("sample {sample} of `tokens` has nothing but padding after its first token"))
    }

    /// A token that was checked.
    fn token(&self, position: usize) -> u32 {
        self.stored(position) as u32
    }

    fn stored(&self, position: usize) -> i64 {
        match &self.stored {
            Stored::Owned(tokens) => i64::from(tokens[position]),
            Stored::Mapped { file, start, dtype } => {
                let bytes = &file[start + position * dtype.size()..];
                match dtype {
                    Dtype::U16 => i64::from(u16::from_le_bytes(first(bytes))),
                    Dtype::I32 => i64::from(i32::from_le_bytes(first(bytes))),
                    _ => i64::from_le_bytes(first(bytes)),
                }
            }
        }
    }
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *bytes.first_chunk().expect("the file holds every token of its header")
}
