//! `barycenter average`: averages files on this machine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use barycenter_core::{
    checkpoint::{self, CheckpointFile, OpenOptions, check_candidates, check_finite},
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
};

mod write;

use write::{Average, WrittenFile, parent};

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
}

pub async fn run(arguments: AverageArguments) -> anyhow::Result<Outcome> {
    let output = Output::new(arguments.output, arguments.quiet);
    let averaged = tokio::task::spawn_blocking(move || average(&arguments)).await??;
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
    let policies = policies(&candidates[0], &weights);
    let copied_tensors = policies.values().filter(|policy| **policy == Policy::Copy).count();
    let bar = Bar::of_units(policies.len() as u64, "averaging", arguments.quiet);
    let average = Average { candidates: &candidates, weights: &weights, policies: &policies, bar: &bar };
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

/// `2GB`, `500 MB`, `64MiB` or plain bytes.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KIB" => 1 << 10,
        "MIB" => 1 << 20,
        "GIB" => 1 << 30,
        _ => return Err(format!("`{text}` is not a size such as 2GB, 500MB or 64MiB")),
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|size| *size > 0);
    size.ok_or_else(|| format!("`{text}` is not a size such as 2GB, 500MB or 64MiB"))
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

fn policies(file: &CheckpointFile, weights: &[f64]) -> BTreeMap<String, Policy> {
    let policy = |averageable| if averageable { Policy::Weighted(weights.to_vec()) } else { Policy::Copy };
    let tensors = file.layout().tensors.iter();
    tensors.map(|tensor| (tensor.name.clone(), policy(tensor.dtype.is_averageable()))).collect()
}

#[cfg(test)]
mod tests;
