//! What each method and setting is worth on real checkpoints: the rows of the table in `docs/method.md`.
//!
//! `cargo run --release -p barycenter-bench --bin evidence FOLDER OUTPUT [seeds] [word]`
//!
//! FOLDER holds `epoch-*.safetensors` (ResNet-20 on CIFAR-10), `validation`, `train` and `test`. OUTPUT is a JSON list of rows
//! `{method, settings, seed, select_loss, as_fitted_select_loss, test_loss, test_accuracy, seconds, test_difference_from_uniform}`; rows that are there
//! are kept, so that a run that was stopped goes on. `word` picks the settings whose names hold it.

use std::{path::Path, sync::Arc};

use barycenter_bench::{
    evidence::{Setting, default_twa, settings},
    process,
};
use barycenter_core::{
    Error, Result,
    average::{
        AverageData, AverageOptions, Averaging, Baselines, BatchNormOptions, BatchNormPolicy, Materialise, Method,
        MethodScores, Outcome, Part, Phase, Progress, Rule, Start, TensorPolicy, TensorRule,
    },
    checkpoint::CheckpointFile,
    data::{Augmentation, Dataset, split},
    network::{Network, NetworkSpec},
    objective::Loss,
};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: barycenter_allocator::MiMalloc = barycenter_allocator::MiMalloc;

/// What a job keeps of the held-out data where training data is fitted on too; the same select part in every line.
const SELECT_FRACTION: f64 = 0.5;

fn main() -> Result<()> {
    barycenter_allocator::keep_between_steps();
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
            if is_there {
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

    fn options(setting: &Setting, samples: usize, seed: u64) -> Result<AverageOptions> {
        let rule = |(pattern, policy): &(&str, TensorPolicy)| TensorRule::new(pattern, *policy);
        Ok(AverageOptions {
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
            tensors: setting.tensors.iter().map(rule).collect::<Result<_>>()?,
            dtype: setting.dtype,
            seed,
        })
    }

    fn averaging<'a>(
        &'a self,
        candidates: &'a [CheckpointFile],
        data: AverageData,
        options: AverageOptions,
        clock: &mut FitClock,
    ) -> Result<Averaging<'a>> {
        let network: Arc<dyn Network> = Arc::from(NetworkSpec::ResnetCifar { depth: 20, classes: 10 }.build()?);
        Averaging::new(network, candidates, &self.names[..candidates.len()], data, options, clock)
    }

    /// Runs one setting; a rule's row brings those of the baselines with it.
    fn rows(&self, name: &str, setting: &Setting, seed: u64) -> Result<Vec<Value>> {
        let data = self.data(setting.fit, seed)?;
        let mut options = Self::options(setting, data.fit_samples(), seed)?;
        if let (Some(new), Method::Twa(twa)) = (setting.new_candidates, &mut options.method) {
            twa.start = Start::Coefficients(self.earlier_coefficients(new, seed)?);
        }
        let method = options.method.clone();
        let mut clock = FitClock::default();
        let averaging = self.averaging(&self.candidates, data, options, &mut clock)?;
        let projection = averaging.build_projection(&mut clock)?;
        let mut outcome = averaging.run(projection.as_ref(), None, &mut clock)?;
        let is_own = |row: &MethodScores| row.method == method.name();
        if setting.dtype.is_some() {
            let read_back = self.read_back(&averaging, &outcome, self.data(setting.fit, seed)?, seed)?;
            let own = outcome.methods.iter_mut().find(|row| is_own(row)).expect("a job's own method has a row");
            (own.select, own.test) = (read_back.select, read_back.test);
        }
        let as_fitted = outcome.fit.as_ref().map(|fit| fit.as_fitted_select_loss);
        let with_others = setting.with_baselines && !matches!(method, Method::Twa(_));
        let wanted = outcome.methods.iter().filter(|row| is_own(row) || with_others);
        Ok(wanted
            .map(|row| {
                let test = row.test.expect("there is test data");
                let settings = if is_own(row) { name.to_owned() } else { format!("baseline {}", row.method) };
                let line = json!({
                    "method": row.method,
                    "settings": settings,
                    "seed": seed,
                    "select_loss": row.select.loss,
                    "as_fitted_select_loss": as_fitted.filter(|_| is_own(row)),
                    "test_loss": test.loss,
                    "test_accuracy": test.accuracy,
                    "seconds": if is_own(row) { clock.cpu_seconds } else { 0.0 },
                    "test_difference_from_uniform": row.test_difference_from_uniform,
                    "chosen": outcome.chosen,
                });
                eprintln!("{line}");
                line
            })
            .collect())
    }

    /// Coefficients of a fit by default on all candidates but the last `new`, which have none of it.
    fn earlier_coefficients(&self, new: usize, seed: u64) -> Result<Vec<f64>> {
        let setting = Setting::new(Method::Twa(default_twa()));
        let data = self.data(setting.fit, seed)?;
        let options = Self::options(&setting, data.fit_samples(), seed)?;
        let mut clock = FitClock::default();
        let earlier = &self.candidates[..self.candidates.len() - new];
        let averaging = self.averaging(earlier, data, options, &mut clock)?;
        let projection = averaging.build_projection(&mut clock)?;
        let outcome = averaging.run(projection.as_ref(), None, &mut clock)?;
        let mut coefficients = outcome.coefficients;
        coefficients.resize(self.candidates.len() * averaging.blocks().len(), 0.0);
        Ok(coefficients)
    }

    /// Losses of the outcome's file: the average of two copies of it, with its own running statistics.
    fn read_back(
        &self,
        averaging: &Averaging,
        outcome: &Outcome,
        data: AverageData,
        seed: u64,
    ) -> Result<MethodScores> {
        let mut clock = FitClock::default();
        let mut written = Vec::new();
        averaging.materialise(outcome, &mut written, &mut clock)?;
        let files = [CheckpointFile::from_bytes(written.clone())?, CheckpointFile::from_bytes(written)?];
        let mut setting = Setting::new(Method::Rule(Rule::Fixed(vec![0.0, 1.0])));
        setting.batch_norm = BatchNormPolicy::Copy;
        let options = Self::options(&setting, data.fit_samples(), seed)?;
        let mut outcome = self.averaging(&files, data, options, &mut clock)?.run(None, None, &mut clock)?;
        Ok(outcome.methods.pop().expect("a job's own method has a row"))
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
