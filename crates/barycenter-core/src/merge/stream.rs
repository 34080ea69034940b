//! The output of a merge as a stream of pieces, each made by all threads.

use std::io::Write;

use rayon::prelude::*;

use super::{
    kernels::{average, average_as},
    reading::Reading,
};
use crate::{
    Result,
    checkpoint::{Dtype, Stored, TensorLayout, Writer},
    processor::Processor,
};

/// Bytes of a piece; a multiple of every element's size.
const PIECE: usize = 1 << 20;

/// Bytes made by one task, at most.
const TASK: usize = 1 << 16;

/// Where the bytes of a tensor come from.
pub(super) enum Source<'a> {
    /// They are those of the reference.
    Stored(Stored<'a>),
    /// They are these.
    Given(Vec<u8>),
    /// A weighted sum of the candidates' rows.
    Average { dtype: Dtype, output: Dtype, rows: Vec<Stored<'a>>, weights: Vec<f64> },
}

impl Source<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Stored(stored) => stored.bytes().len(),
            Self::Given(bytes) => bytes.len(),
            Self::Average { dtype, output, rows, .. } => {
                rows.first().map_or(0, |row| row.bytes().len() / dtype.size() * output.size())
            }
        }
    }

    /// Bytes that one task makes.
    fn task(&self, reading: &Reading) -> usize {
        match self {
            Self::Stored(_) | Self::Given(_) => TASK,
            Self::Average { dtype, output, rows, .. } => reading.task(rows.len(), TASK) / dtype.size() * output.size(),
        }
    }

    /// Makes the bytes from `start` on.
    fn make(&self, start: usize, into: &mut [u8], reading: &Reading) -> Result<()> {
        match self {
            Self::Stored(stored) => stored.read(start, into),
            Self::Given(bytes) => {
                into.copy_from_slice(&bytes[start..start + into.len()]);
                Ok(())
            }
            Self::Average { dtype, output, rows, weights } => {
                let [start, len] = [start, into.len()].map(|bytes| bytes / output.size() * dtype.size());
                reading.read(rows, (start, len), |rows| {
                    if dtype == output {
                        average(Processor::detected(), *dtype, rows, weights, into);
                    } else {
                        average_as(*output, *dtype, rows, weights, into);
                    }
                })
            }
        }
    }
}

/// Some bytes of one tensor.
struct Part<'a> {
    tensor: &'a TensorLayout,
    source: std::sync::Arc<Source<'a>>,
    start: usize,
    len: usize,
}

impl Part<'_> {
    fn is_last(&self) -> bool {
        self.start + self.len == self.source.len()
    }
}

/// Neighbouring parts of the output.
#[derive(Default)]
pub(super) struct Piece<'a> {
    parts: Vec<Part<'a>>,
    bytes: Vec<u8>,
}

impl Piece<'_> {
    /// With its bytes made, in memory that an earlier piece took.
    pub(super) fn made(mut self, room: Vec<u8>, reading: &Reading) -> Result<Self> {
        self.bytes = room;
        self.bytes.resize(self.parts.iter().map(|part| part.len).sum(), 0);
        let mut tasks = Vec::new();
        let mut left = self.bytes.as_mut_slice();
        for part in &self.parts {
            let (bytes, rest) = left.split_at_mut(part.len);
            left = rest;
            let task = part.source.task(reading);
            let starts = (part.start..).step_by(task);
            tasks.extend(starts.zip(bytes.chunks_mut(task)).map(|(start, bytes)| (&*part.source, start, bytes)));
        }
        tasks.into_par_iter().try_for_each(|(source, start, bytes)| source.make(start, bytes, reading))?;
        Ok(self)
    }

    /// Writes the parts in order.
    pub(super) fn write<W: Write + Send>(&self, writer: &mut Writer<W>) -> Result<()> {
        let mut left = self.bytes.as_slice();
        for part in &self.parts {
            let (bytes, rest) = left.split_at(part.len);
            left = rest;
            writer.write_part(&part.tensor.name, bytes)?;
        }
        Ok(())
    }

    /// The memory of its bytes, for another piece.
    pub(super) fn into_room(self) -> Vec<u8> {
        self.bytes
    }

    /// Tensors whose last byte lies in this piece.
    pub(super) fn tensors_ended(&self) -> usize {
        self.parts.iter().filter(|part| part.is_last()).count()
    }
}

/// Cuts the tensors' bytes into pieces, none made yet.
pub(super) fn pieces<'a>(
    sources: impl Iterator<Item = Result<(&'a TensorLayout, Source<'a>)>>,
) -> impl Iterator<Item = Result<Piece<'a>>> {
    let mut sources = sources.fuse();
    // The tensor that the last piece ended in, and how much of it is taken.
    let mut begun = None;
    std::iter::from_fn(move || {
        let (mut parts, mut room) = (Vec::new(), PIECE);
        while room >= 8 {
            let (tensor, source, start) = match begun.take() {
                Some(begun) => begun,
                None => match sources.next() {
                    Some(Ok((tensor, source))) => (tensor, std::sync::Arc::new(source), 0),
                    Some(Err(error)) => return Some(Err(error)),
                    None => break,
                },
            };
            // Whole elements: no type is longer than 8 bytes.
            let len = (source.len() - start).min(room / 8 * 8);
            room -= len;
            let part = Part { tensor, source, start, len };
            if !part.is_last() {
                begun = Some((tensor, part.source.clone(), start + len));
            }
            parts.push(part);
        }
        (!parts.is_empty()).then(|| Ok(Piece { parts, bytes: Vec::new() }))
    })
}
