//! Whole jobs on small perceptrons: the course of a job, not the parts it is made of.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use barycenter_core::{
    Error, Result,
    average::{
        AverageData, AverageOptions, Averaging, BatchNormOptions, BatchNormPolicy, Outcome, Part, Phase, Progress,
        Silent, Snapshot, State,
    },
    blocks::Granularity,
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer},
    data::{Augmentation, Dataset, Draws, Inputs, Normalisation, split},
    fit::{Optimiser, Schedule},
    network::{Network, NetworkSpec},
    objective::Loss,
};

const FEATURES: usize = 12;
const CLASSES: usize = 4;
/// Blocks at granularity `tensor`.
const BLOCKS: usize = 4;

fn network(hidden: usize) -> Arc<dyn Network> {
    Arc::from(NetworkSpec::Mlp { features: vec![FEATURES, hidden, CLASSES] }.build().unwrap())
}

fn signed(draws: &mut Draws) -> f32 {
    draws.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0
}

fn bytes(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "made on the spot by every caller")]
fn file(tensors: Vec<(TensorSpec, Vec<u8>)>) -> Vec<u8> {
    let mut written = Vec::new();
    let specs = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    let mut writer = Writer::new(&mut written, specs, &BTreeMap::new()).unwrap();
    for (spec, data) in &tensors {
        writer.write(&spec.name, data).unwrap();
    }
    writer.finish().unwrap();
    written
}

fn spec(name: &str, dtype: Dtype, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec() }
}

/// The common weights of a network with `noise` times a noise of its own.
fn candidate_of(network: &dyn Network, noise: f32, seed: u64) -> CheckpointFile {
    let mut draws = Draws::keyed(&[seed, 0, 0]);
    let tensors = network.tensors().iter().zip(network.initial_parameters(3)).map(|(tensor, weights)| {
        let values: Vec<f32> = weights.iter().map(|weight| weight + noise * signed(&mut draws)).collect();
        (spec(&tensor.name, Dtype::F32, &tensor.shape), bytes(values))
    });
    CheckpointFile::from_bytes(file(tensors.collect())).unwrap()
}

fn noisy(noises: &[f32]) -> Vec<CheckpointFile> {
    let network = network(24);
    noises.iter().zip(100..).map(|(noise, seed)| candidate_of(network.as_ref(), *noise, seed)).collect()
}

/// The class that the common weights give an input.
fn label(weights: &[Vec<f32>], input: &[f32]) -> u32 {
    let layer = |w: &[f32], b: &[f32], x: &[f32]| -> Vec<f32> {
        w.chunks_exact(x.len()).zip(b).map(|(w, b)| b + w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>()).collect()
    };
    let hidden: Vec<f32> = layer(&weights[0], &weights[1], input).into_iter().map(|v| v.max(0.0)).collect();
    let logits = layer(&weights[2], &weights[3], &hidden);
    logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32
}

/// Data labelled by the common weights, so that noise can only hurt.
fn dataset(samples: usize) -> Dataset {
    let mut draws = Draws::keyed(&[99, 0, 0]);
    let inputs: Vec<f32> = (0..samples * FEATURES).map(|_| signed(&mut draws)).collect();
    let weights = network(24).initial_parameters(3);
    let labels = inputs.chunks_exact(FEATURES).map(|x| label(&weights, x)).collect();
    let normalisation = Normalisation { scale: 1.0, mean: vec![0.0], std: vec![1.0] };
    Dataset::from_inputs(Inputs::F32(inputs), &[samples, FEATURES], labels, normalisation).unwrap()
}

fn options() -> AverageOptions {
    AverageOptions {
        granularity: Granularity::Tensor,
        bits: 4,
        optimiser: Optimiser::AdamW { betas: [0.9, 0.999], epsilon: 1e-8, weight_decay: 0.0 },
        learning_rate: 0.05,
        schedule: Schedule::Cosine { warm_up: 0.2 },
        epochs: 6,
        batch_size: 32,
        history_every: 1,
        augmentation: Augmentation::default(),
        loss: Loss::CrossEntropy { label_smoothing: 0.0 },
        batch_norm: BatchNormOptions { policy: BatchNormPolicy::Recompute, augment: false, batches: None },
        guard: true,
        seed: 5,
    }
}

fn run(
    candidates: &[CheckpointFile],
    options: AverageOptions,
    state: Option<State>,
    progress: &mut dyn Progress,
) -> Result<Outcome> {
    let network = network(24);
    let data = Arc::new(dataset(400));
    let (fit, select) = split(data.len(), 0.25, 1)?;
    let data = AverageData {
        fit: Part { dataset: Arc::clone(&data), indices: fit.clone() },
        select: Part { dataset: Arc::clone(&data), indices: select },
        test: Some(Part::all(Arc::clone(&data))),
        batch_norm: Part { dataset: data, indices: fit },
    };
    let names: Vec<_> = (0..candidates.len()).map(|i| format!("candidate {i}")).collect();
    let averaging = Averaging::new(network, candidates, &names, data, options, &mut Silent)?;
    let projection = averaging.build_projection(&mut Silent)?;
    averaging.run(&projection, state, progress)
}

/// Keeps the state after `stop_after` steps and stops there.
struct StopAfter {
    stop_after: u64,
    state: Option<Vec<u8>>,
}

