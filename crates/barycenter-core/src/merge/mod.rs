//! Exact materialisation: `Σ_i a[i,l] · w_i[l]` from the full-precision candidates, as a stream.
//!
//! Sums are made in f64 and rounded once to the stored type. n copies of one checkpoint therefore give it back bit for bit,
//! whatever its type, as long as the coefficients sum to 1.

pub mod weights;

use std::{collections::BTreeMap, io::Write};

use rayon::prelude::*;

use crate::{
    Error, Result,
    blocks::Blocks,
    checkpoint::{
        CheckpointFile, Dtype, TensorLayout, TensorSpec, Writer, Written,
        numbers::{decode_f64, encode_f64},
    },
};

/// Elements of one task.
const CHUNK: usize = 1 << 14;

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

/// Merges checked candidates into one file with the layout, types and metadata of the last.
///
/// `coefficients` is candidate-major, (n, L): one weight a candidate where L is 1. `policies` says what becomes of each
/// tensor. `on_tensor` is called with (tensors done, tensors in all) and may end the merge with an error. One tensor is held
/// in memory at most.
///
/// # Errors
/// [`Error::Input`] where there is no candidate, the coefficients do not fit, a tensor has no policy or cannot be averaged;
/// [`Error::Io`] where the output refuses; what `on_tensor` returns.
pub fn merge<W: Write>(
    candidates: &[CheckpointFile],
    coefficients: &[f64],
    policies: &BTreeMap<String, Policy>,
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
    let tensors = &reference.layout().tensors;
    let specs = tensors.iter().map(TensorSpec::from).collect();
    let mut writer = Writer::new(output, specs, &reference.layout().metadata)?;
    for (done, tensor) in tensors.iter().enumerate() {
        let name = &tensor.name;
        let policy = policies.get(name).ok_or_else(|| Error::input(format!("tensor `{name}` has no policy")))?;
        match policy {
            Policy::Copy => writer.write(name, reference.bytes(name)?)?,
            Policy::Provided(values) => writer.write(name, &rounded(tensor, values)?)?,
            Policy::Weighted(weights) => writer.write(name, &averaged(candidates, tensor, weights)?)?,
            Policy::Average { block } => {
                writer.write(name, &averaged(candidates, tensor, &column(coefficients, candidates.len(), *block)?)?)?;
            }
        }
        on_tensor(done + 1, tensors.len())?;
    }
    writer.finish()
}

fn column(coefficients: &[f64], n: usize, block: usize) -> Result<Vec<f64>> {
    let block_count = coefficients.len() / n;
    if block >= block_count {
        return Err(Error::input(format!("there is no block {block}, the coefficients have {block_count}")));
    }
    Ok(coefficients.iter().skip(block).step_by(block_count).copied().collect())
}

fn rounded(tensor: &TensorLayout, values: &[f64]) -> Result<Vec<u8>> {
    check(tensor)?;
    if values.len() != tensor.elements() {
        let (name, wanted, held) = (&tensor.name, tensor.elements(), values.len());
        return Err(Error::input(format!("tensor `{name}` has {wanted} elements, {held} were provided")));
    }
    let mut bytes = vec![0; values.len() * tensor.dtype.size()];
    encode_f64(tensor.dtype, values, &mut bytes);
    Ok(bytes)
}

fn check(tensor: &TensorLayout) -> Result<()> {
    if tensor.dtype.is_averageable() {
        return Ok(());
    }
    let (name, dtype) = (&tensor.name, tensor.dtype);
    Err(Error::input(format!("tensor `{name}` is {dtype}; only floating-point tensors are averaged")))
}

fn averaged(candidates: &[CheckpointFile], tensor: &TensorLayout, weights: &[f64]) -> Result<Vec<u8>> {
    check(tensor)?;
    if weights.len() != candidates.len() {
        let (n, held) = (candidates.len(), weights.len());
        return Err(Error::input(format!("{held} weights do not fit {n} candidates")));
    }
    let (dtype, size) = (tensor.dtype, tensor.dtype.size());
    let mut rows = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let other = candidate.tensor(&tensor.name)?;
        if (other.dtype, &other.shape) != (dtype, &tensor.shape) {
            return Err(Error::input(format!("tensor `{}` is not the same in every candidate", tensor.name)));
        }
        rows.push(candidate.bytes(&tensor.name)?);
    }
    let mut output = vec![0; tensor.elements() * size];
    output.par_chunks_mut(CHUNK * size).enumerate().for_each(|(chunk, output)| {
        let start = chunk * CHUNK * size;
        let parts: Vec<&[u8]> = rows.iter().map(|row| &row[start..start + output.len()]).collect();
        average_chunk(dtype, &parts, weights, output);
    });
    Ok(output)
}

fn average_chunk(dtype: Dtype, rows: &[&[u8]], weights: &[f64], output: &mut [u8]) {
    let elements = output.len() / dtype.size();
    // Starting at -0, the sum of zeros of one sign keeps it.
    let (mut sums, mut values) = (vec![-0.0; elements], vec![0.0; elements]);
    for (row, weight) in rows.iter().zip(weights) {
        decode_f64(dtype, row, &mut values);
        for (sum, value) in sums.iter_mut().zip(&values) {
            *sum += weight * value;
        }
    }
    // Narrower types are exact through the rounding of the f64 sum. An f64 has no wider sum to round from.
    if dtype == Dtype::F64 && (weights.iter().sum::<f64>() - 1.0).abs() < 1e-9 {
        keep_equal_elements(rows, &mut sums);
    }
    encode_f64(dtype, &sums, output);
}

/// Puts the common value where all candidates have the same.
fn keep_equal_elements(rows: &[&[u8]], sums: &mut [f64]) {
    let Some((first, others)) = rows.split_first() else { return };
    for (element, (sum, bytes)) in sums.iter_mut().zip(first.as_chunks::<8>().0).enumerate() {
        if others.iter().all(|row| &row[element * 8..element * 8 + 8] == bytes) {
            *sum = f64::from_le_bytes(*bytes);
        }
    }
}
