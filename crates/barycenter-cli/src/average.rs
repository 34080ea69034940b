//! `barycenter average`: averages files on this machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context;
use barycenter_api::TensorRule;
use barycenter_core::{
    average::{self, TensorPolicy},
    checkpoint::{self, CheckpointFile, Dtype, OpenOptions, TensorLayout, check_candidates, check_finite},
    merge::{Policy, weights::uniform},
};
use clap::Args;
use serde::Serialize;

use crate::{
    artifact::refuse_existing,
    exit::{Outcome, usage},
    output::{self, Format, Output, details},
    progress::Bar,
    shown::bytes,
    size::size,
    tensor_rule::{policy, tensor_rule},
};

mod lora;
mod write;

pub use write::{Average, WrittenFile, whole_folder};

use lora::{Adapters, Lora};
use write::parent;

/// What to average.
///
/// Floating-point tensors, running statistics among them, are averaged; integer and boolean tensors are copied from the
/// last checkpoint. Nothing in a PyTorch file is run.
#[derive(Debug, Args)]
pub struct AverageArguments {
    /// Checkpoints of one architecture, at least two: safetensors files, indexes of several (`*.index.json`), PyTorch zip
    /// files, or folders that hold one of them.
    #[arg(required = true, num_args = 2.., value_name = "CHECKPOINT")]
    files: Vec<PathBuf>,
    /// What to write; nothing that is there is ever replaced.
    ///
    /// A file, or a folder where --shard-size is given or the last checkpoint is a folder and the name does not end in
    /// `.safetensors`. A folder also gets the configuration and tokeniser files of the last checkpoint's folder.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Cut the result into files of at most this size (2GB, 500MB, 64MiB), with an index.
    #[arg(long, value_parser = size, value_name = "SIZE")]
    shard_size: Option<u64>,
    /// Where the state dict lies in PyTorch files, as `model.state_dict`; found unless there are several.
    #[arg(long, value_name = "PATH")]
    key: Option<String>,
    /// Element type of the result's floating-point tensors; that of the checkpoints unless told.
    #[arg(long, value_parser = dtype, value_name = "F32|BF16|...")]
    dtype: Option<Dtype>,
    /// What becomes of the tensors whose names match a pattern: `classifier.*=copy`, or `average` or `reject`. The first that
    /// matches counts.
    #[arg(long = "tensor", value_parser = tensor_rule, value_name = "PATTERN=POLICY")]
    tensors: Vec<TensorRule>,
    /// The checkpoints are `LoRA` adapters in PEFT's layout: average their products, exactly.
    #[arg(long, value_enum, value_name = "GOAL", conflicts_with_all = ["shard_size", "key", "tensors"])]
    lora: Option<Lora>,
    /// Rank of the averaged adapter; that of the largest unless told. What it loses is told.
    #[arg(long, value_name = "N", requires = "lora", value_parser = clap::value_parser!(u16).range(1..))]
    rank: Option<u16>,
    /// One weight a file, summing to 1; equal weights unless told.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, value_name = "W,W,...")]
    weights: Option<Vec<f64>>,
    /// How the result is written.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Say nothing but results and errors.
    #[arg(short, long)]
    quiet: bool,
}

/// What an average did.
#[derive(Debug, Serialize)]
struct Summary {
    out: PathBuf,
    averaged_tensors: usize,
    copied_tensors: usize,
    size_bytes: u64,
    /// Digest of the file; of the first where there are several.
    digest_blake3: String,
    /// The files with weights.
    files: Vec<WrittenFile>,
    /// Files copied from beside the last checkpoint.
    carried: Vec<String>,
    /// What an average of adapters lost by its rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    lora: Option<LoraSummary>,
}

/// What an average of adapters came to.
#[derive(Debug, Serialize)]
struct LoraSummary {
    modules: usize,
    /// Frobenius norm of what the rank lost over that of the whole, all modules together.
    relative_error: f64,
    /// The module that lost most, and how much.
    worst_module: String,
    worst_relative_error: f64,
}

