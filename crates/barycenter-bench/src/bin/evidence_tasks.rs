//! What the defaults are worth on two tasks of our own making, and beside a run whose rate decayed.
//!
//! `cargo run --release -p barycenter-bench --bin evidence_tasks ROOT OUTPUT [seeds]`
//!
//! - `fine_tunes`: a perceptron trained on one labelling, then twelve fine-tunes on a shifted one that differ in rate and length;
//!   one of them is far too fast. No batch norm.
//! - `language`: a GPT-2 of two blocks on the bytes of the documents under ROOT, twelve checkpoints of one run at a constant rate.
//! - `language, decayed`: the same run, the rate of its second half decaying to 0 in a line: one model, no averaging.
//!
//! OUTPUT is a JSON list of rows `{task, method, settings, seed, select_loss, test_loss, test_accuracy, chosen}`.

use std::{path::Path, sync::Arc};

use barycenter_bench::{evidence::default_twa, training::Training};
use barycenter_core::{
    Error, Result,
    average::{
        AverageData, AverageOptions, Averaging, Baselines, BatchNormOptions, BatchNormPolicy, Materialise, Method,
        Part, Silent, Start,
    },
    checkpoint::CheckpointFile,
    data::{Augmentation, Dataset, Draws, Inputs, Normalisation},
    network::{Gpt2Sizes, Network, NetworkSpec, Statistics},
    objective::{Loss, evaluate},
};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: barycenter_allocator::MiMalloc = barycenter_allocator::MiMalloc;

const CANDIDATES: u64 = 12;
const FEATURES: usize = 24;
const CLASSES: usize = 6;
/// Bytes of text a sample: 32 positions and the byte after them.
const ROW: usize = 33;
const EPOCHS: u64 = 40;

fn main() -> Result<()> {
    barycenter_allocator::keep_between_steps();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, output, rest @ ..] = arguments.as_slice() else {
        return Err(Error::input("name the folder of the documents, and the file of rows"));
    };
    let seeds: u64 = rest.first().and_then(|text| text.parse().ok()).unwrap_or(3);
    let mut rows = Vec::new();
    for seed in 1..=seeds {
        rows.extend(fine_tunes(seed)?);
        rows.extend(language(Path::new(root), seed)?);
    }
    let text = serde_json::to_string_pretty(&rows).expect("rows are plain JSON");
    std::fs::write(output, text).map_err(|e| Error::io(Path::new(output), e))
}

/// Training, held-out and test samples.
struct Split {
    train: Part,
    held_out: Part,
    test: Part,
}

/// What a job differs in from one that names nothing but candidates, network and data.
#[derive(Clone, Copy)]
struct Variant {
    name: &'static str,
    with_train: bool,
    start_best: bool,
}

const VARIANTS: [Variant; 4] = [
    Variant { name: "training data too", with_train: true, start_best: false },
    Variant { name: "training data too, start best", with_train: true, start_best: true },
    Variant { name: "held-out data alone", with_train: false, start_best: false },
    Variant { name: "held-out data alone, start best", with_train: false, start_best: true },
];

