//! Averages of low-rank adapters (`LoRA`, Hu et al. 2021), exact: coefficients weigh the products `s B A`, not their factors.
//!
//! The sum `Σ_i a_i s_i B_i A_i` is itself a product, of the factors side by side, with rank at most `Σ_i r_i`. It is given as the
//! whole matrix (*delta*), or as an adapter again, cut to a rank by a truncated singular value decomposition, which is the
//! nearest matrix of that rank (Eckart and Young 1936). Averages of the factors apart would be neither.

mod apply;
mod low_rank;
mod modules;

use std::{collections::BTreeMap, io::Write};

pub use self::{
    apply::apply_adapter,
    low_rank::{LowRank, Truncated},
    modules::{AdaptedModule, adapted_modules, check_adapter},
};
use super::weighted_values;
use crate::{
    Error, Result,
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer, Written, numbers::encode_f64},
};

/// What an average of adapters becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterGoal {
    /// An adapter of this rank with scale 1, under the names of the candidates' factors.
    Adapter {
        /// Columns of `B`.
        rank: usize,
    },
    /// What is to be added to the base model's weights: one matrix a module, `MODULE.weight`.
    Delta {
        /// Inputs along the rows, as GPT-2's layers store their weights (`fan_in_fan_out`).
        transposed: bool,
    },
}

/// What an average of adapters came to.
#[derive(Clone, Debug)]
pub struct MergedAdapters {
    /// The file.
    pub written: Written,
    /// The modules, each with the Frobenius norm of what its rank lost over that of the whole.
    pub modules: Vec<(String, f64)>,
    /// The same over all modules together.
    pub relative_error: f64,
}

/// A tensor to write, with its numbers.
type Filled = (TensorSpec, Vec<f64>);

/// The weights of the candidates, for a module or, without one, for the tensors that are no factors.
pub type WeightsOf<'a> = dyn Fn(Option<&AdaptedModule>) -> Result<Vec<f64>> + 'a;

/// Averages adapters, each with its own `scale`; tensors besides the factors are averaged like any others, or copied from the last
/// candidate where they are no floats. `dtype` is the element type of the result, that of the last candidate's tensors where absent. One module is
/// held at a time in f64, and the result.
///
/// # Errors
/// [`Error::Input`] naming the candidate, by `names`, and the tensor that does not fit; [`Error::Io`] where the output refuses.
pub fn merge_adapters(
    candidates: &[(CheckpointFile, f64)],
    names: &[String],
    weights_of: &WeightsOf<'_>,
    goal: AdapterGoal,
    dtype: Option<Dtype>,
    output: impl Write,
) -> Result<MergedAdapters> {
    let Some((last, _)) = candidates.last() else { return Err(Error::input("there is no candidate")) };
    let modules = adapted_modules(last)?;
    for ((candidate, _), name) in candidates.iter().zip(names) {
        check_names(last, candidate, name)?;
    }
    let (mut filled, mut errors): (Vec<Filled>, _) = (Vec::new(), Vec::new());
    let (mut whole, mut lost) = (0.0, 0.0);
    for module in &modules {
        let weights = weights_of(Some(module))?;
        let part = |((file, scale), weight): (&(CheckpointFile, f64), &f64)| {
            Ok((*weight, LowRank::read(file, module, *scale)?))
        };
        let sum = LowRank::sum(&candidates.iter().zip(&weights).map(part).collect::<Result<Vec<_>>>()?)?;
        let dtype = dtype.unwrap_or(last.tensor(&module.b)?.dtype);
        let relative_error = fill(module, &sum, goal, dtype, &mut filled);
        let square = sum.square();
        (whole, lost) = (whole + square, lost + square * relative_error * relative_error);
        errors.push((module.module.clone(), relative_error));
    }
    let relative_error = if whole > 0.0 { (lost / whole).sqrt() } else { 0.0 };
    let written = write(candidates, &weights_of(None)?, &modules, filled, dtype, output)?;
    Ok(MergedAdapters { written, modules: errors, relative_error })
}

