//! Whole jobs on small perceptrons: the course of a job, not the parts it is made of.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ranks;

use std::{collections::BTreeMap, sync::Arc};

use barycenter_core::{
    Error, Result,
    average::{
        AverageData, AverageOptions, Averaging, Baselines, BatchNormOptions, BatchNormPolicy, Materialise, Method,
        Outcome, Part, Phase, Progress, Rule, Silent, Snapshot, Start, State, TensorPolicy, TensorRule, TwaOptions,
    },
    blocks::Granularity,
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer},
    data::{Augmentation, Dataset, Draws, Inputs, Normalisation, split},
    fit::{Basis, Constraint, Form, Pooling},
    merge::weights::Curve,
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
    with(Method::Twa(plain()))
}

fn plain() -> TwaOptions {
    TwaOptions { learning_rate: Some(0.05), ..TwaOptions::plain(Granularity::Tensor, 4, 6) }
}

fn with(method: Method) -> AverageOptions {
    AverageOptions {
        method,
        batch_size: 32,
        augmentation: Augmentation::default(),
        loss: Loss::CrossEntropy { label_smoothing: 0.0 },
        batch_norm: BatchNormOptions { policy: BatchNormPolicy::Recompute, augment: false, batches: None },
        baselines: Baselines::All,
        guard: true,
        materialise: Materialise::Exact,
        tensors: Vec::new(),
        dtype: None,
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
        fit: vec![Part { dataset: Arc::clone(&data), indices: fit.clone() }],
        select: Part { dataset: Arc::clone(&data), indices: select },
        test: Some(Part::all(Arc::clone(&data))),
        batch_norm: Part { dataset: data, indices: fit },
    };
    let names: Vec<_> = (0..candidates.len()).map(|i| format!("candidate {i}")).collect();
    let averaging = Averaging::new(network, candidates, &names, data, options, &mut Silent)?;
    let projection = averaging.build_projection(&mut Silent)?;
    averaging.run(projection.as_ref(), state, progress)
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
        assert_eq!(resumed.fit.unwrap().best_step, undisturbed.fit.as_ref().unwrap().best_step);
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
    let still = with(Method::Twa(TwaOptions { learning_rate: Some(1e-12), ..plain() }));
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

/// Every form that goes together.
fn forms() -> Vec<Form> {
    let pooled = Pooling::Partial { strength: 0.5 };
    let form = |constraint, basis, pooling| Form { constraint, basis, pooling };
    vec![
        form(Constraint::Affine, Basis::Normalised, pooled),
        form(Constraint::Affine, Basis::Orthonormal, Pooling::None),
        form(Constraint::Convex, Basis::Normalised, Pooling::None),
        form(Constraint::Convex, Basis::Normalised, pooled),
        form(Constraint::Linear, Basis::Normalised, pooled),
        form(Constraint::Linear, Basis::Orthonormal, Pooling::None),
    ]
}

#[test]
fn every_form_learns_starts_at_uniform_and_resumes_bit_for_bit() {
    let candidates = noisy(&[0.05, 1.0, 1.0, 1.0]);
    for form in forms() {
        let options = || with(Method::Twa(TwaOptions { form, learning_rate: None, ..plain() }));
        let mut recorder = Recorder::default();
        let outcome = run(&candidates, options(), None, &mut recorder).unwrap();
        assert!(recorder.0[0].coefficients.iter().all(|a| (a - 0.25).abs() < 1e-12), "{form:?}");
        assert!(select_loss(&outcome, "twa") < select_loss(&outcome, "uniform"), "{form:?}: {:?}", outcome.methods);
        let mut stopped = StopAfter { stop_after: 11, state: None };
        assert!(matches!(run(&candidates, options(), None, &mut stopped), Err(Error::Stopped)));
        let state = State::from_bytes(&stopped.state.unwrap()).unwrap();
        let resumed = run(&candidates, options(), Some(state), &mut Silent).unwrap();
        assert_eq!(resumed.coefficients, outcome.coefficients, "{form:?}");
    }
}

#[test]
fn convex_coefficients_are_never_negative_and_linear_ones_need_not_sum_to_one() {
    let last = |constraint| {
        let form = Form { constraint, ..Form::default() };
        let mut recorder = Recorder::default();
        let twa = TwaOptions { form, learning_rate: None, epochs: 10, ..plain() };
        run(&noisy(&[0.05, 1.0, 1.0]), with(Method::Twa(twa)), None, &mut recorder).unwrap();
        recorder.0.pop().unwrap().coefficients
    };
    let sums = |a: &[f64]| -> Vec<f64> { (0..BLOCKS).map(|l| a.iter().skip(l).step_by(BLOCKS).sum()).collect() };
    let convex = last(Constraint::Convex);
    assert!(convex.iter().all(|a| *a >= 0.0), "{convex:?}");
    assert!(sums(&convex).iter().all(|sum| (sum - 1.0).abs() < 1e-9));
    assert!(sums(&last(Constraint::Linear)).iter().any(|sum| (sum - 1.0).abs() > 1e-3));
}

#[test]
fn stronger_pooling_draws_the_blocks_together() {
    let spread = |strength| {
        let form = Form { pooling: Pooling::Partial { strength }, ..Form::default() };
        let mut recorder = Recorder::default();
        let twa = TwaOptions { form, learning_rate: None, ..plain() };
        run(&noisy(&[0.05, 1.0, 1.0]), with(Method::Twa(twa)), None, &mut recorder).unwrap();
        let a = recorder.0.pop().unwrap().coefficients;
        let first = a[0..BLOCKS].iter().copied();
        first.clone().fold(f64::MIN, f64::max) - first.fold(f64::MAX, f64::min)
    };
    let (free, drawn, one) = (spread(0.0), spread(3.0), spread(1e6));
    assert!(free > drawn && drawn > one && one < 0.01, "{free} {drawn} {one}");
}

#[test]
fn a_fit_may_start_at_the_best_baseline_or_at_given_coefficients() {
    let candidates = noisy(&[0.0, 2.0, 2.0]);
    let first = |start| {
        let mut recorder = Recorder::default();
        run(&candidates, with(Method::Twa(TwaOptions { start, ..plain() })), None, &mut recorder).unwrap();
        recorder.0.swap_remove(0).coefficients
    };
    let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9);
    let single: Vec<f64> = (0..3 * BLOCKS).map(|entry| f64::from(u8::from(entry < BLOCKS))).collect();
    assert!(near(&first(Start::Best), &single), "the unspoilt candidate");
    let given: Vec<f64> = [0.5, 0.75, -0.25].iter().flat_map(|a| [*a; BLOCKS]).collect();
    assert!(near(&first(Start::Coefficients(given.clone())), &given));
    let form = Form { pooling: Pooling::Partial { strength: 1.0 }, ..Form::default() };
    let pooled = TwaOptions { form, start: Start::Coefficients(given.clone()), ..plain() };
    let mut recorder = Recorder::default();
    run(&candidates, with(Method::Twa(pooled)), None, &mut recorder).unwrap();
    assert!(near(&recorder.0[0].coefficients, &given), "{:?}", recorder.0[0].coefficients);
}

