//! Prints, as lines of JSON, the time of building a projection of checkpoint files against reading them once.
//!
//! `cargo run --release -p barycenter-bench --bin bench_build FOLDER [threads] [candidates] [megabytes] [rounds]`
//!
//! Files that FOLDER lacks are made, and all are read from the disk before the first round. Each line has {figure, seconds, bytes, ratio}: the best time of the rounds and the
//! time of reading the files once, measured in the same rounds, over it.

use barycenter_bench::checkpoints::{self, Arguments, report, seconds};
use barycenter_core::{
    Result,
    blocks::{Blocks, Granularity},
    checkpoint::CheckpointFile,
    projection::Projection,
};

#[global_allocator]
static ALLOCATOR: barycenter_allocator::MiMalloc = barycenter_allocator::MiMalloc;

fn main() -> Result<()> {
    barycenter_allocator::keep_between_steps();
    let arguments = Arguments::of_process();
    let paths = checkpoints::make(&arguments)?;
    arguments.pool().install(|| measure(&arguments, &paths))
}

fn measure(arguments: &Arguments, paths: &[std::path::PathBuf]) -> Result<()> {
    let [mut read, mut mapped] = [f64::INFINITY; 2];
    let all_bits = [4, 8, 2, 1, 32];
    let mut built = [f64::INFINITY; 5];
    checkpoints::warm(paths);
    for _ in 0..arguments.rounds {
        read = read.min(seconds(|| checkpoints::read_files(paths)));
        mapped = mapped.min(seconds(|| checkpoints::read_maps(paths)));
        for (best, bits) in built.iter_mut().zip(all_bits).take(if arguments.rounds > 1 { 4 } else { 1 }) {
            let candidates = paths.iter().map(CheckpointFile::open).collect::<Result<Vec<_>>>()?;
            let tensors = &candidates[0].layout().tensors;
            let sizes: Vec<_> = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.elements())).collect();
            let names: Vec<_> = sizes.iter().map(|(name, _)| name.clone()).collect();
            let blocks = Blocks::new(&sizes, Granularity::Model);
            let build = || Projection::build(&candidates, &names, &blocks, bits, &mut |_, _| Ok(()));
            *best = best.min(seconds(build));
        }
    }
    let bytes: u64 = paths.iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum();
    report("read files once", read, bytes, &[]);
    report("read maps once", mapped, bytes, &[("ratio_of_read", read / mapped)]);
    for (best, bits) in built.into_iter().zip(all_bits).filter(|(best, _)| best.is_finite()) {
        report(&format!("build, {bits} bits"), best, bytes, &[("ratio", read.min(mapped) / best)]);
    }
    Ok(())
}
