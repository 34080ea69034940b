//! A plain training run, as a cluster would make it: SGD with momentum at a constant rate, a checkpoint each epoch.

use std::{fs::File, io::BufWriter, path::Path, sync::Arc};

use anyhow::Context as _;
use barycenter_core::{
    checkpoint::{Dtype, TensorSpec, Writer},
    data::{Augmentation, Dataset, Part},
    network::{self, Network, Role, Statistics},
    objective::{
        BatchLoss, DatasetLoss, DatasetLossOptions, Loss, Objective as _, Recomputation, SampleResults, evaluate,
        recompute_statistics,
    },
};

use crate::shapes::{self, Pictures};

const BATCH_SIZE: usize = 128;
const LEARNING_RATE: f32 = 0.1;
const MOMENTUM: f32 = 0.9;
const WEIGHT_DECAY: f32 = 5e-4;
/// Batches whose statistics a checkpoint carries.
const STATISTICS_BATCHES: usize = 10;

pub const AUGMENTATION: Augmentation = Augmentation { pad: 2, flip: true };

/// A network under training.
pub struct Training {
    network: Arc<dyn Network>,
    data: Arc<Dataset>,
    objective: DatasetLoss,
    weights: Vec<Vec<f32>>,
    velocity: Vec<Vec<f32>>,
    step: u64,
}

impl Training {
    pub fn new(network: Arc<dyn Network>, data: Arc<Dataset>, seed: u64) -> anyhow::Result<Self> {
        let weights = network.initial_parameters(seed);
        let velocity = weights.iter().map(|tensor| vec![0.0; tensor.len()]).collect();
        let options = DatasetLossOptions {
            batch_size: BATCH_SIZE,
            augmentation: AUGMENTATION,
            loss: Loss::CrossEntropy { label_smoothing: 0.0 },
            seed,
        };
        let objective = DatasetLoss::new(Arc::clone(&network), vec![Part::all(Arc::clone(&data))], options)?;
        Ok(Self { network, data, objective, weights, velocity, step: 0 })
    }

    /// Steps taken so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// One pass over the data; returns the mean loss.
    pub fn epoch(&mut self) -> anyhow::Result<f64> {
        let steps = self.objective.steps_per_epoch();
        let mut sum = 0.0;
        for _ in 0..steps {
            let BatchLoss { loss, gradient, .. } = self.objective.loss_and_gradient(&self.weights, self.step)?;
            sum += loss;
            for ((w, v), g) in self.weights.iter_mut().zip(&mut self.velocity).zip(&gradient) {
                for ((w, v), g) in w.iter_mut().zip(v).zip(g) {
                    *v = MOMENTUM * *v + g + WEIGHT_DECAY * *w;
                    *w -= LEARNING_RATE * *v;
                }
            }
            self.step += 1;
        }
        Ok(sum / steps as f64)
    }

    /// Statistics of the present weights.
    pub fn statistics(&self) -> anyhow::Result<Statistics> {
        let indices: Vec<usize> = (0..self.data.len()).collect();
        let recomputation = Recomputation {
            batch_size: BATCH_SIZE,
            augmentation: AUGMENTATION,
            batches: Some(STATISTICS_BATCHES),
            seed: self.step,
        };
        Ok(recompute_statistics(&*self.network, &self.weights, &self.data, &indices, &recomputation, &|| false)?)
    }

    /// Losses of the present weights on other data.
    pub fn evaluate(&self, statistics: &Statistics, data: &Dataset) -> anyhow::Result<SampleResults> {
        let indices: Vec<usize> = (0..data.len()).collect();
        Ok(evaluate(&*self.network, &self.weights, statistics, data, &indices, BATCH_SIZE, &|| false)?)
    }

    /// Writes the present weights as a checkpoint with the network's tensor names.
    pub fn save(&self, statistics: &Statistics, path: &Path) -> anyhow::Result<()> {
        let tensors = self.network.tensors();
        let declare = |t: &network::TensorSpec| TensorSpec {
            name: t.name.clone(),
            dtype: if t.role == Role::BatchCount { Dtype::I64 } else { Dtype::F32 },
            shape: t.shape.clone(),
        };
        let declarations = tensors.iter().map(declare).collect();
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let mut writer = Writer::new(BufWriter::new(file), declarations, &[("format".into(), "pt".into())].into())?;
        let (mut weights, mut statistics) = (self.weights.iter(), statistics.running().iter());
        for tensor in tensors {
            let values = match tensor.role {
                Role::Parameter => weights.next(),
                Role::RunningMean | Role::RunningVar => statistics.next(),
                Role::BatchCount | Role::Tied(_) | Role::Carried => None,
            };
            match values {
                Some(values) => writer.write(&tensor.name, &bytes_of(values))?,
                None => writer.write(&tensor.name, &(STATISTICS_BATCHES as i64).to_le_bytes())?,
            }
        }
        writer.finish()?;
        Ok(())
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Writes pictures as a dataset file.
pub fn save_dataset(pictures: &Pictures, path: &Path) -> anyhow::Result<()> {
    let count = pictures.labels.len();
    let declarations = vec![
        TensorSpec { name: "labels".into(), dtype: Dtype::I64, shape: vec![count] },
        TensorSpec { name: "inputs".into(), dtype: Dtype::U8, shape: vec![count, 3, shapes::SIDE, shapes::SIDE] },
    ];
    let metadata = [("scale", "1/255"), ("mean", "0.5,0.5,0.5"), ("std", "0.3,0.3,0.3")];
    let metadata = metadata.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut writer = Writer::new(BufWriter::new(file), declarations, &metadata)?;
    writer.write("labels", &pictures.labels.iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<_>>())?;
    writer.write("inputs", &pictures.inputs)?;
    writer.finish()?;
    Ok(())
}
