//! The parameters a forward pass works on.

use candle_core::{DType, Device, Tensor};

use super::Network;
use crate::ops::Graph;
use crate::{Error, Result};

/// The parameters of a network as tensors, in the order of [`Network::parameters`].
pub struct Weights {
    parameters: Vec<Tensor>,
    graph: Graph,
}

impl Weights {
    /// Parameters whose gradient is wanted. Errors where number or sizes differ from the network's.
    pub fn trained(network: &dyn Network, parameters: &[Vec<f32>]) -> Result<Self> {
        let Self { parameters, .. } = Self::frozen(network, parameters)?;
        let graph = Graph::tracking(&parameters);
        Ok(Self { parameters, graph })
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
        Ok(Self { parameters: tensors.collect::<Result<_>>()?, graph: Graph::untracked() })
    }

    /// Parameters that have shapes and no numbers, on a graph that finds the memory of a step and computes nothing.
    pub(super) fn planned(network: &dyn Network) -> Result<Self> {
        let nothing = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        let tensors = network.parameters().into_iter().map(|spec| Ok(nothing.broadcast_as(spec.shape.as_slice())?));
        let parameters = tensors.collect::<Result<Vec<_>>>()?;
        let graph = Graph::planning(&parameters);
        Ok(Self { parameters, graph })
    }

    /// The parameter at this position.
    pub(super) fn parameter(&self, index: usize) -> &Tensor {
        &self.parameters[index]
    }

    /// The record of what a forward pass made from the parameters.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The gradient of every parameter, row-major, in order, given that of `output`. Errors where a parameter has none.
    pub fn gradients(&self, output: &Tensor, gradient: Vec<f32>) -> Result<Vec<Vec<f32>>> {
        let mut gradients = self.graph.backward(output, gradient)?;
        let gradients = self.parameters.iter().enumerate().map(|(index, parameter)| match gradients.take(parameter) {
            Some(gradient) => Ok(gradient),
            None => Err(candle_core::Error::Msg(format!("no gradient reached parameter {index}")).into()),
        });
        gradients.collect()
    }
}
