//! Exact materialisation: `Σ_i a[i,l] · w_i[l]` from the full-precision candidates, as a stream.
//!
//! Sums are made in f64 and rounded once to the stored type. n copies of one checkpoint therefore give it back bit for bit,
//! whatever its type, as long as the coefficients sum to 1.
//!
//! The bytes are a function of candidates, coefficients and policies alone, whatever the processor and the number of threads: an
//! artifact whose bytes were dropped is made again from its [`MergePlan`].

mod kernels;
pub mod lora;
mod plan;
mod reading;
mod stream;
pub mod weights;

use std::{collections::BTreeMap, io::Write, time::Instant};

pub use self::plan::MergePlan;
use self::{
    reading::Reading,
    stream::{Piece, Source},
};
use crate::{
    Error, Result,
    blocks::Blocks,
    checkpoint::{CheckpointFile, Dtype, Stored, TensorLayout, TensorSpec, Writer, Written, numbers::encode_f64},
};

/// What becomes of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Policy {
    /// Averaged with the coefficients of a block.
    Average {
        /// Column of the coefficients.
        block: usize,
    },
    /// Averaged with these weights, one a candidate; for tensors outside every block, as running statistics.
    Weighted(Vec<f64>),
    /// Copied from the reference candidate, the last one.
    Copy,
    /// These values, rounded to the tensor's type; for recomputed running statistics.
    Provided(Vec<f64>),
    /// These bytes, of the type that is written; for what was kept of an earlier merge.
    Kept(Vec<u8>),
}

/// Policies by tensor name: averaged tensors in their blocks, everything else copied.
///
/// # Errors
/// [`Error::Input`] where an averaged tensor is not in the reference.
pub fn policies(reference: &CheckpointFile, averaged: &[String], blocks: &Blocks) -> Result<BTreeMap<String, Policy>> {
    let tensors = &reference.layout().tensors;
    let mut policies: BTreeMap<String, Policy> =
        tensors.iter().map(|tensor| (tensor.name.clone(), Policy::Copy)).collect();
    for (t, name) in averaged.iter().enumerate() {
        let tensor = reference.tensor(name)?;
        policies.insert(tensor.name.clone(), Policy::Average { block: blocks.block_of(t) });
    }
    Ok(policies)
}

/// Merges checked candidates into one file with the layout, types and metadata of the last; with `dtype` all its
/// floating-point tensors get that type, each number rounded once.
///
/// `coefficients` is candidate-major, (n, L): one weight a candidate where L is 1. `policies` says what becomes of each
/// tensor. `on_tensor` is called with (tensors done, tensors in all) and may end the merge with an error. The output is
/// made and written in pieces, one being written while all threads make the next; two pieces of 1 MiB are held, and each thread may
/// hold 512 KiB of the candidates, or a page of each where those are more.
///
/// # Errors
/// [`Error::Input`] where there is no candidate, the coefficients do not fit, `dtype` is no floating-point type, a tensor has
/// no policy or cannot be averaged;
/// [`Error::Io`] where the output refuses or a candidate cannot be read; what `on_tensor` returns.
pub fn merge<W: Write + Send>(
    candidates: &[CheckpointFile],
    coefficients: &[f64],
    policies: &BTreeMap<String, Policy>,
    dtype: Option<Dtype>,
    output: W,
    on_tensor: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Written> {
    let reference = candidates.last().ok_or_else(|| Error::input("there is no candidate"))?;
    if coefficients.is_empty() || !coefficients.len().is_multiple_of(candidates.len()) {
        let (n, held) = (candidates.len(), coefficients.len());
        return Err(Error::input(format!("{held} coefficients do not fit {n} candidates")));
    }
    if !coefficients.iter().all(|a| a.is_finite()) {
        return Err(Error::input("a coefficient is not finite"));
    }
    if let Some(dtype) = dtype.filter(|dtype| !dtype.is_averageable()) {
        return Err(Error::input(format!("{dtype} is no floating-point type to write an average in")));
    }
    let tensors = &reference.layout().tensors;
    let specs = output_tensors(reference, dtype);
    let sources = tensors.iter().zip(&specs).map(|(tensor, spec)| {
        let source = source(candidates, coefficients, policies, tensor, spec.dtype)?;
        Ok((tensor, source))
    });
    let mut writer = Writer::new(output, specs.clone(), &reference.layout().metadata)?;
    let (mut pieces, mut done) = (stream::pieces(sources), 0);
    let (mut written, mut room, mut reading) = (Piece::default(), Vec::new(), Reading::new());
    loop {
        let next = pieces.next().transpose()?;
        let is_last = next.is_none();
        let begun = Instant::now();
        let make = || next.map(|piece| piece.made(room, &reading)).transpose();
        let (made, result) = rayon::join(make, || written.write(&mut writer));
        result?;
        let made = made?;
        reading.note(begun.elapsed());
        for _ in 0..written.tensors_ended() {
            done += 1;
            on_tensor(done, tensors.len())?;
        }
        room = std::mem::replace(&mut written, made.unwrap_or_default()).into_room();
        if is_last {
            return writer.finish();
        }
    }
}

/// The tensors that a merge writes: those of the reference, its floating-point ones in `dtype` where there is one.
pub fn output_tensors(reference: &CheckpointFile, dtype: Option<Dtype>) -> Vec<TensorSpec> {
    let spec = |tensor: &TensorLayout| {
        let dtype = dtype.filter(|_| tensor.dtype.is_averageable()).unwrap_or(tensor.dtype);
        TensorSpec { dtype, ..TensorSpec::from(tensor) }
    };
    reference.layout().tensors.iter().map(spec).collect()
}

/// Where the output's bytes of a tensor come from.
fn source<'a>(
    candidates: &'a [CheckpointFile],
    coefficients: &[f64],
    policies: &BTreeMap<String, Policy>,
    tensor: &TensorLayout,
    output: Dtype,
) -> Result<Source<'a>> {
    let name = &tensor.name;
    let weights = match policies.get(name).ok_or_else(|| Error::input(format!("tensor `{name}` has no policy")))? {
        Policy::Copy => {
            let stored = candidates[candidates.len() - 1].stored(name)?;
            if output == tensor.dtype {
                return Ok(Source::Stored(stored));
            }
            return Ok(Source::Average { dtype: tensor.dtype, output, rows: vec![stored], weights: vec![1.0] });
        }
        Policy::Provided(values) => return Ok(Source::Given(rounded(tensor, output, values)?)),
        Policy::Kept(bytes) => return Ok(Source::Given(kept(tensor, output, bytes)?)),
        Policy::Weighted(weights) => weights.clone(),
        Policy::Average { block } => column(coefficients, candidates.len(), *block)?,
    };
    Ok(Source::Average { dtype: tensor.dtype, output, rows: rows(candidates, tensor, &weights)?, weights })
}

