//! Job specs from a file, from options, or from both: options take the place of what the file says.

use std::{io::Read, path::PathBuf};

use anyhow::Context;
use barycenter_api::{JobSpec, TensorRule};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{exit::usage, size::size, tensor_rule::tensor_rule};

/// What a job is asked to do.
#[derive(Debug, Default, Args)]
pub struct SpecArguments {
    /// Spec in YAML or JSON, in the API's own schema; `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Any field of the spec, e.g. `method.schedule.warm_up=0.1`; may be given several times.
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = assignment)]
    assignments: Vec<(String, Value)>,
    /// The candidates.
    #[arg(long, visible_alias = "set-id", value_name = "ID")]
    candidate_set: Option<Uuid>,
    /// Architecture: `resnet_cifar:depth=20,classes=10`, `mlp:features=784x512x10`, `resnet`, `vgg_bn`,
    /// `preresnet_cifar`, `wide_resnet:depth=28,width=10,classes=10`, `vit`, `clip_image`,
    /// `gpt2:vocabulary=50257,positions=1024,width=768,depth=12,heads=12`, or JSON.
    #[arg(long, value_parser = network)]
    network: Option<Value>,
    /// Dataset to fit on, by name or id.
    #[arg(long, value_name = "DATASET")]
    fit: Option<String>,
    /// Training data of the checkpoints, to fit on beside held-out --fit; running statistics are recomputed on it.
    #[arg(long, value_name = "DATASET")]
    train: Option<String>,
    /// Dataset to compare on; a part of the fit data unless told.
    #[arg(long, value_name = "DATASET")]
    select: Option<String>,
    /// Part of the fit data kept for comparing, without --select.
    #[arg(long, value_name = "FRACTION")]
    select_fraction: Option<f64>,
    /// Dataset for final figures only.
    #[arg(long, value_name = "DATASET")]
    test: Option<String>,
    /// Augmentation while fitting: `pad=4,flip`.
    #[arg(long, value_parser = augmentation)]
    augment: Option<Value>,
    /// How the coefficients are found.
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Bits of a stored direction: 1, 2, 4, 8, or 32 for no quantisation.
    #[arg(long)]
    bits: Option<u8>,
    /// `model`, `layer`, `tensor` or `elements:K`.
    #[arg(long)]
    granularity: Option<String>,
    /// What averages may be reached.
    #[arg(long, value_enum)]
    constraint: Option<Constraint>,
    /// What differences between the coefficients of blocks cost.
    #[arg(long, value_name = "STRENGTH")]
    pooling: Option<f64>,
    /// Optimiser of the coefficients.
    #[arg(long, value_enum)]
    optimiser: Option<Optimiser>,
    /// Peak learning rate.
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Passes over the fit data.
    #[arg(long)]
    epochs: Option<u32>,
    /// Samples a step.
    #[arg(long, value_name = "N")]
    batch_size: Option<u32>,
    /// Ranks that share the fit, each with its part of every batch.
    #[arg(long, value_name = "N")]
    ranks: Option<u32>,
    /// Keep a snapshot of the coefficients every so many steps.
    #[arg(long, value_name = "STEPS")]
    history_every: Option<u32>,
    /// Loss; that of the fit data unless told.
    #[arg(long, value_enum)]
    objective: Option<Objective>,
    /// Probability taken from the label, or the next token, and spread over all.
    #[arg(long, value_name = "P")]
    label_smoothing: Option<f64>,
    /// What happens to running statistics.
    #[arg(long, value_enum)]
    batch_norm: Option<BatchNorm>,
    /// Dataset that running statistics are recomputed on; the fit data unless told.
    #[arg(long, value_name = "DATASET")]
    batch_norm_dataset: Option<String>,
    /// Whether running statistics are recomputed on augmented inputs.
    #[arg(long, value_name = "BOOL")]
    batch_norm_augment: Option<bool>,
    /// Batches that running statistics are recomputed over; all unless told.
    #[arg(long, value_name = "N")]
    batch_norm_batches: Option<u32>,
    /// What becomes of the tensors whose names match a pattern: `classifier.*=copy`, or `average`, `recompute`, `reject`. The
    /// first that matches counts.
    #[arg(long = "tensor", value_parser = tensor_rule, value_name = "PATTERN=POLICY")]
    tensors: Vec<TensorRule>,
    /// Which baselines stand beside the method.
    #[arg(long, value_enum)]
    baselines: Option<Baselines>,
    /// Whether a baseline that beats the method takes its place.
    #[arg(long, value_enum)]
    guard: Option<Guard>,
    /// Which weights of a fit are written.
    #[arg(long, value_enum)]
    materialise: Option<Materialise>,
    /// Element type of the averaged model's floating-point tensors, as F32 or BF16; that of the candidates unless told.
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<String>,
    /// Most bytes of tensors in a file when the averaged model is pulled (2GB, 500MB, 64MiB).
    #[arg(long, value_parser = size, value_name = "SIZE")]
    shard_size: Option<u64>,
    /// Seed of split, shuffling and augmentation.
    #[arg(long)]
    seed: Option<u64>,
    /// Higher goes first, -1000 to 1000.
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,
    /// Seconds from now within which the job must end.
    #[arg(long, value_name = "SECONDS")]
    deadline: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Method {
    Twa,
    Uniform,
    Fixed,
    Ema,
    Schedule,
    BestSuffix,
    Greedy,
    LineSearch,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Constraint {
    Affine,
    Convex,
    Linear,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Optimiser {
    Adamw,
    Sgd,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Objective {
    CrossEntropy,
    SquaredError,
    NextToken,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BatchNorm {
    Recompute,
    Average,
    Copy,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Baselines {
    All,
    Uniform,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Materialise {
    Exact,
    AsFitted,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Guard {
    On,
    Off,
}

impl SpecArguments {
    /// The spec that file and options make together.
    pub fn into_spec(self) -> anyhow::Result<JobSpec> {
        let mut spec = self.read_file()?;
        for (path, value) in self.options() {
            assign(&mut spec, path, value)?;
        }
        for (path, value) in self.assignments {
            assign(&mut spec, &path, value)?;
        }
        name_kinds(&mut spec);
        serde_json::from_value(spec).map_err(|e| usage(format!("the job's spec is not right: {e}")))
    }

    fn read_file(&self) -> anyhow::Result<Value> {
        let Some(file) = &self.file else { return Ok(json!({})) };
        let text = if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input")?;
            text
        } else {
            std::fs::read_to_string(file).with_context(|| file.display().to_string())?
        };
        // YAML holds JSON.
        let spec: Value = serde_norway::from_str(&text).map_err(|e| usage(format!("{}: {e}", file.display())))?;
        if spec.is_object() { Ok(spec) } else { Err(usage(format!("{}: not a mapping", file.display()))) }
    }

    /// The fields that options set.
    fn options(&self) -> Vec<(&'static str, Value)> {
        let fields = [
            ("candidate_set_id", json!(self.candidate_set)),
            ("network", json!(self.network)),
            ("data.fit", json!(self.fit)),
            ("data.train", json!(self.train)),
            ("data.select", json!(self.select)),
            ("data.select_fraction", json!(self.select_fraction)),
            ("data.test", json!(self.test)),
            ("data.augmentation", json!(self.augment)),
            ("method.kind", json!(self.method.map(word))),
            ("method.bits", json!(self.bits)),
            ("method.granularity", json!(self.granularity)),
            ("method.constraint", json!(self.constraint.map(word))),
            ("method.pooling.strength", json!(self.pooling)),
            ("method.optimiser.kind", json!(self.optimiser.map(word))),
            ("method.optimiser.learning_rate", json!(self.lr)),
            ("method.epochs", json!(self.epochs)),
            ("method.batch_size", json!(self.batch_size)),
            ("method.ranks", json!(self.ranks)),
            ("method.history_every", json!(self.history_every)),
            ("objective.kind", json!(self.objective.map(word))),
            ("objective.label_smoothing", json!(self.label_smoothing)),
            ("batch_norm.policy", json!(self.batch_norm.map(word))),
            ("batch_norm.dataset", json!(self.batch_norm_dataset)),
            ("batch_norm.augment", json!(self.batch_norm_augment)),
            ("batch_norm.batches", json!(self.batch_norm_batches)),
            ("baselines", json!(self.baselines.map(word))),
            ("guard", json!(self.guard.map(word))),
            ("materialise", json!(self.materialise.map(word))),
            ("tensors", if self.tensors.is_empty() { Value::Null } else { json!(self.tensors) }),
            ("output.dtype", json!(self.dtype.as_ref().map(|dtype| dtype.to_ascii_uppercase()))),
            ("output.shard_size_bytes", json!(self.shard_size)),
            ("seed", json!(self.seed)),
            ("scheduling.priority", json!(self.priority)),
            ("scheduling.deadline_seconds", json!(self.deadline)),
        ];
        fields.into_iter().filter(|(_, value)| !value.is_null()).collect()
    }
}

/// The word of an option's value.
fn word<V: ValueEnum + Copy>(value: V) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Sets the field at a dotted path; missing mappings are made.
fn assign(spec: &mut Value, path: &str, value: Value) -> anyhow::Result<()> {
    let mut place = spec;
    for name in path.split('.') {
        if place.is_null() {
            *place = json!({});
        }
        let map = place.as_object_mut().ok_or_else(|| usage(format!("`{path}`: `{name}` is not in a mapping")))?;
        place = map.entry(name).or_insert(Value::Null);
    }
    *place = value;
    Ok(())
}

/// Fills in the kinds that options leave open: each is the API's default.
fn name_kinds(spec: &mut Value) {
    for (path, kind) in [
        ("/method", "twa"),
        ("/method/optimiser", "adamw"),
        ("/method/schedule", "cosine"),
        ("/method/pooling", "partial"),
        ("/objective", "cross_entropy"),
    ] {
        if let Some(Value::Object(map)) = spec.pointer_mut(path) {
            map.entry("kind").or_insert_with(|| kind.into());
        }
    }
}

/// `path=value`, the value in YAML.
fn assignment(text: &str) -> Result<(String, Value), String> {
    let (path, value) = text.split_once('=').ok_or("expected PATH=VALUE")?;
    let value = serde_norway::from_str(value).map_err(|e| e.to_string())?;
    Ok((path.to_owned(), value))
}

/// `kind:option=value,option=value` or JSON; values are numbers or lists of them, `784x512x10`.
fn network(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|e| e.to_string());
    }
    let (kind, options) = text.split_once(':').unwrap_or((text, ""));
    let mut network = Map::from_iter([("kind".to_owned(), json!(kind))]);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').ok_or_else(|| format!("`{option}` is not OPTION=VALUE"))?;
        let numbers = value.split('x').map(str::parse).collect::<Result<Vec<u64>, _>>();
        let numbers = numbers.map_err(|_| format!("`{value}` is neither a number nor a list like 784x512x10"))?;
        let value = if name == "features" { json!(numbers) } else { json!(numbers[0]) };
        network.insert(name.to_owned(), value);
    }
    Ok(network.into())
}

/// `pad=4,flip`
fn augmentation(text: &str) -> Result<Value, String> {
    let mut augmentation = Map::new();
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("pad", pixels)) => {
                let pixels: u32 = pixels.parse().map_err(|_| format!("`{pixels}` is not a number of pixels"))?;
                augmentation.insert("pad".into(), pixels.into());
            }
            None if part == "flip" => {
                augmentation.insert("flip".into(), true.into());
            }
            _ => return Err(format!("`{part}` is neither `pad=PIXELS` nor `flip`")),
        }
    }
    Ok(augmentation.into())
}

#[cfg(test)]
mod tests;
