//! The parameters a forward pass works on.

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use super::Network;
use crate::ops::read;
use crate::{Error, Result};

/// The parameters of a network as tensors, in the order of [`Network::parameters`].
pub struct Weights {
    parameters: Vec<Tensor>,
}

impl Weights {
    /// Parameters whose gradient is wanted. Errors where number or sizes differ from the network's.
    pub fn trained(network: &dyn Network, parameters: &[Vec<f32>]) -> Result<Self> {
        let frozen = Self::frozen(network, parameters)?;
        let tracked = frozen.parameters.iter().map(|tensor| Ok(Var::from_tensor(tensor)?.into_inner()));
        Ok(Self { parameters: tracked.collect::<Result<_>>()? })
    }

    /// Parameters for forward passes only: no graph is recorded. Errors where number or sizes differ from the network's.
    pub fn frozen(network: &dyn Network, parameters: &[Vec<f32>]) -> Result<Self> {
        let specs = network.parameters();
        if specs.len() != parameters.len() {
            let message = format!("{} parameters given, the network has {}", parameters.len(), specs.len());
            return Err(Error::input(message));
        }
        let tensors = specs.iter().zip(parameters).map(|(spec, values)| {
            if values.len() != spec.len() {
                let message =
                    format!("`{}` has {} elements, the network's has {}", spec.name, values.len(), spec.len());
                return Err(Error::input(message));
            }
            Ok(Tensor::from_slice(values, spec.shape.as_slice(), &Device::Cpu)?)
        });
        Ok(Self { parameters: tensors.collect::<Result<_>>()? })
    }

    /// The parameter at this position.
    pub(super) fn parameter(&self, index: usize) -> &Tensor {
        &self.parameters[index]
    }

    /// The gradient of every parameter, row-major, in order. Errors where the graph never reached a parameter.
    pub fn gradients(&self, store: &GradStore) -> Result<Vec<Vec<f32>>> {
        let gradients = self.parameters.iter().enumerate().map(|(index, parameter)| match store.get(parameter) {
            Some(gradient) => Ok(read(&gradient.contiguous()?, <[f32]>::to_vec)?),
            None => Err(candle_core::Error::Msg(format!("no gradient reached parameter {index}")).into()),
        });
        gradients.collect()
    }
}
