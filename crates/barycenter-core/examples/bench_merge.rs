//! Prints, as lines of JSON, the times of merging and checking checkpoint files against reading and writing them.
//!
//! `cargo run --release -p barycenter-core --example bench_merge FOLDER [threads] [candidates] [megabytes] [rounds]`
//!
//! Files that FOLDER lacks are made. Each line has {figure, seconds, bytes, ratio}: the
//! best time of the rounds and, for the merge, the time of reading all files once and writing one of the output's size,
//! measured in the same rounds, over its own. `held_bytes` is the
//! memory that the process holds after them, without mapped pages of files.

#[path = "shared/checkpoints.rs"]
mod checkpoints;

use std::{fs::File, io::Write as _, path::Path};

use barycenter_core::{
    Result,
    blocks::{Blocks, Granularity},
    checkpoint::{CheckpointFile, check_finite},
    merge::{merge, policies, weights::uniform},
};
use checkpoints::{Arguments, RUN, report, seconds};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let arguments = Arguments::of_process();
    let paths = checkpoints::make(&arguments)?;
    arguments.pool().install(|| measure(&arguments, &paths));
    Ok(())
}

fn measure(arguments: &Arguments, paths: &[std::path::PathBuf]) {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let out = arguments.folder.join("merged.safetensors");
    let [mut read, mut mapped, mut write, mut merged, mut checked] = [f64::INFINITY; 5];
    let mut size = paths[0].metadata().map_or(0, |metadata| metadata.len());
    for _ in 0..arguments.rounds {
        read = read.min(seconds(|| checkpoints::read_files(paths)));
        mapped = mapped.min(seconds(|| checkpoints::read_maps(paths)));
        write = write.min(seconds(|| write_file(&out, size)));
        merged = merged.min(seconds(|| size = merge_files(paths, &out)));
        let candidates = open(paths);
        checked = checked.min(seconds(|| check_finite(&candidates, &names)));
    }
    let held = held_bytes();
    let _ = std::fs::remove_file(&out);
    let bytes: u64 = paths.iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum();
    report("read files once", read, bytes, &[]);
    report("read maps once", mapped, bytes, &[("ratio_of_read", read / mapped)]);
    report("write one file", write, size, &[]);
    let floor = read.min(mapped) + write;
    report("merge", merged, bytes + size, &[("ratio", floor / merged), ("held_bytes", held)]);
    report("check for NaN", checked, bytes, &[("ratio", read.min(mapped) / checked)]);
}

fn open(paths: &[std::path::PathBuf]) -> Vec<CheckpointFile> {
    paths.iter().map(|path| CheckpointFile::open(path).expect("a file made above")).collect()
}

fn merge_files(paths: &[std::path::PathBuf], out: &Path) -> u64 {
    let candidates = open(paths);
    let tensors = &candidates[0].layout().tensors;
    let sizes: Vec<_> = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.elements())).collect();
    let names: Vec<_> = sizes.iter().map(|(name, _)| name.clone()).collect();
    let blocks = Blocks::new(&sizes, Granularity::Model);
    let policies = policies(&candidates[0], &names, &blocks).expect("tensors of the first file");
    let output = File::create(out).expect("a file in the folder");
    let written = merge(&candidates, &uniform(candidates.len()), &policies, output, &mut |_, _| Ok(()));
    written.expect("candidates that fit").size_bytes
}

/// Writes a file of this size.
fn write_file(path: &Path, size: u64) {
    let mut file = File::create(path).expect("a file in the folder");
    let bytes = vec![1; RUN];
    let mut left = size as usize;
    while left > 0 {
        file.write_all(&bytes[..left.min(RUN)]).expect("room on the disk");
        left -= left.min(RUN);
    }
}

/// Memory this process holds, without mapped pages of files.
fn held_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    kilobytes("RssAnon:") * 1000.0
}
