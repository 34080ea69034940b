//! Samples out of one or several datasets.

use std::sync::Arc;

use candle_core::Tensor;

use super::{Augmentation, Batch, Dataset, Epoch, Labels};
use crate::{Error, Result};

/// Some samples of a dataset.
#[derive(Clone)]
pub struct Part {
    /// The dataset.
    pub dataset: Arc<Dataset>,
    /// Indices of the samples, in the order they are read.
    pub indices: Vec<usize>,
}

impl Part {
    /// All samples of a dataset.
    pub fn all(dataset: Arc<Dataset>) -> Self {
        let indices = (0..dataset.len()).collect();
        Self { dataset, indices }
    }
}

/// A sample of several parts: the part's position, and the sample's index in its dataset.
pub(crate) type Sample = (usize, usize);

/// Every sample of these parts, part after part.
pub(crate) fn samples(parts: &[Part]) -> Vec<Sample> {
    let of_part = |(at, part): (usize, &Part)| part.indices.iter().map(move |index| (at, *index)).collect::<Vec<_>>();
    parts.iter().enumerate().flat_map(of_part).collect()
}

/// The batch of these samples, those of one part together, parts in order.
pub(crate) fn batch(parts: &[Part], samples: &[Sample], augmentation: Augmentation, epoch: Epoch) -> Result<Batch> {
    let mut batches = Vec::with_capacity(parts.len());
    for (at, part) in parts.iter().enumerate() {
        let indices: Vec<usize> = samples.iter().filter(|(of, _)| *of == at).map(|(_, index)| *index).collect();
        if !indices.is_empty() {
            batches.push(part.dataset.batch(&indices, augmentation, epoch)?);
        }
    }
    if batches.len() == 1 {
        return Ok(batches.swap_remove(0));
    }
    let inputs: Vec<&Tensor> = batches.iter().map(|batch| &batch.inputs).collect();
    let labels: Vec<&Labels> = batches.iter().map(|batch| &batch.labels).collect();
    Ok(Batch { inputs: Tensor::cat(&inputs, 0)?, labels: Labels::joined(&labels)? })
}

/// Errors where the samples of two parts are not of one kind and shape.
pub(crate) fn check_alike(parts: &[Part]) -> Result<()> {
    let [first, others @ ..] = parts else {
        return Err(Error::input("no samples to draw batches from"));
    };
    let differs = |part: &&Part| {
        part.dataset.kind() != first.dataset.kind() || part.dataset.sample_shape() != first.dataset.sample_shape()
    };
    match others.iter().find(differs) {
        None => Ok(()),
        Some(part) => {
            let (a, b) = (first.dataset.sample_shape(), part.dataset.sample_shape());
            Err(Error::input(format!("datasets that are fitted on together differ in kind or shape: {a:?}, {b:?}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Inputs, Normalisation};

    fn part(first: u8, count: usize, indices: &[usize]) -> Part {
        let inputs = Inputs::U8((0..2 * count as u8).map(|value| first + value).collect());
        let labels = (0..count as u32).map(|label| label + u32::from(first)).collect();
        let dataset = Dataset::from_inputs(inputs, &[count, 2], labels, Normalisation::default()).unwrap();
        Part { dataset: Arc::new(dataset), indices: indices.to_vec() }
    }

    #[test]
    fn a_batch_of_two_datasets_holds_the_samples_of_both_with_their_labels() {
        let parts = [part(0, 4, &[1, 3]), part(100, 3, &[0, 2])];
        assert_eq!(samples(&parts), [(0, 1), (0, 3), (1, 0), (1, 2)]);
        let drawn = batch(&parts, &[(1, 2), (0, 3), (1, 0)], Augmentation::default(), Epoch::default()).unwrap();
        assert_eq!(drawn.labels, Labels::Classes([3, 102, 100].into()));
        let alone =
            |part: &Part, index| part.dataset.batch(&[index], Augmentation::default(), Epoch::default()).unwrap();
        let rows: Vec<Vec<f32>> = drawn.inputs.to_vec2().unwrap();
        let wanted = [alone(&parts[0], 3), alone(&parts[1], 2), alone(&parts[1], 0)];
        for (row, wanted) in rows.iter().zip(wanted) {
            assert_eq!(*row, wanted.inputs.to_vec2::<f32>().unwrap()[0]);
        }
    }

    #[test]
    fn datasets_of_two_shapes_are_not_fitted_together() {
        let other =
            Dataset::from_inputs(Inputs::U8(vec![0; 6]), &[2, 3], vec![0, 0], Normalisation::default()).unwrap();
        let parts = [part(0, 4, &[0]), Part::all(Arc::new(other))];
        assert!(check_alike(&parts).unwrap_err().to_string().contains("[2], [3]"));
        assert!(check_alike(&parts[..1]).is_ok());
    }
}
