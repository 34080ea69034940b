//! The numbers inside a candle tensor.

use candle_core::{DType, Device, Result, Storage, Tensor, bail};

/// Calls `use_elements` with the elements of a contiguous `f32` tensor on the CPU, in row-major order and without a copy.
pub fn read<R>(tensor: &Tensor, use_elements: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(cpu) = &*storage else { bail!("operand lies on another device than the CPU") };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(use_elements(&cpu.as_slice::<f32>()?[start..end])),
        None => bail!("operand of shape {:?} is not contiguous", layout.dims()),
    }
}

/// The elements of a `u32` tensor on the CPU, in row-major order.
pub fn read_tokens(tensor: &Tensor) -> Result<Vec<u32>> {
    if tensor.dtype() != DType::U32 {
        bail!("tokens are {:?}, they must be u32", tensor.dtype());
    }
    tensor.flatten_all()?.to_vec1()
}

/// [`read`] of two tensors at a time.
pub(super) fn read_two<R>(
    first: &Tensor,
    second: &Tensor,
    use_elements: impl FnOnce(&[f32], &[f32]) -> R,
) -> Result<R> {
    read(first, |first| read(second, |second| use_elements(first, second)))?
}

/// A CPU tensor that owns these elements.
pub(super) fn tensor(elements: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(elements, shape, &Device::Cpu)
}