impl Progress for StopAfter {
    fn report(&mut self, phase: Phase, done: u64, _total: u64) -> Result<()> {
        if phase == Phase::Fit && done == self.stop_after { Err(Error::Stopped) } else { Ok(()) }
    }

    fn resumable(&mut self, state: &dyn Fn() -> Vec<u8>) {
        self.state = Some(state());
    }
}

/// Keeps every snapshot.
#[derive(Default)]
struct Recorder(Vec<Snapshot>);

impl Progress for Recorder {
    fn report(&mut self, _phase: Phase, _done: u64, _total: u64) -> Result<()> {
        Ok(())
    }

    fn snapshot(&mut self, snapshot: Snapshot) {
        self.0.push(snapshot);
    }
}

fn select_loss(outcome: &Outcome, method: &str) -> f64 {
    outcome.methods.iter().find(|m| m.method == method).unwrap().select.loss
}

#[test]
fn a_job_stopped_anywhere_and_resumed_ends_with_the_bits_of_one_that_was_not() {
    let candidates = noisy(&[0.1, 0.3, 0.5, 0.2]);
    let undisturbed = run(&candidates, options(), None, &mut Silent).unwrap();
    for stop_after in [1, 9, 10, 11, 59] {
        let mut stopped = StopAfter { stop_after, state: None };
        assert!(matches!(run(&candidates, options(), None, &mut stopped), Err(Error::Stopped)));
        let state = State::from_bytes(&stopped.state.unwrap()).unwrap();
        let resumed = run(&candidates, options(), Some(state), &mut Silent).unwrap();
        assert_eq!(resumed.coefficients, undisturbed.coefficients, "stopped after {stop_after}");
        assert_eq!(resumed.best_step, undisturbed.best_step);
    }
}

#[test]
fn uneven_candidates_are_weighed_by_their_worth() {
    let outcome = run(&noisy(&[0.05, 1.0, 1.0, 1.0]), options(), None, &mut Silent).unwrap();
    assert!(select_loss(&outcome, "twa") < select_loss(&outcome, "uniform"), "{:?}", outcome.methods);
    let [low, high] = outcome.methods.last().unwrap().select_difference_from_uniform;
    assert!(low <= high && high < 0.0, "{low} {high}");
}

#[test]
fn the_fit_starts_at_the_uniform_average() {
    let mut recorder = Recorder::default();
    let outcome = run(&noisy(&[0.1, 0.3, 0.5]), options(), None, &mut recorder).unwrap();
    let start = &recorder.0[0];
    assert_eq!(start.step, 0);
    assert!(start.coefficients.iter().all(|a| (a - 1.0 / 3.0).abs() < 1e-12));
    let uniform = select_loss(&outcome, "uniform");
    assert!((start.select_loss.unwrap() - uniform).abs() < 1e-6 * uniform);
}

#[test]
fn coefficients_sum_to_one_in_every_block_of_every_snapshot() {
    let mut recorder = Recorder::default();
    run(&noisy(&[0.1, 0.3, 0.5]), options(), None, &mut recorder).unwrap();
    assert_eq!(recorder.0.len(), 1 + 6 * 10, "one a step and one for the start");
    for snapshot in &recorder.0 {
        for block in 0..BLOCKS {
            let sum: f64 = snapshot.coefficients.iter().skip(block).step_by(BLOCKS).sum();
            assert!((sum - 1.0).abs() < 1e-9, "step {}: {sum}", snapshot.step);
        }
    }
}

#[test]
#[expect(clippy::float_cmp, reason = "a member of one has exactly the whole weight")]
fn the_guard_returns_a_baseline_that_beats_the_fit() {
    // A vanishing learning rate keeps the fit at the uniform average, which noise has ruined.
    let still = AverageOptions { learning_rate: 1e-12, ..options() };
    let candidates = noisy(&[0.0, 2.0, 2.0, 2.0]);
    let guarded = run(&candidates, still.clone(), None, &mut Silent).unwrap();
    assert_ne!(guarded.chosen, "twa");
    assert!(guarded.coefficients.iter().all(|a| *a == 0.0 || *a == 1.0), "the unspoilt candidate alone is best");
    let unguarded = run(&candidates, AverageOptions { guard: false, ..still }, None, &mut Silent).unwrap();
    assert_eq!(unguarded.chosen, "twa");
}

#[test]
fn the_result_is_never_worse_than_any_baseline_on_the_select_part() {
    let outcome = run(&noisy(&[0.2, 0.4, 0.1]), options(), None, &mut Silent).unwrap();
    let chosen = select_loss(&outcome, outcome.chosen);
    assert!(outcome.methods.iter().all(|method| chosen <= method.select.loss), "{:?}", outcome.methods);
}

#[test]
fn equal_candidates_average_to_themselves_with_finite_coefficients() {
    let network = network(24);
    let candidates: Vec<_> = (0..3).map(|_| candidate_of(network.as_ref(), 0.1, 7)).collect();
    let outcome = run(&candidates, options(), None, &mut Silent).unwrap();
    assert!(outcome.coefficients.iter().all(|a| (0.0..=1.0).contains(a)), "{:?}", outcome.coefficients);
}

#[test]
fn a_candidate_of_another_network_is_refused_by_the_tensor_that_differs() {
    let candidates = [candidate_of(network(24).as_ref(), 0.1, 1), candidate_of(network(25).as_ref(), 0.1, 1)];
    let error = run(&candidates, options(), None, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("candidate 1") && error.contains("`0.bias` has shape [25]"), "{error}");
}
