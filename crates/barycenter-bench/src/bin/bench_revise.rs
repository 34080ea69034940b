//! Prints, as lines of JSON, the time of revising a projection by five candidates that come, against building it.
//!
//! `cargo run --release -p barycenter-bench --bin bench_revise FOLDER [threads] [candidates] [megabytes] [rounds]`
//!
//! Files that FOLDER lacks are made. The set grows by five at a time, as that of a policy does, anew in every round; each line has
//! {figure, seconds, bytes}: the best time of the rounds and the bytes that the projection holds.

use std::time::Instant;

use barycenter_bench::checkpoints::{self, Arguments, report, seconds};
use barycenter_core::{
    Error, Result,
    blocks::{Blocks, Granularity},
    checkpoint::CheckpointFile,
    projection::{Member, Projection, Revision},
};

#[global_allocator]
static ALLOCATOR: barycenter_allocator::MiMalloc = barycenter_allocator::MiMalloc;

/// Candidates that come at each refresh.
const EVERY: usize = 5;

/// Bits of a code.
const BITS: u8 = 4;

fn main() -> Result<()> {
    barycenter_allocator::keep_between_steps();
    let arguments = Arguments::of_process();
    let paths = checkpoints::make(&arguments)?;
    arguments.pool().install(|| measure(&arguments, &paths))
}

fn measure(arguments: &Arguments, paths: &[std::path::PathBuf]) -> Result<()> {
    let file = arguments.folder.join("of_bench_revise.projection");
    let candidates = paths.iter().map(CheckpointFile::open).collect::<Result<Vec<_>>>()?;
    let tensors = &candidates[0].layout().tensors;
    let named: Vec<_> = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.elements())).collect();
    let names: Vec<_> = named.iter().map(|(name, _)| name.clone()).collect();
    let blocks = Blocks::new(&named, Granularity::Model);
    let build = |n: usize| Projection::build(&candidates[..n], &names, &blocks, BITS, &mut |_, _| Ok(()));
    let sizes: Vec<usize> = (2 * EVERY..=candidates.len()).step_by(EVERY).collect();
    let mut best = vec![[f64::INFINITY; 4]; sizes.len()];
    let mut bytes = Vec::new();
    for _ in 0..arguments.rounds {
        let mut held = build(EVERY)?;
        bytes.clear();
        for (n, best) in sizes.iter().zip(&mut best) {
            let stays = (0..n - EVERY).map(Member::Stays);
            let members = stays.chain(candidates[n - EVERY..*n].iter().map(Member::Comes)).collect();
            let revision = Revision { members, dropped: Vec::new() };
            let built = seconds(|| build(*n));
            let start = Instant::now();
            // Where it lies, as a worker does that holds it.
            held = held.revised(&revision)?.expect("the centre stays near");
            let revised = start.elapsed().as_secs_f64();
            let times = [built, revised, seconds(|| held.save(&file)), seconds(|| Projection::load(&file))];
            best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
            bytes.push(held.held_bytes());
        }
    }
    for ((n, bytes), [built, revised, saved, loaded]) in sizes.iter().zip(bytes).zip(best) {
        report(&format!("build of {n}"), built, bytes, &[]);
        report(&format!("revise to {n}"), revised, bytes, &[("ratio_of_build", revised / built)]);
        report(&format!("save of {n}"), saved, bytes, &[]);
        report(&format!("load of {n}"), loaded, bytes, &[]);
    }
    std::fs::remove_file(&file).map_err(|e| Error::io(file, e))
}
