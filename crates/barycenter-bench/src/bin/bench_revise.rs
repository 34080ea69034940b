//! Prints, as lines of JSON, the time of revising a projection by five candidates that come, against building it.
//!
//! `cargo run --release -p barycenter-bench --bin bench_revise FOLDER [threads] [candidates] [megabytes] [rounds]`
//!
//! Files that FOLDER lacks are made. The set grows by five at a time, as that of a policy does; each line has {figure, seconds,
//! bytes}: the best time of the rounds and the bytes that the projection holds.

use barycenter_bench::checkpoints::{self, Arguments, report, seconds};
use barycenter_core::{
    Result,
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
    let sizes: Vec<_> = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.elements())).collect();
    let names: Vec<_> = sizes.iter().map(|(name, _)| name.clone()).collect();
    let blocks = Blocks::new(&sizes, Granularity::Model);
    let build = |n: usize| Projection::build(&candidates[..n], &names, &blocks, BITS, &mut |_, _| Ok(()));
    let mut held = build(EVERY)?;
    for n in (2 * EVERY..=candidates.len()).step_by(EVERY) {
        let [mut built, mut loaded, mut revised, mut saved] = [f64::INFINITY; 4];
        held.save(&file)?;
        let stays = (0..n - EVERY).map(Member::Stays);
        let members = stays.chain(candidates[n - EVERY..n].iter().map(Member::Comes)).collect();
        let revision = Revision { members, dropped: Vec::new() };
        for _ in 0..arguments.rounds {
            built = built.min(seconds(|| build(n)));
            loaded = loaded.min(seconds(|| Projection::load(&file)));
            let before = held.clone();
            revised = revised.min(seconds(|| before.revised(&revision)));
        }
        held = held.revised(&revision)?.expect("the centre stays near");
        for _ in 0..arguments.rounds {
            saved = saved.min(seconds(|| held.save(&file)));
        }
        let bytes = held.held_bytes();
        report(&format!("build of {n}"), built, bytes, &[]);
        report(&format!("load of {}", n - EVERY), loaded, bytes, &[]);
        report(&format!("revise to {n}"), revised, bytes, &[("ratio_of_build", revised / built)]);
        report(&format!("save of {n}"), saved, bytes, &[]);
    }
    Ok(std::fs::remove_file(&file).map_err(|e| barycenter_core::Error::Io { path: file, source: e })?)
}
