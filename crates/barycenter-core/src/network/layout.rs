//! Names, shapes and roles of a network's tensors.

use crate::data::Draws;
use crate::{Error, Result};

/// What a tensor of a checkpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Trained, and averaged.
    Parameter,
    /// Running mean of a batch norm.
    RunningMean,
    /// Running variance (unbiased) of a batch norm.
    RunningVar,
    /// Number of batches a batch norm has seen (`i64`, no dimensions).
    BatchCount,
    /// The same values as the parameter at this position among the parameters, stored a second time. A file may lack it;
    /// one that has it keeps it equal.
    Tied(usize),
    /// Nothing the network computes with: copied from the reference candidate. A file may lack it, and where it has it, any
    /// shape and element type will do.
    Carried,
}

impl Role {
    /// Whether every checkpoint must have such a tensor. `PyTorch` itself loads checkpoints without batch counts.
    pub fn is_required(self) -> bool {
        !matches!(self, Self::BatchCount | Self::Tied(_) | Self::Carried)
    }
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the state dict.
    pub name: String,
    /// Shape; empty where any will do.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

impl TensorSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Differences a message lists before it only counts.
const LISTED: usize = 5;

/// Errors unless these names and shapes are exactly the tensors of a network; the message names the first that differ.
///
/// Tensors that are not required ([`Role::is_required`]) may be missing, and a carried one may have any shape.
pub fn check_layout<'a>(
    expected: &[TensorSpec],
    found: impl IntoIterator<Item = (&'a str, &'a [usize])>,
) -> Result<()> {
    let mut differences = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let known: std::collections::HashMap<&str, &TensorSpec> =
        expected.iter().map(|spec| (spec.name.as_str(), spec)).collect();
    for (name, shape) in found {
        seen.insert(name);
        match known.get(name) {
            None => differences.push(format!("`{name}` is no tensor of the network")),
            Some(spec) if spec.role != Role::Carried && spec.shape != shape => {
                differences.push(format!("`{name}` has shape {shape:?}, the network's has {:?}", spec.shape));
            }
            Some(_) => {}
        }
    }
    let missing = expected.iter().filter(|spec| spec.role.is_required() && !seen.contains(spec.name.as_str()));
    differences.extend(missing.map(|spec| format!("`{}` {:?} is missing", spec.name, spec.shape)));
    if differences.is_empty() {
        return Ok(());
    }
    let more = differences.len().saturating_sub(LISTED);
    differences.truncate(LISTED);
    let and_more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Err(Error::input(format!("checkpoint does not fit the network: {}{and_more}", differences.join("; "))))
}

/// A fresh parameter: normal with variance `2 / fan_in` for matrices and kernels, else ones for a batch-norm scale
/// and zeros for a bias.
pub(super) fn initial(spec: &TensorSpec, seed: u64, index: u64) -> Vec<f32> {
    let Some((_, inner)) = spec.shape.split_first().filter(|(_, inner)| !inner.is_empty()) else {
        let value = if spec.name.ends_with("weight") { 1.0 } else { 0.0 };
        return vec![value; spec.len()];
    };
    let deviation = (2.0 / inner.iter().product::<usize>() as f64).sqrt();
    let mut draws = Draws::keyed(&[seed, 0x1417, index]);
    (0..spec.len()).map(|_| (deviation * draws.normal()) as f32).collect()
}

/// Collects the tensors of a network while it is put together.
#[derive(Default)]
pub(super) struct Layout {
    tensors: Vec<TensorSpec>,
    parameters: usize,
    batch_norms: usize,
}

impl Layout {
    /// Adds a parameter and returns its position among the parameters.
    pub(super) fn parameter(&mut self, name: String, shape: Vec<usize>) -> usize {
        self.tensors.push(TensorSpec { name, shape, role: Role::Parameter });
        self.parameters += 1;
        self.parameters - 1
    }

    /// Adds a second place of the parameter at this position.
    pub(super) fn tied(&mut self, name: String, parameter: usize) {
        let mut parameters = self.tensors.iter().filter(|tensor| tensor.role == Role::Parameter);
        let shape = parameters.nth(parameter).map_or_else(Vec::new, |tensor| tensor.shape.clone());
        self.tensors.push(TensorSpec { name, shape, role: Role::Tied(parameter) });
    }

    /// Adds a tensor that is copied.
    pub(super) fn carried(&mut self, name: String) {
        self.tensors.push(TensorSpec { name, shape: vec![], role: Role::Carried });
    }

    /// Adds the running statistics of a batch norm and returns its position among the batch norms.
    pub(super) fn statistics(&mut self, name: &str, channels: usize) -> usize {
        let buffers = [
            ("running_mean", vec![channels], Role::RunningMean),
            ("running_var", vec![channels], Role::RunningVar),
            ("num_batches_tracked", vec![], Role::BatchCount),
        ];
        for (buffer, shape, role) in buffers {
            self.tensors.push(TensorSpec { name: format!("{name}.{buffer}"), shape, role });
        }
        self.batch_norms += 1;
        self.batch_norms - 1
    }

    /// The tensors, in the order in which they were added.
    pub(super) fn finish(self) -> Vec<TensorSpec> {
        self.tensors
    }
}
