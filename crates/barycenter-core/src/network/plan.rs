//! The memory of a training step, from a forward pass that computes nothing.

use candle_core::{DType, Device, Tensor};

use super::{Mode, Network, Weights};
use crate::Result;

/// [`Network::activation_bytes`] of a network all of whose operations can be planned; 0 for a sample that is no input.
pub(super) fn activation_bytes(network: &dyn Network, sample_shape: &[usize], batch_size: usize) -> usize {
    let planned = network.check_input(sample_shape).and_then(|()| planned_bytes(network, sample_shape, batch_size));
    planned.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

fn planned_bytes(network: &dyn Network, sample_shape: &[usize], batch_size: usize) -> Result<u64> {
    let shape = match *sample_shape {
        [channels, height, width] => vec![batch_size, height, width, channels],
        _ => [&[batch_size], sample_shape].concat(),
    };
    let inputs = Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as(shape)?;
    let weights = Weights::planned(network)?;
    network.forward(&weights, &inputs, &mut Mode::Train)?;
    Ok(weights.graph().planned_bytes())
}