fn column(coefficients: &[f64], n: usize, block: usize) -> Result<Vec<f64>> {
    let block_count = coefficients.len() / n;
    if block >= block_count {
        return Err(Error::input(format!("there is no block {block}, the coefficients have {block_count}")));
    }
    Ok(coefficients.iter().skip(block).step_by(block_count).copied().collect())
}

fn rounded(tensor: &TensorLayout, output: Dtype, values: &[f64]) -> Result<Vec<u8>> {
    check(tensor)?;
    if values.len() != tensor.elements() {
        let (name, wanted, held) = (&tensor.name, tensor.elements(), values.len());
        return Err(Error::input(format!("tensor `{name}` has {wanted} elements, {held} were provided")));
    }
    let mut bytes = vec![0; values.len() * output.size()];
    encode_f64(output, values, &mut bytes);
    Ok(bytes)
}

fn kept(tensor: &TensorLayout, output: Dtype, bytes: &[u8]) -> Result<Vec<u8>> {
    let wanted = tensor.elements() * output.size();
    if bytes.len() != wanted {
        let (name, held) = (&tensor.name, bytes.len());
        return Err(Error::input(format!("tensor `{name}` has {wanted} bytes, {held} were kept")));
    }
    Ok(bytes.to_vec())
}

fn check(tensor: &TensorLayout) -> Result<()> {
    if tensor.dtype.is_averageable() {
        return Ok(());
    }
    let (name, dtype) = (&tensor.name, tensor.dtype);
    Err(Error::input(format!("tensor `{name}` is {dtype}; only floating-point tensors are averaged")))
}

/// `Σ weight · value` of a tensor in f64.
fn weighted_values(candidates: &[&CheckpointFile], name: &str, weights: &[f64]) -> Result<Vec<f64>> {
    let elements = candidates.first().map_or(Ok(0), |first| first.tensor(name).map(TensorLayout::elements))?;
    let (mut sums, mut values) = (vec![-0.0; elements], vec![0.0; elements]);
    for (candidate, weight) in candidates.iter().zip(weights) {
        let held = candidate.tensor(name)?.elements();
        if held != elements {
            let what = format!("tensor `{name}` has {elements} elements in one candidate, {held} in another");
            return Err(Error::input(what));
        }
        candidate.fill_f64(name, 0, &mut values)?;
        sums.iter_mut().zip(&values).for_each(|(sum, value)| *sum += weight * value);
    }
    Ok(sums)
}

/// The rows of a tensor that is averaged, as stored, one a candidate.
fn rows<'a>(candidates: &'a [CheckpointFile], tensor: &TensorLayout, weights: &[f64]) -> Result<Vec<Stored<'a>>> {
    check(tensor)?;
    if weights.len() != candidates.len() {
        let (n, held) = (candidates.len(), weights.len());
        return Err(Error::input(format!("{held} weights do not fit {n} candidates")));
    }
    let row = |candidate: &'a CheckpointFile| {
        let other = candidate.tensor(&tensor.name)?;
        if (other.dtype, &other.shape) != (tensor.dtype, &tensor.shape) {
            return Err(Error::input(format!("tensor `{}` is not the same in every candidate", tensor.name)));
        }
        candidate.stored(&tensor.name)
    };
    candidates.iter().map(row).collect()
}