pub async fn run(arguments: AverageArguments) -> anyhow::Result<Outcome> {
    let output = Output::new(arguments.output, arguments.quiet);
    let averaged = tokio::task::spawn_blocking(move || match arguments.lora {
        Some(goal) => average_adapters(&arguments, goal),
        None => average(&arguments),
    });
    let averaged = averaged.await??;
    match output.format() {
        Format::Json => output::write_json(&averaged)?,
        Format::Id => output::write(&averaged.digest_blake3)?,
        Format::Table => output::write(&told(&averaged))?,
    }
    Ok(Outcome::Success)
}

fn told(averaged: &Summary) -> String {
    let mut pairs = vec![
        ("written", averaged.out.display().to_string()),
        ("averaged tensors", averaged.averaged_tensors.to_string()),
        ("copied tensors", averaged.copied_tensors.to_string()),
        ("size", bytes(averaged.size_bytes)),
    ];
    if let [_, _, ..] = averaged.files[..] {
        pairs.push(("files", averaged.files.len().to_string()));
    }
    if !averaged.carried.is_empty() {
        pairs.push(("carried along", averaged.carried.join(", ")));
    }
    if let Some(lora) = &averaged.lora {
        let LoraSummary { modules, relative_error, worst_module, worst_relative_error } = lora;
        pairs.push(("modules", modules.to_string()));
        let lost = format!("{relative_error:.4} of the whole; most in {worst_module}, {worst_relative_error:.4}");
        pairs.push(("lost by rank", lost));
    }
    pairs.extend(averaged.files.iter().map(|file| ("digest", file.digest_blake3.clone())));
    details(&pairs, false)
}

fn average(arguments: &AverageArguments) -> anyhow::Result<Summary> {
    let weights = weights(arguments)?;
    refuse_existing(&arguments.out, false)?;
    let options = OpenOptions { key: arguments.key.clone() };
    let opened = arguments.files.iter().map(|path| checkpoint::open(path, &options));
    let candidates = opened.collect::<Result<Vec<_>, _>>()?;
    let names: Vec<_> = arguments.files.iter().map(|file| file.display().to_string()).collect();
    check_candidates(&candidates, &names)?;
    check_finite(&candidates, &names)?;
    let policies = policies(&candidates[0], &weights, &arguments.tensors)?;
    let copied_tensors = policies.values().filter(|policy| **policy == Policy::Copy).count();
    let bar = Bar::of_units(policies.len() as u64, "averaging", arguments.quiet);
    let average =
        Average { candidates: &candidates, weights: &weights, policies: &policies, dtype: arguments.dtype, bar: &bar };
    let written = match goal(arguments) {
        Goal::Folder { beside } => average.write_folder(&arguments.out, arguments.shard_size, beside, arguments.quiet),
        Goal::File => average.write_file(&arguments.out).map(|file| (vec![file], Vec::new())),
    };
    bar.finish();
    let (files, carried) = written?;
    Ok(Summary {
        out: arguments.out.clone(),
        averaged_tensors: policies.len() - copied_tensors,
        copied_tensors,
        size_bytes: files.iter().map(|file| file.size_bytes).sum(),
        digest_blake3: files[0].digest_blake3.clone(),
        files,
        carried,
        lora: None,
    })
}

