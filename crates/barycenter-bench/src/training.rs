//! Training of small networks, for candidates of our own making.

use std::{collections::BTreeMap, sync::Arc};

use barycenter_core::{
    Result,
    average::Part,
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer},
    data::Augmentation,
    network::{Network, Role},
    objective::{DatasetLoss, DatasetLossOptions, Loss, Objective as _},
};

const MOMENTUM: f32 = 0.9;

/// A network under training by SGD with momentum.
pub struct Training {
    network: Arc<dyn Network>,
    objective: DatasetLoss,
    weights: Vec<Vec<f32>>,
    velocity: Vec<Vec<f32>>,
    step: u64,
}

impl Training {
    /// Starts at these weights.
    pub fn new(network: Arc<dyn Network>, data: Part, loss: Loss, weights: Vec<Vec<f32>>, seed: u64) -> Result<Self> {
        let options = DatasetLossOptions { batch_size: 32, augmentation: Augmentation::default(), loss, seed };
        let objective = DatasetLoss::new(Arc::clone(&network), vec![data], options)?;
        let velocity = weights.iter().map(|tensor| vec![0.0; tensor.len()]).collect();
        Ok(Self { network, objective, weights, velocity, step: 0 })
    }

    /// Makes one pass; `rate` is told the part of all passes that is over.
    pub fn epoch(&mut self, rate: impl Fn(f64) -> f64, epochs: u64) -> Result<()> {
        let all = (epochs * self.objective.steps_per_epoch()) as f64;
        for _ in 0..self.objective.steps_per_epoch() {
            let rate = rate(self.step as f64 / all) as f32;
            let gradient = self.objective.loss_and_gradient(&self.weights, self.step)?.gradient;
            for ((w, v), g) in self.weights.iter_mut().zip(&mut self.velocity).zip(&gradient) {
                for ((w, v), g) in w.iter_mut().zip(v).zip(g) {
                    *v = MOMENTUM * *v + g;
                    *w -= rate * *v;
                }
            }
            self.step += 1;
        }
        Ok(())
    }

    /// The weights now.
    pub fn weights(&self) -> &[Vec<f32>] {
        &self.weights
    }

    /// The weights as a checkpoint in memory.
    pub fn checkpoint(&self) -> Result<CheckpointFile> {
        checkpoint(&*self.network, &self.weights)
    }
}

/// Weights of a network without running statistics, as a checkpoint in memory.
pub fn checkpoint(network: &dyn Network, weights: &[Vec<f32>]) -> Result<CheckpointFile> {
    let parameters: Vec<_> = network.tensors().iter().filter(|tensor| tensor.role == Role::Parameter).collect();
    let spec = |t: &&barycenter_core::network::TensorSpec| TensorSpec {
        name: t.name.clone(),
        dtype: Dtype::F32,
        shape: t.shape.clone(),
    };
    let mut written = Vec::new();
    let mut writer = Writer::new(&mut written, parameters.iter().map(spec).collect(), &BTreeMap::new())?;
    for (tensor, values) in parameters.iter().zip(weights) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.write(&tensor.name, &bytes)?;
    }
    writer.finish()?;
    CheckpointFile::from_bytes(written)
}
