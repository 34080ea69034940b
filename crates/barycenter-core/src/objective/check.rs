//! Whether network, dataset and options belong together, found before a batch is drawn.

use crate::data::{Augmentation, Dataset, DatasetKind};
use crate::network::Network;
use crate::{Error, Result};

/// Errors where samples of this kind and shape (`[channels, height, width]`, `[features]` or `[positions]`) are no input of
/// the network, or have another number of targets than it has outputs.
pub fn check_kind(network: &dyn Network, kind: DatasetKind, sample_shape: &[usize]) -> Result<()> {
    match (kind, network.reads_tokens()) {
        (DatasetKind::Tokens, false) => {
            return Err(Error::input("the dataset has `tokens`, the network takes `inputs`"));
        }
        (DatasetKind::Labels | DatasetKind::Targets { .. }, true) => {
            return Err(Error::input("the dataset has `inputs`, the network takes `tokens`"));
        }
        _ => {}
    }
    network.check_input(sample_shape)?;
    match kind {
        DatasetKind::Targets { count } if count != network.outputs() => {
            let outputs = network.outputs();
            Err(Error::input(format!("`targets` has {count} numbers a sample, the network gives {outputs}")))
        }
        _ => Ok(()),
    }
}

/// Errors where samples are no input of the network, a label is no class, an index is no sample, or a batch is empty.
pub(super) fn samples(network: &dyn Network, dataset: &Dataset, indices: &[usize], batch_size: usize) -> Result<()> {
    check_kind(network, dataset.kind(), dataset.sample_shape())?;
    dataset.check_labels(network.outputs())?;
    if batch_size == 0 {
        return Err(Error::input("batch size is 0"));
    }
    if indices.is_empty() {
        return Err(Error::input("no samples to draw batches from"));
    }
    match indices.iter().find(|index| **index >= dataset.len()) {
        Some(index) => Err(Error::input(format!("sample {index} of a dataset of {}", dataset.len()))),
        None => Ok(()),
    }
}

/// Errors where something other than images is to be cropped or flipped.
pub(super) fn augmentation(augmentation: Augmentation, dataset: &Dataset) -> Result<()> {
    let shape = dataset.sample_shape();
    if augmentation == Augmentation::default() || shape.len() == 3 {
        return Ok(());
    }
    Err(Error::input(format!("augmentation is for images; a sample has shape {shape:?}")))
}
