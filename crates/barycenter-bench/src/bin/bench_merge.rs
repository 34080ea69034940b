//! Prints, as lines of JSON, the times of merging and checking checkpoint files against reading and writing them.
//!
//! `cargo run --release -p barycenter-bench --bin bench_merge FOLDER [threads] [candidates] [megabytes] [rounds] [cold]`
//!
//! Files that FOLDER lacks are made. Each line has {figure, seconds, bytes, ratio}: the best time of the rounds and, for the
//! merge, the time of reading all files once and writing one of the output's size, measured in the same rounds, over its
//! own. `held_bytes` is what the process held at most meanwhile, without mapped pages of files. The files are read
//! from the disk before the first round; with `cold` the system's copy of them is dropped before every reading and merge.

use std::{
    fs::File,
    io::{ErrorKind, Write as _},
    path::Path,
};

use barycenter_bench::{
    checkpoints::{self, Arguments, RUN, report, seconds},
    process::HeldPeak,
};
use barycenter_core::{
    Result,
    blocks::{Blocks, Granularity},
    checkpoint::{CheckpointFile, check_finite},
    merge::{merge, policies, weights::uniform},
};

#[global_allocator]
static ALLOCATOR: barycenter_allocator::MiMalloc = barycenter_allocator::MiMalloc;

fn main() -> Result<()> {
    barycenter_allocator::keep_between_steps();
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
    let is_cold = std::env::args().any(|argument| argument == "cold");
    let cool = || {
        if is_cold {
            checkpoints::forget(paths);
        }
    };
    checkpoints::warm(paths);
    let held = HeldPeak::watch();
    for _ in 0..arguments.rounds {
        cool();
        read = read.min(seconds(|| checkpoints::read_files(paths)));
        cool();
        mapped = mapped.min(seconds(|| checkpoints::read_maps(paths)));
        // Both write a new file: cutting off an old one of this size takes as long as writing it.
        remove(&out);
        write = write.min(seconds(|| write_file(&out, size)));
        remove(&out);
        cool();
        merged = merged.min(seconds(|| size = merge_files(paths, &out)));
        cool();
        let candidates = open(paths);
        checked = checked.min(seconds(|| check_finite(&candidates, &names)));
    }
    let held = held.bytes() as f64;
    remove(&out);
    let bytes: u64 = paths.iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum();
    report("read files once", read, bytes, &[]);
    report("read maps once", mapped, bytes, &[("ratio_of_read", read / mapped)]);
    report("write one file", write, size, &[]);
    let floor = read.min(mapped) + write;
    report("merge", merged, bytes + size, &[("ratio", floor / merged), ("held_bytes", held)]);
    report("check for NaN", checked, bytes, &[("ratio", read.min(mapped) / checked)]);
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{}: {error}", path.display());
    }
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
    let written = merge(&candidates, &uniform(candidates.len()), &policies, None, output, &mut |_, _| Ok(()));
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
