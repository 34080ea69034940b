use std::cell::Cell;
use std::sync::Arc;

use super::*;
use crate::Error;
use crate::data::{Augmentation, Dataset, Inputs, Normalisation, Part};
use crate::network::{Network, NetworkSpec, Statistics};

const SAMPLES: usize = 10;

fn resnet() -> Arc<dyn Network> {
    Arc::from(NetworkSpec::ResnetCifar { depth: 8, classes: 3 }.build().unwrap())
}

/// Ten images of 8x8 pixels in three classes.
fn images() -> Arc<Dataset> {
    let pixels = (0..SAMPLES * 3 * 64).map(|i| (i * 37 % 256) as u8).collect();
    let labels = (0..SAMPLES as u32).map(|sample| sample % 3).collect();
    let normalisation = Normalisation { scale: 1.0 / 255.0, mean: vec![0.5], std: vec![0.25] };
    Arc::new(Dataset::from_inputs(Inputs::U8(pixels), &[SAMPLES, 3, 8, 8], labels, normalisation).unwrap())
}

fn smoothed(label_smoothing: f64) -> Loss {
    Loss::CrossEntropy { label_smoothing }
}

fn options() -> DatasetLossOptions {
    let augmentation = Augmentation { pad: 1, flip: true };
    DatasetLossOptions { batch_size: 4, augmentation, loss: smoothed(0.0), seed: 5 }
}

fn objective(indices: Vec<usize>, options: DatasetLossOptions) -> Result<DatasetLoss> {
    DatasetLoss::new(resnet(), vec![Part { dataset: images(), indices }], options)
}

fn all() -> Vec<usize> {
    (0..SAMPLES).collect()
}

#[test]
fn an_epoch_holds_every_sample_once_and_uses_the_short_last_batch() {
    let mut objective = objective(all(), options()).unwrap();
    assert_eq!(objective.steps_per_epoch(), 3);
    let indices = |samples: &[(usize, usize)]| samples.iter().map(|(_, index)| *index).collect::<Vec<_>>();
    let mut seen: Vec<usize> = (0..3).flat_map(|batch| indices(objective.batch_samples(7, batch))).collect();
    assert_eq!(objective.batch_samples(7, 2).len(), 2);
    seen.sort_unstable();
    assert_eq!(seen, all());
}

#[test]
fn a_step_is_the_same_whatever_was_asked_before() {
    let weights = resnet().initial_parameters(1);
    let mut straight = objective(all(), options()).unwrap();
    let steps: Vec<_> = (0..5).map(|step| straight.loss_and_gradient(&weights, step).unwrap()).collect();
    let mut resumed = objective(all(), options()).unwrap();
    assert!(resumed.loss_and_gradient(&weights, 4).unwrap() == steps[4]);
    assert!(resumed.loss_and_gradient(&weights, 1).unwrap() == steps[1]);
    assert!(steps[0] != steps[3], "another epoch draws other batches");
}

#[test]
fn a_gradient_points_uphill() {
    let mut objective = objective(all(), DatasetLossOptions { loss: smoothed(0.1), ..options() }).unwrap();
    let weights = resnet().initial_parameters(2);
    let BatchLoss { loss: before, gradient, .. } = objective.loss_and_gradient(&weights, 0).unwrap();
    let mut moved = weights;
    for (weights, gradient) in moved.iter_mut().zip(&gradient) {
        for (weight, gradient) in weights.iter_mut().zip(gradient) {
            *weight -= 1e-3 * gradient;
        }
    }
    let square: f64 = gradient.iter().flatten().map(|g| f64::from(*g).powi(2)).sum();
    let fall = before - objective.loss_and_gradient(&moved, 0).unwrap().loss;
    assert!((fall / (1e-3 * square) - 1.0).abs() < 0.1, "fell by {fall}, expected {}", 1e-3 * square);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let message = |indices, options| objective(indices, options).err().expect("an error").to_string();
    assert!(message(vec![], options()).contains("no samples"));
    assert!(message(vec![SAMPLES], options()).contains("sample 10 of a dataset of 10"));
    assert!(message(all(), DatasetLossOptions { batch_size: 0, ..options() }).contains("batch size is 0"));
    assert!(message(all(), DatasetLossOptions { loss: smoothed(1.0), ..options() }).contains("label smoothing"));
    let two: Arc<dyn Network> = Arc::from(NetworkSpec::ResnetCifar { depth: 8, classes: 2 }.build().unwrap());
    let error = DatasetLoss::new(two, vec![Part::all(images())], options()).err().expect("an error");
    assert!(error.to_string().contains("label 2 of sample 2"));
    let error = message(all(), DatasetLossOptions { loss: Loss::SquaredError, ..options() });
    assert!(error.contains("SquaredError is none of a dataset with `labels`"), "{error}");
    let mlp: Arc<dyn Network> = Arc::from(NetworkSpec::Mlp { features: vec![192, 3] }.build().unwrap());
    let error = DatasetLoss::new(mlp, vec![Part::all(images())], options()).err().expect("an error");
    assert!(error.to_string().contains("[3, 8, 8]"));
}

fn recomputed(batches: Option<usize>, stop: &dyn Fn() -> bool) -> Result<Statistics> {
    let recomputation = Recomputation { batch_size: 4, augmentation: Augmentation::default(), batches, seed: 1 };
    let parameters = resnet().initial_parameters(3);
    recompute_statistics(&*resnet(), &parameters, &images(), &all(), &recomputation, stop)
}

#[test]
fn statistics_come_from_as_many_batches_as_were_asked_for() {
    assert_eq!(recomputed(None, &|| false).unwrap().batches, 3);
    assert_eq!(recomputed(Some(2), &|| false).unwrap().batches, 2);
    assert_eq!(recomputed(Some(7), &|| false).unwrap().batches, 7);
    assert!(recomputed(Some(0), &|| false).unwrap_err().to_string().contains("at least one batch"));
}

#[test]
fn a_stop_ends_a_pass_between_batches() {
    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 2
    };
    assert!(matches!(recomputed(None, &stop), Err(Error::Stopped)));
    assert_eq!(asked.get(), 3);
    let (network, statistics) = (resnet(), recomputed(None, &|| false).unwrap());
    let result = evaluate(&*network, &network.initial_parameters(3), &statistics, &images(), &all(), 4, &|| true);
    assert!(matches!(result, Err(Error::Stopped)));
}

#[test]
fn results_do_not_depend_on_the_batch_size() {
    let (network, statistics) = (resnet(), recomputed(None, &|| false).unwrap());
    let parameters = network.initial_parameters(3);
    let results =
        |batch_size| evaluate(&*network, &parameters, &statistics, &images(), &all(), batch_size, &|| false).unwrap();
    let (together, alone) = (results(SAMPLES), results(1));
    assert_eq!(together.correct, alone.correct);
    assert!(together.losses.iter().zip(&alone.losses).all(|(a, b)| (a - b).abs() < 1e-5));
    let sum: f64 = together.losses.iter().map(|loss| f64::from(*loss)).sum();
    assert!((together.mean_loss() - sum / SAMPLES as f64).abs() < 1e-12);
}
