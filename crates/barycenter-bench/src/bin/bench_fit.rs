//! Times a whole TWA-v fit on real checkpoints; its peer is `benches/compare/fit.py`.
//!
//! `cargo run --release -p barycenter-bench --bin bench_fit FOLDER [bits] [epochs] [threads]`
//!
//! FOLDER holds `epoch-*.safetensors` (ResNet-20 on CIFAR-10) and `validation.safetensors`. Prints one JSON line: wall and CPU
//! seconds of the fit alone, its steps, the mean batch loss of the last epoch and the peak resident memory.

use std::{path::Path, sync::Arc, time::Instant};

use barycenter_bench::process;
use barycenter_core::{
    Error, Result,
    blocks::{Blocks, Granularity},
    checkpoint::CheckpointFile,
    data::{Augmentation, Dataset, Part},
    fit::{Fit, FitOptions},
    network::{Network, NetworkSpec},
    objective::{DatasetLoss, DatasetLossOptions, Loss, Objective as _},
    projection::Projection,
};

#[global_allocator]
static ALLOCATOR: barycenter_allocator::MiMalloc = barycenter_allocator::MiMalloc;

fn main() -> Result<()> {
    barycenter_allocator::keep_between_steps();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().ok_or_else(|| Error::input("name the folder of checkpoints and data"))?;
    let number = |position: usize, default: usize| -> usize {
        arguments.get(position).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (bits, epochs, threads) = (number(1, 4), number(2, 5), number(3, 1));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
    let report = pool.install(|| run(Path::new(folder), bits as u8, epochs as u64))?;
    println!(r#"{{"figure":"fit","bits":{bits},"threads":{threads},{report}}}"#);
    Ok(())
}

fn candidates(folder: &Path) -> Result<Vec<CheckpointFile>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    let is_epoch = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("epoch-"));
    paths.retain(|path| is_epoch(path));
    paths.sort();
    paths.iter().map(CheckpointFile::open).collect()
}

fn run(folder: &Path, bits: u8, epochs: u64) -> Result<String> {
    let network: Arc<dyn Network> = Arc::from(NetworkSpec::ResnetCifar { depth: 20, classes: 10 }.build()?);
    let sizes: Vec<_> = network.parameters().iter().map(|spec| (spec.name.clone(), spec.len())).collect();
    let blocks = Blocks::new(&sizes, Granularity::Model);
    let averaged: Vec<String> = sizes.into_iter().map(|(name, _)| name).collect();
    let projection = Projection::build(&candidates(folder)?, &averaged, &blocks, bits, &mut |_, _| Ok(()))?;

    let data = Arc::new(Dataset::open(&folder.join("validation.safetensors"), None)?);
    let augmentation = Augmentation { pad: 4, flip: true };
    let loss = Loss::CrossEntropy { label_smoothing: 0.0 };
    let options = DatasetLossOptions { batch_size: 128, augmentation, loss, seed: 1 };
    let mut objective = DatasetLoss::new(network, vec![Part::all(data)], options)?;
    let steps_per_epoch = objective.steps_per_epoch();
    let options = FitOptions { learning_rate: Some(0.1), ..FitOptions::plain(steps_per_epoch * epochs, 1) };
    let mut fit = Fit::new(&projection, options, None)?;
    let (started, cpu_started) = (Instant::now(), process::cpu_seconds());
    let mut losses = Vec::new();
    while !fit.is_done() {
        losses.push(fit.step(&mut objective)?.loss);
    }
    let (seconds, cpu_seconds) = (started.elapsed().as_secs_f64(), process::cpu_seconds() - cpu_started);
    let last = &losses[losses.len() - steps_per_epoch as usize..];
    let (steps, loss) = (losses.len(), last.iter().sum::<f64>() / last.len() as f64);
    let peak = process::peak_rss_bytes();
    Ok(format!(
        r#""steps":{steps},"seconds":{seconds},"cpu_seconds":{cpu_seconds},"last_epoch_loss":{loss},"peak_rss_bytes":{peak}"#
    ))
}
