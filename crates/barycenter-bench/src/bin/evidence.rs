//! What each method and setting is worth on real checkpoints: the rows of the table in `docs/method.md`.
//!
//! `cargo run --release -p barycenter-bench --bin evidence FOLDER OUTPUT [seeds] [word]`
//!
//! FOLDER holds `epoch-*.safetensors` (ResNet-20 on CIFAR-10), `validation`, `train` and `test`. OUTPUT is a JSON list of rows
//! `{method, settings, seed, select_loss, as_fitted_select_loss, test_loss, test_accuracy, seconds, test_difference_from_uniform}`; rows that are there
//! are kept, so that a run that was stopped goes on. `word` picks the settings whose names hold it.

use std::{path::Path, sync::Arc};

use barycenter_bench::{evidence::settings, process};
use barycenter_core::{
    Error, Result,
    average::{
        AverageData, AverageOptions, Averaging, Baselines, BatchNormOptions, BatchNormPolicy, Materialise, Method,
        Part, Phase, Progress,
    },
    checkpoint::CheckpointFile,
    data::{Augmentation, Dataset, split},
    network::{Network, NetworkSpec},
    objective::Loss,
};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a job keeps of the held-out data where training data is fitted on too; the same select part in every line.
const SELECT_FRACTION: f64 = 0.5;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, output, rest @ ..] = arguments.as_slice() else {
        return Err(Error::input("name the folder of checkpoints and data, and the file of rows"));
    };
    let seeds: u64 = rest.first().and_then(|text| text.parse().ok()).unwrap_or(3);
    let word = rest.get(1).map_or("", String::as_str);
    let (scene, output) = (Scene::open(Path::new(folder))?, Path::new(output));
    let mut rows = read_rows(output)?;
    for seed in 1..=seeds {
        for (name, setting) in settings().into_iter().filter(|(name, _)| name.contains(word)) {
            let is_there = rows.iter().any(|row| row["settings"] == name && row["seed"] == seed);
            if is_there || (setting.of_one_seed && seed > 1) {
                continue;
            }
            rows.extend(scene.rows(&name, &setting, seed)?);
            let text = serde_json::to_string_pretty(&rows).expect("rows are plain JSON");
            std::fs::write(output, text).map_err(|e| Error::io(output, e))?;
        }
    }
    Ok(())
}

fn read_rows(path: &Path) -> Result<Vec<Value>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::input(format!("{}: {e}", path.display())))
}

/// Checkpoints and data.
struct Scene {
    candidates: Vec<CheckpointFile>,
    names: Vec<String>,
    validation: Arc<Dataset>,
    train: Arc<Dataset>,
    test: Arc<Dataset>,
}

impl Scene {
    fn open(folder: &Path) -> Result<Self> {
        let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
        let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.retain(|name| name.starts_with("epoch-"));
        names.sort();
        let candidates = names.iter().map(|name| CheckpointFile::open(folder.join(name))).collect::<Result<_>>()?;
        let dataset = |name: &str| Dataset::open(&folder.join(format!("{name}.safetensors")), None).map(Arc::new);
        let (validation, train, test) = (dataset("validation")?, dataset("train")?, dataset("test")?);
        Ok(Self { candidates, names, validation, train, test })
    }

    fn data(&self, fit: &str, seed: u64) -> Result<AverageData> {
        let (kept, held_out) = split(self.validation.len(), SELECT_FRACTION, seed)?;
        let validation = Part { dataset: Arc::clone(&self.validation), indices: kept };
        let fit = match fit {
            "validation" => vec![validation],
            "train" => vec![Part::all(Arc::clone(&self.train))],
            "all of validation" => vec![Part::all(Arc::clone(&self.validation))],
            _ => vec![validation, Part::all(Arc::clone(&self.train))],
        };
        Ok(AverageData {
            fit,
            select: Part { dataset: Arc::clone(&self.validation), indices: held_out },
            test: Some(Part::all(Arc::clone(&self.test))),
            batch_norm: Part::all(Arc::clone(&self.train)),
        })
    }

    /// Runs one setting; a rule's row brings those of the baselines with it.
    fn rows(&self, name: &str, setting: &barycenter_bench::evidence::Setting, seed: u64) -> Result<Vec<Value>> {
        let network: Arc<dyn Network> = Arc::from(NetworkSpec::ResnetCifar { depth: 20, classes: 10 }.build()?);
        let data = self.data(setting.fit, seed)?;
        let samples = data.fit_samples();
        let options = AverageOptions {
            method: setting.method_for(samples),
            batch_size: 128,
            augmentation: Augmentation { pad: 4, flip: true },
            loss: Loss::CrossEntropy { label_smoothing: 0.0 },
            batch_norm: BatchNormOptions {
                policy: setting.batch_norm,
                augment: setting.batch_norm_augment,
                batches: (setting.batch_norm == BatchNormPolicy::Recompute).then_some(32),
            },
            baselines: if setting.with_baselines { Baselines::All } else { Baselines::Uniform },
            guard: setting.with_baselines,
            materialise: Materialise::Exact,
            tensors: Vec::new(),
            dtype: None,
            seed,
        };
        let method = options.method.clone();
        let mut clock = FitClock::default();
        let averaging = Averaging::new(network, &self.candidates, &self.names, data, options, &mut clock)?;
        let projection = averaging.build_projection(&mut clock)?;
        let outcome = averaging.run(projection.as_ref(), None, &mut clock)?;
        let as_fitted = outcome.fit.as_ref().map(|fit| fit.as_fitted_select_loss);
        let is_own = |row: &str| row == method.name();
        let wanted = outcome
            .methods
            .iter()
            .filter(|row| is_own(row.method) || (setting.with_baselines && !matches!(method, Method::Twa(_))));
        Ok(wanted
            .map(|row| {
                let test = row.test.expect("there is test data");
                let settings = if is_own(row.method) { name.to_owned() } else { format!("baseline {}", row.method) };
                let line = json!({
                    "method": row.method,
                    "settings": settings,
                    "seed": seed,
                    "select_loss": row.select.loss,
                    "as_fitted_select_loss": as_fitted.filter(|_| is_own(row.method)),
                    "test_loss": test.loss,
                    "test_accuracy": test.accuracy,
                    "seconds": if is_own(row.method) { clock.cpu_seconds } else { 0.0 },
                    "test_difference_from_uniform": row.test_difference_from_uniform,
                    "chosen": outcome.chosen,
                });
                eprintln!("{line}");
                line
            })
            .collect())
    }
}

/// Processor seconds from the start of the fit to its end, its snapshots' evaluations included.
#[derive(Default)]
struct FitClock {
    started: Option<f64>,
    cpu_seconds: f64,
}

impl Progress for FitClock {
    fn report(&mut self, phase: Phase, _done: u64, _total: u64) -> Result<()> {
        if phase == Phase::Fit {
            let started = *self.started.get_or_insert_with(process::cpu_seconds);
            self.cpu_seconds = process::cpu_seconds() - started;
        }
        Ok(())
    }
}
