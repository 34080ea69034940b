//! `barycenter average`: averages files on this machine.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use barycenter_core::{
    checkpoint::{CheckpointFile, Written, check_candidates, check_finite},
    merge::{self, Policy, weights::uniform},
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

/// What to average.
///
/// Floating-point tensors, running statistics among them, are averaged; integer and boolean tensors are copied from the
/// last file.
#[derive(Debug, Args)]
pub struct AverageArguments {
    /// Safetensors files of one architecture, at least two.
    #[arg(required = true, num_args = 2.., value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The file to write; one that is there is never replaced.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
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
    digest_blake3: String,
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
    let pairs = [
        ("written", averaged.out.display().to_string()),
        ("averaged tensors", averaged.averaged_tensors.to_string()),
        ("copied tensors", averaged.copied_tensors.to_string()),
        ("size", bytes(averaged.size_bytes)),
        ("digest", averaged.digest_blake3.clone()),
    ];
    details(&pairs, false)
}

fn average(arguments: &AverageArguments) -> anyhow::Result<Summary> {
    let weights = weights(arguments)?;
    refuse_existing(&arguments.out, false)?;
    let candidates = arguments.files.iter().map(CheckpointFile::open).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<_> = arguments.files.iter().map(|file| file.display().to_string()).collect();
    check_candidates(&candidates, &names)?;
    check_finite(&candidates, &names)?;
    let policies = policies(&candidates[0], &weights);
    let copied_tensors = policies.values().filter(|policy| **policy == Policy::Copy).count();
    let bar = Bar::of_units(policies.len() as u64, "averaging", arguments.quiet);
    let written = write(&candidates, &weights, &policies, &arguments.out, &bar);
    bar.finish();
    let written = written?;
    Ok(Summary {
        out: arguments.out.clone(),
        averaged_tensors: policies.len() - copied_tensors,
        copied_tensors,
        size_bytes: written.size_bytes,
        digest_blake3: written.digest_blake3,
    })
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

/// Writes beside the goal and renames, so that a half-written model never carries its name.
fn write(
    candidates: &[CheckpointFile],
    weights: &[f64],
    policies: &BTreeMap<String, Policy>,
    out: &Path,
    bar: &Bar,
) -> anyhow::Result<Written> {
    let folder = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = tempfile::Builder::new().prefix(".barycenter-").permissions(readable()).tempfile_in(folder);
    let beside = beside.with_context(|| format!("cannot write in {}", folder.display()))?;
    let mut buffer = BufWriter::new(beside.as_file());
    let written = merge::merge(candidates, weights, policies, &mut buffer, &mut |done, _| {
        bar.set(done as u64);
        Ok(())
    })?;
    buffer.flush().with_context(|| out.display().to_string())?;
    drop(buffer);
    beside.as_file().sync_all().with_context(|| out.display().to_string())?;
    beside.persist_noclobber(out).map_err(|e| e.error).with_context(|| out.display().to_string())?;
    Ok(written)
}

/// A model is no secret of its maker; the umask has its say.
fn readable() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o666)
}

#[cfg(test)]
mod tests;
