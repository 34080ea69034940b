//! A base model with an adapter in it.

use std::io::Write;

use super::{LowRank, check_adapter, encoded};
use crate::{
    Error, Result,
    checkpoint::{CheckpointFile, TensorLayout, TensorSpec, Writer, Written},
};

/// Writes `base` with `scale · B A` added to every weight that `adapter` adapts, rounded once to the weight's type; the rest is
/// copied. `transposed` says that the weights have their inputs along the rows.
///
/// # Errors
/// [`Error::Input`] where the adapter does not belong to the base model or a weight is no float, [`Error::Io`] where the output
/// refuses.
pub fn apply_adapter(
    base: &CheckpointFile,
    adapter: &CheckpointFile,
    scale: f64,
    transposed: bool,
    output: impl Write,
) -> Result<Written> {
    let modules = check_adapter(shapes(base), shapes(adapter), transposed)?;
    let tensors = &base.layout().tensors;
    let mut writer = Writer::new(output, tensors.iter().map(TensorSpec::from).collect(), &base.layout().metadata)?;
    for tensor in tensors {
        let Some(module) = modules.iter().find(|module| module.weight_name() == tensor.name) else {
            writer.write(&tensor.name, base.bytes(&tensor.name)?)?;
            continue;
        };
        if !tensor.dtype.is_averageable() {
            return Err(Error::input(format!("tensor `{}` is {}; adapters add to floats", tensor.name, tensor.dtype)));
        }
        let product = LowRank::read(adapter, module, scale)?;
        let delta = if transposed { product.transposed() } else { product }.delta();
        let mut values = vec![0.0; tensor.elements()];
        base.fill_f64(&tensor.name, 0, &mut values)?;
        values.iter_mut().zip(delta).for_each(|(value, delta)| *value += delta);
        writer.write(&tensor.name, &encoded(tensor.dtype, &values))?;
    }
    writer.finish()
}

fn shapes(file: &CheckpointFile) -> impl Iterator<Item = (&str, &[usize])> {
    file.layout().tensors.iter().map(|tensor: &TensorLayout| (tensor.name.as_str(), tensor.shape.as_slice()))
}