/// Adds the tensors of a module; returns what its rank lost.
fn fill(module: &AdaptedModule, sum: &LowRank, goal: AdapterGoal, dtype: Dtype, filled: &mut Vec<Filled>) -> f64 {
    let (outputs, inputs) = sum.shape();
    let spec = |name: &str, shape: [usize; 2]| TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec() };
    match goal {
        AdapterGoal::Adapter { rank } => {
            let Truncated { nearest, relative_error } = sum.truncated(rank);
            let (b, a) = nearest.factors();
            filled.push((spec(&module.a, [rank, inputs]), a));
            filled.push((spec(&module.b, [outputs, rank]), b));
            relative_error
        }
        AdapterGoal::Delta { transposed } => {
            let name = module.weight_name();
            let filled_delta = if transposed {
                (spec(&name, [inputs, outputs]), sum.transposed().delta())
            } else {
                (spec(&name, [outputs, inputs]), sum.delta())
            };
            filled.push(filled_delta);
            0.0
        }
    }
}

/// Writes the modules' tensors, then all others.
fn write(
    candidates: &[(CheckpointFile, f64)],
    weights: &[f64],
    modules: &[AdaptedModule],
    filled: Vec<Filled>,
    dtype: Option<Dtype>,
    output: impl Write,
) -> Result<Written> {
    let (last, _) = &candidates[candidates.len() - 1];
    let is_factor = |name: &str| modules.iter().any(|module| module.a == name || module.b == name);
    let others: Vec<_> = last.layout().tensors.iter().filter(|tensor| !is_factor(&tensor.name)).collect();
    let spec = |tensor: &&crate::checkpoint::TensorLayout| {
        let dtype = dtype.filter(|_| tensor.dtype.is_averageable()).unwrap_or(tensor.dtype);
        TensorSpec { dtype, ..TensorSpec::from(*tensor) }
    };
    let specs: Vec<TensorSpec> = filled.iter().map(|(spec, _)| spec.clone()).chain(others.iter().map(spec)).collect();
    let metadata: BTreeMap<String, String> = last.layout().metadata.clone();
    let mut writer = Writer::new(output, specs.clone(), &metadata)?;
    for (spec, values) in filled {
        writer.write(&spec.name, &encoded(spec.dtype, &values))?;
    }
    let files: Vec<&CheckpointFile> = candidates.iter().map(|(file, _)| file).collect();
    for (tensor, spec) in others.iter().zip(&specs[specs.len() - others.len()..]) {
        if tensor.dtype.is_averageable() {
            let values = weighted_values(&files, &tensor.name, weights)?;
            writer.write(&spec.name, &encoded(spec.dtype, &values))?;
        } else {
            writer.write(&spec.name, last.bytes(&tensor.name)?)?;
        }
    }
    writer.finish()
}

fn encoded(dtype: Dtype, values: &[f64]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.size()];
    encode_f64(dtype, values, &mut bytes);
    bytes
}

/// Ranks may differ between candidates, names may not.
fn check_names(last: &CheckpointFile, candidate: &CheckpointFile, name: &str) -> Result<()> {
    let names = |file: &CheckpointFile| -> Vec<String> {
        let mut names: Vec<_> = file.layout().tensors.iter().map(|tensor| tensor.name.clone()).collect();
        names.sort();
        names
    };
    let (ours, theirs) = (names(last), names(candidate));
    let differs =
        |here: &[String], there: &[String]| here.iter().find(|name| there.binary_search(name).is_err()).cloned();
    if let Some(tensor) = differs(&ours, &theirs) {
        return Err(Error::input(format!("candidate `{name}` lacks `{tensor}`, which the last one has")));
    }
    match differs(&theirs, &ours) {
        Some(tensor) => Err(Error::input(format!("candidate `{name}` has `{tensor}`, which the last one lacks"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