fn average_adapters(arguments: &AverageArguments, goal: Lora) -> anyhow::Result<Summary> {
    let weights = weights(arguments)?;
    refuse_existing(&arguments.out, false)?;
    let rank = arguments.rank.map(usize::from);
    let adapters = Adapters { files: &arguments.files, weights: &weights, goal, rank, dtype: arguments.dtype };
    let (file, merged) = adapters.write(&arguments.out)?;
    let worst = merged.modules.iter().max_by(|a, b| a.1.total_cmp(&b.1)).context("an adapter has modules")?;
    Ok(Summary {
        out: arguments.out.clone(),
        averaged_tensors: merged.modules.len() * if goal == Lora::Adapter { 2 } else { 1 },
        copied_tensors: 0,
        size_bytes: file.size_bytes,
        digest_blake3: file.digest_blake3.clone(),
        files: vec![file],
        carried: Vec::new(),
        lora: Some(LoraSummary {
            modules: merged.modules.len(),
            relative_error: merged.relative_error,
            worst_module: worst.0.clone(),
            worst_relative_error: worst.1,
        }),
    })
}

/// What is written.
enum Goal<'a> {
    File,
    /// `beside`: the folder of the last checkpoint, where it is more than a file.
    Folder {
        beside: Option<&'a Path>,
    },
}

fn goal(arguments: &AverageArguments) -> Goal<'_> {
    let ends_in = |path: &Path, ending| path.extension().is_some_and(|extension| extension == ending);
    let last = arguments.files.last().map(PathBuf::as_path);
    let beside = last.and_then(|last| match last {
        folder if folder.is_dir() => Some(folder),
        index if ends_in(index, "json") => Some(parent(index)),
        _ => None,
    });
    if arguments.shard_size.is_some() || beside.is_some() && !ends_in(&arguments.out, "safetensors") {
        Goal::Folder { beside }
    } else {
        Goal::File
    }
}

fn weights(arguments: &AverageArguments) -> anyhow::Result<Vec<f64>> {
    let n = arguments.files.len();
    let Some(weights) = arguments.weights.clone() else {
        return Ok(uniform(n));
    };
    if weights.len() != n {
        return Err(usage(format!("{} weights were given for {n} files", weights.len())));
    }
    let sum: f64 = weights.iter().sum();
    if !sum.is_finite() || (sum - 1.0).abs() > 1e-6 {
        return Err(usage(format!("the weights sum to {sum}, they have to sum to 1")));
    }
    Ok(weights)
}

fn policies(file: &CheckpointFile, weights: &[f64], rules: &[TensorRule]) -> anyhow::Result<BTreeMap<String, Policy>> {
    let rules: Vec<_> = rules.iter().map(policy).collect::<Result<_, _>>()?;
    let tensors = &file.layout().tensors;
    if let Some(rule) = rules.iter().find(|rule| !tensors.iter().any(|tensor| rule.matches(&tensor.name))) {
        return Err(usage(format!("--tensor {}: no tensor has such a name", rule.pattern())));
    }
    let policy = |tensor: &TensorLayout| {
        let (name, averageable) = (&tensor.name, tensor.dtype.is_averageable());
        match rules.iter().find(|rule| rule.matches(name)).map(average::TensorRule::policy) {
            None | Some(TensorPolicy::Average) if averageable => Ok(Policy::Weighted(weights.to_vec())),
            None | Some(TensorPolicy::Copy) => Ok(Policy::Copy),
            Some(TensorPolicy::Average) => {
                Err(usage(format!("tensor `{name}` is {} and cannot be averaged", tensor.dtype)))
            }
            Some(TensorPolicy::Recompute) => Err(usage(format!(
                "tensor `{name}` cannot be recomputed: that takes a network and data, as a job has them"
            ))),
            Some(TensorPolicy::Reject) => Err(usage(format!("tensor `{name}` is rejected by --tensor"))),
        }
    };
    tensors.iter().map(|tensor| Ok((tensor.name.clone(), policy(tensor)?))).collect()
}

/// An element type by its name in a safetensors header, in upper or lower case.
fn dtype(text: &str) -> Result<Dtype, String> {
    let dtype: Dtype = text.to_ascii_uppercase().parse()?;
    if dtype.is_averageable() { Ok(dtype) } else { Err(format!("{dtype} is no floating-point type")) }
}

#[cfg(test)]
mod tests;
