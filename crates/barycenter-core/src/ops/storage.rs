//! The numbers inside a candle tensor.

use candle_core::{CpuStorage, Device, Layout, Result, Storage, Tensor, bail};

/// The elements of a contiguous `f32` operand, in row-major order.
pub(super) fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => bail!("operand of shape {:?} is not contiguous", layout.dims()),
    }
}

/// Calls `use_elements` with the elements of a contiguous `f32` tensor on the CPU, in row-major order and without a copy.
pub fn read<R>(tensor: &Tensor, use_elements: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => Ok(use_elements(elements(cpu, layout)?)),
        _ => bail!("operand lies on another device than the CPU"),
    }
}

/// A CPU tensor that owns these elements.
pub(super) fn tensor(elements: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(elements, shape, &Device::Cpu)
}