#[test]
fn a_fit_ends_when_its_patience_does() {
    // No step can help copies of one model whose noise is the data's own optimum.
    let candidates = noisy(&[0.0, 0.0, 2.0]);
    let still = |patience| TwaOptions { learning_rate: Some(1e-13), patience, ..plain() };
    let steps = |patience| {
        let outcome = run(&candidates, with(Method::Twa(still(patience))), None, &mut Silent).unwrap();
        outcome.fit.unwrap().steps
    };
    assert_eq!(steps(None), 60);
    assert!(steps(Some(2)) < 60);
}

#[test]
fn rules_report_their_own_weights_beside_the_baselines() {
    let candidates = noisy(&[0.05, 0.6, 0.3, 0.1]);
    let outcome =
        |rule| run(&candidates, AverageOptions { guard: false, ..with(Method::Rule(rule)) }, None, &mut Silent);
    for (rule, name, weights) in [
        (Rule::Uniform, "uniform", Some(vec![0.25; 4])),
        (Rule::Fixed(vec![2.0, 0.0, 1.0, 1.0]), "fixed", Some(vec![0.5, 0.0, 0.25, 0.25])),
        (Rule::Ema { decay: 0.5 }, "ema", Some(vec![0.125, 0.125, 0.25, 0.5])),
        (Rule::Schedule(Curve::Linear), "schedule", Some(vec![0.25; 4])),
        (Rule::BestSuffix, "best_suffix", None),
        (Rule::Greedy, "greedy", None),
        (Rule::LineSearch, "line_search", None),
    ] {
        let outcome = outcome(rule).unwrap();
        assert_eq!(outcome.chosen, name);
        assert!(outcome.fit.is_none());
        let a = &outcome.coefficients;
        assert!((a.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{name}: {a:?}");
        if let Some(weights) = weights {
            assert!(a.iter().zip(&weights).all(|(a, w)| (a - w).abs() < 1e-12), "{name}: {a:?}");
        }
        let own = select_loss(&outcome, name);
        match name {
            "best_suffix" => assert!(own <= select_loss(&outcome, "uniform") && own <= select_loss(&outcome, "last")),
            "line_search" => assert!(own <= select_loss(&outcome, "uniform")),
            "greedy" => assert!(own <= select_loss(&outcome, "best_single")),
            _ => {}
        }
    }
    assert!(outcome(Rule::Fixed(vec![1.0])).unwrap_err().to_string().contains("weights"));
}

#[test]
fn uniform_alone_may_stand_beside_a_method_that_is_no_baseline() {
    let candidates = noisy(&[0.05, 0.6, 0.3]);
    let names = |method| {
        let options = AverageOptions { baselines: Baselines::Uniform, ..with(method) };
        let outcome = run(&candidates, options, None, &mut Silent).unwrap();
        outcome.methods.iter().map(|m| m.method).collect::<Vec<_>>()
    };
    assert_eq!(names(Method::Twa(plain())), ["uniform", "twa"]);
    assert_eq!(names(Method::Rule(Rule::LineSearch)), ["uniform", "line_search"]);
    assert_eq!(names(Method::Rule(Rule::Greedy)), ["last", "best_single", "uniform", "best_suffix", "greedy"]);
}

#[test]
fn a_fit_may_be_written_as_it_was_fitted() {
    let (network, candidates) = (network(24), noisy(&[0.05, 1.0, 1.0]));
    let names: Vec<_> = (0..3).map(|i| format!("candidate {i}")).collect();
    let written = |bits, materialise| {
        let part = Part::all(Arc::new(dataset(200)));
        let data = AverageData { fit: vec![part.clone()], select: part.clone(), test: None, batch_norm: part };
        let twa = TwaOptions { learning_rate: Some(0.05), ..TwaOptions::plain(Granularity::Tensor, bits, 3) };
        let options = AverageOptions { guard: false, materialise, ..with(Method::Twa(twa)) };
        let averaging = Averaging::new(Arc::clone(&network), &candidates, &names, data, options, &mut Silent).unwrap();
        let projection = averaging.build_projection(&mut Silent).unwrap();
        let outcome = averaging.run(projection.as_ref(), None, &mut Silent).unwrap();
        let mut bytes = Vec::new();
        averaging.materialise(&outcome, &mut bytes, &mut Silent).unwrap();
        CheckpointFile::from_bytes(bytes).unwrap().read_f32("0.weight").unwrap()
    };
    let apart = |bits| {
        let pairs = written(bits, Materialise::Exact).into_iter().zip(written(bits, Materialise::AsFitted));
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(apart(32) < 1e-5, "{}", apart(32));
    // These tensors are small: they have eight bits where one is asked for.
    assert!(apart(1) > 1e-4, "codes move the weights: {}", apart(1));
}

#[test]
fn a_parameter_that_a_rule_copies_is_the_last_candidates_all_along() {
    let (network, candidates) = (network(24), noisy(&[0.05, 1.0, 0.3]));
    let names: Vec<_> = (0..3).map(|i| format!("candidate {i}")).collect();
    let part = Part::all(Arc::new(dataset(200)));
    let data = AverageData { fit: vec![part.clone()], select: part.clone(), test: None, batch_norm: part };
    let tensors = vec![TensorRule::new("2.*", TensorPolicy::Copy).unwrap()];
    let options = AverageOptions { tensors, guard: false, dtype: Some(Dtype::Bf16), ..options() };
    let averaging = Averaging::new(network, &candidates, &names, data, options, &mut Silent).unwrap();
    assert_eq!(averaging.blocks().names(), ["0.weight", "0.bias"]);
    let copied: Vec<_> = averaging.not_averaged().into_iter().map(|t| (t.tensor, t.policy)).collect();
    assert_eq!(copied, [("2.weight".to_owned(), "copy"), ("2.bias".to_owned(), "copy")]);
    let projection = averaging.build_projection(&mut Silent).unwrap();
    let outcome = averaging.run(projection.as_ref(), None, &mut Silent).unwrap();
    assert_eq!(outcome.coefficients.len(), 3 * 2);
    assert!(select_loss(&outcome, "twa") < select_loss(&outcome, "uniform"));
    let mut bytes = Vec::new();
    averaging.materialise(&outcome, &mut bytes, &mut Silent).unwrap();
    let merged = CheckpointFile::from_bytes(bytes).unwrap();
    let rounded = candidates[2].read_f32("2.weight").unwrap().into_iter().map(|w| half::bf16::from_f32(w).to_f32());
    assert_eq!(merged.tensor("2.weight").unwrap().dtype, Dtype::Bf16);
    assert_eq!(merged.read_f32("2.weight").unwrap(), rounded.collect::<Vec<_>>());
}

#[test]
fn training_data_beside_held_out_data_is_fitted_on_too() {
    let (network, candidates) = (network(24), noisy(&[0.05, 1.0, 1.0]));
    let names: Vec<_> = (0..3).map(|i| format!("candidate {i}")).collect();
    let (held_out, train) = (Arc::new(dataset(100)), Arc::new(dataset(300)));
    let data = AverageData {
        fit: vec![Part { dataset: held_out.clone(), indices: (0..60).collect() }, Part::all(train.clone())],
        select: Part { dataset: held_out, indices: (60..100).collect() },
        test: None,
        batch_norm: Part::all(train),
    };
    let averaging = Averaging::new(network, &candidates, &names, data, options(), &mut Silent).unwrap();
    let projection = averaging.build_projection(&mut Silent).unwrap();
    let outcome = averaging.run(projection.as_ref(), None, &mut Silent).unwrap();
    assert_eq!(outcome.fit.unwrap().steps, 6 * 360_u64.div_ceil(32));
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