/// The rows of every variant of a job on one task.
fn averages(
    task: &str,
    network: &Arc<dyn Network>,
    candidates: &[CheckpointFile],
    split: &Split,
    loss: Loss,
    seed: u64,
) -> Result<Vec<Value>> {
    let rows = VARIANTS.iter().map(|variant| average(*variant, task, network, candidates, split, loss, seed));
    Ok(rows.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn average(
    variant: Variant,
    task: &str,
    network: &Arc<dyn Network>,
    candidates: &[CheckpointFile],
    split: &Split,
    loss: Loss,
    seed: u64,
) -> Result<Vec<Value>> {
    let names: Vec<String> = (0..candidates.len()).map(|i| format!("candidate {i}")).collect();
    let (fit, select) = barycenter_core::data::split(split.held_out.indices.len(), 0.5, seed)?;
    let part = |places: Vec<usize>| Part {
        dataset: Arc::clone(&split.held_out.dataset),
        indices: places.into_iter().map(|place| split.held_out.indices[place]).collect(),
    };
    let data = AverageData {
        fit: if variant.with_train { vec![part(fit), split.train.clone()] } else { vec![part(fit)] },
        select: part(select),
        test: Some(split.test.clone()),
        batch_norm: split.train.clone(),
    };
    let steps_per_epoch = data.fit_samples().div_ceil(128) as f64;
    let mut twa = default_twa();
    twa.epochs = (200.0 / steps_per_epoch).round().clamp(1.0, 20.0) as u64;
    if variant.start_best {
        twa.start = Start::Best;
    }
    let options = AverageOptions {
        method: Method::Twa(twa),
        batch_size: 128,
        augmentation: Augmentation::default(),
        loss,
        batch_norm: BatchNormOptions { policy: BatchNormPolicy::Copy, augment: false, batches: None },
        baselines: Baselines::All,
        guard: true,
        materialise: Materialise::Exact,
        tensors: Vec::new(),
        dtype: None,
        seed,
    };
    let averaging = Averaging::new(Arc::clone(network), candidates, &names, data, options, &mut Silent)?;
    let projection = averaging.build_projection(&mut Silent)?;
    let outcome = averaging.run(projection.as_ref(), None, &mut Silent)?;
    Ok(outcome
        .methods
        .iter()
        .filter(|row| row.method == "twa" || variant.name == VARIANTS[0].name)
        .map(|row| {
            let test = row.test.expect("there is test data");
            let line = json!({
                "task": task,
                "method": row.method,
                "settings": if row.method == "twa" { variant.name } else { "baseline" },
                "seed": seed,
                "select_loss": row.select.loss,
                "test_loss": test.loss,
                "test_accuracy": test.accuracy,
                "chosen": row.method == outcome.chosen,
            });
            eprintln!("{line}");
            line
        })
        .collect())
}

/// Samples whose class a random perceptron gives, one in ten of them wrong.
fn labelled(count: usize, shift: f32, seed: u64) -> Result<Arc<Dataset>> {
    let teacher = NetworkSpec::Mlp { features: vec![FEATURES, 32, CLASSES] }.build()?.initial_parameters(77);
    let mut draws = Draws::keyed(&[seed, 1]);
    let mut number = || draws.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0;
    let inputs: Vec<f32> = (0..count * FEATURES).map(|_| number() + shift).collect();
    let layer = |w: &[f32], b: &[f32], x: &[f32]| -> Vec<f32> {
        w.chunks_exact(x.len()).zip(b).map(|(w, b)| b + w.iter().zip(x).map(|(w, x)| w * x).sum::<f32>()).collect()
    };
    let class = |x: &[f32]| {
        let hidden: Vec<f32> =
            layer(&teacher[0], &teacher[1], x).into_iter().map(|v| (v - 0.3 * shift).max(0.0)).collect();
        let outputs = layer(&teacher[2], &teacher[3], &hidden);
        (0..CLASSES).max_by(|a, b| outputs[*a].total_cmp(&outputs[*b])).unwrap_or(0) as u32
    };
    let mut labels: Vec<u32> = inputs.chunks_exact(FEATURES).map(class).collect();
    let mut noise = Draws::keyed(&[seed, 2]);
    for label in &mut labels {
        if noise.below(10) == 0 {
            *label = noise.below(CLASSES) as u32;
        }
    }
    let normalisation = Normalisation { scale: 1.0, mean: vec![0.0], std: vec![1.0] };
    Dataset::from_inputs(Inputs::F32(inputs), &[count, FEATURES], labels, normalisation).map(Arc::new)
}

fn fine_tunes(seed: u64) -> Result<Vec<Value>> {
    let loss = Loss::CrossEntropy { label_smoothing: 0.0 };
    let network: Arc<dyn Network> = Arc::from(NetworkSpec::Mlp { features: vec![FEATURES, 96, 96, CLASSES] }.build()?);
    let base = Part::all(labelled(4000, 0.0, 100 * seed)?);
    let mut pretraining = Training::new(Arc::clone(&network), base, loss, network.initial_parameters(seed), seed)?;
    for _ in 0..8 {
        pretraining.epoch(|_| 0.05, 8)?;
    }
    let split = Split {
        train: Part::all(labelled(2000, 0.4, 100 * seed + 1)?),
        held_out: Part::all(labelled(1500, 0.4, 100 * seed + 2)?),
        test: Part::all(labelled(4000, 0.4, 100 * seed + 3)?),
    };
    let tune = |i: u64| {
        let rate = [0.002, 0.01, 0.03, 0.06][i as usize % 4] * if i == 11 { 6.0 } else { 1.0 };
        let epochs = 1 + 3 * (i / 4);
        let start = pretraining.weights().to_vec();
        let mut tuning = Training::new(Arc::clone(&network), split.train.clone(), loss, start, 10 * seed + i)?;
        for _ in 0..epochs {
            tuning.epoch(|_| rate, epochs)?;
        }
        tuning.checkpoint()
    };
    let candidates = (0..CANDIDATES).map(tune).collect::<Result<Vec<_>>>()?;
    averages("fine_tunes", &network, &candidates, &split, loss, seed)
}

/// Every document as bytes, in rows; one row in five held out, one in five for tests.
fn documents(root: &Path, seed: u64) -> Result<Split> {
    let mut text = Vec::new();
    let folders = [root.to_owned(), root.join("docs")];
    for folder in &folders {
        let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
        let mut paths: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
        paths.sort();
        for path in paths {
            text.extend(std::fs::read(&path).map_err(|e| Error::io(&path, e))?);
        }
    }
    let rows = text.len() / ROW;
    let tokens: Vec<u32> = text[..rows * ROW].iter().map(|byte| u32::from(*byte)).collect();
    let dataset = Arc::new(Dataset::from_tokens(tokens, ROW, None)?);
    let order = barycenter_core::data::shuffled(&(0..rows).collect::<Vec<_>>(), seed, 0);
    let part = |places: std::ops::Range<usize>| Part { dataset: Arc::clone(&dataset), indices: order[places].to_vec() };
    let fifth = rows / 5;
    Ok(Split { test: part(0..fifth), held_out: part(fifth..2 * fifth), train: part(2 * fifth..rows) })
}

fn language(root: &Path, seed: u64) -> Result<Vec<Value>> {
    let loss = Loss::NextToken { label_smoothing: 0.0 };
    let sizes = Gpt2Sizes { vocabulary: 256, positions: ROW - 1, width: 64, depth: 2, heads: 4 };
    let network: Arc<dyn Network> = Arc::from(NetworkSpec::Gpt2(sizes).build()?);
    let split = documents(root, seed)?;
    let start = || network.initial_parameters(seed);
    let peak = 0.5;
    let warm = |part: f64| peak * (part / 0.05).min(1.0);
    let mut constant = Training::new(Arc::clone(&network), split.train.clone(), loss, start(), seed)?;
    let mut candidates = Vec::new();
    for epoch in 0..EPOCHS {
        constant.epoch(warm, EPOCHS)?;
        if epoch >= EPOCHS - CANDIDATES {
            candidates.push(constant.checkpoint()?);
        }
    }
    let mut rows = averages("language", &network, &candidates, &split, loss, seed)?;
    let mut decayed = Training::new(Arc::clone(&network), split.train.clone(), loss, start(), seed)?;
    for _ in 0..EPOCHS {
        decayed.epoch(|part| warm(part) * (2.0 * (1.0 - part)).min(1.0), EPOCHS)?;
    }
    let statistics = Statistics::new(&*network, Vec::new(), 0)?;
    let test =
        evaluate(&*network, decayed.weights(), &statistics, &split.test.dataset, &split.test.indices, 128, &|| false)?;
    let line = json!({
        "task": "language, decayed",
        "method": "last",
        "seed": seed,
        "test_loss": test.mean_loss(),
        "test_accuracy": test.accuracy(),
    });
    eprintln!("{line}");
    rows.push(line);
    Ok(rows)
}
