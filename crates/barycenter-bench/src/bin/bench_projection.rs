//! Prints, as lines of JSON, the times of `project` and `reconstruct` against the speed at which this machine reads memory.
//!
//! `cargo run --release -p barycenter-bench --bin bench_projection [threads] [candidates] [columns] [rounds] [FOLDER]`
//!
//! FOLDER (`target/bench`) is there and holds a projection for a while.
//!
//! Each line has `{figure, seconds, bytes, bandwidth, ratio, peak_rss_bytes}`: the best time of the rounds, the bytes of
//! packed projection, scales and vectors that were read or written, the best bandwidth read in the same rounds, in bytes a
//! second, the pass's own bandwidth over that, and the most memory that the process which measures them has held.

use std::time::Instant;

use barycenter_bench::process;
use barycenter_core::{
    Result,
    blocks::{Blocks, Granularity},
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer},
    projection::Projection,
};
use rayon::prelude::*;

#[global_allocator]
static ALLOCATOR: barycenter_allocator::MiMalloc = barycenter_allocator::MiMalloc;

fn main() -> Result<()> {
    barycenter_allocator::keep_between_steps();
    let argument = |position: usize, default: usize| {
        std::env::args().nth(position).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (threads, n, columns, rounds) = (argument(1, 2), argument(2, 32), argument(3, 25_000_000), argument(4, 9));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
    match (std::env::args().nth(5).as_deref(), std::env::args().nth(6)) {
        (Some("make"), Some(file)) => {
            let bits = argument(7, 4) as u8;
            pool.install(|| projection(n, columns, bits))?.save(file)
        }
        (Some("measure"), Some(file)) => {
            let projection = Projection::load(file)?;
            pool.install(|| measure(&projection, columns, rounds));
            Ok(())
        }
        (folder, _) => {
            in_processes(folder.unwrap_or("target/bench"), [threads, n, columns, rounds]);
            Ok(())
        }
    }
}

/// Makes each projection in one process and measures it in another, which has held nothing else: nor has a worker that
/// finds the projection in its cache.
fn in_processes(folder: &str, sizes: [usize; 4]) {
    let program = std::env::current_exe().expect("this program's file");
    let file = std::path::Path::new(folder).join("projection");
    for bits in ["4", "8", "2", "1"] {
        for work in ["make", "measure"] {
            let mut command = std::process::Command::new(&program);
            command.args(sizes.map(|size| size.to_string())).arg(work).arg(&file).arg(bits);
            assert!(command.status().is_ok_and(|status| status.success()), "{work} at {bits} bits fails");
        }
    }
    let _ = std::fs::remove_file(&file);
}

fn projection(n: usize, columns: usize, bits: u8) -> Result<Projection> {
    let candidates = (0..n).into_par_iter().map(|i| candidate(i, columns)).collect::<Result<Vec<_>>>()?;
    let blocks = Blocks::new(&[("w".to_owned(), columns)], Granularity::Model);
    Projection::build(&candidates, &["w".to_owned()], &blocks, bits, &mut |_, _| Ok(()))
}

fn measure(projection: &Projection, columns: usize, rounds: usize) {
    let (n, bits) = (projection.n(), projection.bits());
    let (gradient, mut weights) = (vec![numbers(99, columns)], vec![vec![0.0; columns]]);
    let x = vec![0.01; n];
    let memory: &[u8] = bytemuck::cast_slice(&gradient[0]);
    let (mut read, mut project, mut reconstruct) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
    for _ in 0..rounds {
        read = read.min(seconds(|| read_all(memory)) / memory.len() as f64);
        project = project.min(seconds(|| projection.project(&gradient)));
        reconstruct = reconstruct.min(seconds(|| projection.reconstruct(&x, &mut weights)));
    }
    let packed = projection.packed_bytes();
    let passes =
        [("project", project, packed + 4 * columns as u64), ("reconstruct", reconstruct, packed + 8 * columns as u64)];
    for (pass, seconds, bytes) in passes {
        let bandwidth = 1.0 / read;
        let ratio = bytes as f64 / seconds / bandwidth;
        println!(
            r#"{{"figure": "{pass}, {bits} bits", "seconds": {seconds}, "bytes": {bytes}, "bandwidth": {bandwidth:.0}, "ratio": {ratio:.3}, "peak_rss_bytes": {}}}"#,
            process::peak_rss_bytes()
        );
    }
}

fn seconds<T>(work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    std::hint::black_box(work());
    start.elapsed().as_secs_f64()
}

/// Reads memory on all threads and does next to nothing with it.
fn read_all(bytes: &[u8]) -> u64 {
    let part = |part: &[u8]| {
        let mut lanes = [0_u64; 16];
        for words in part.as_chunks::<8>().0.as_chunks::<16>().0 {
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane ^= u64::from_le_bytes(*word);
            }
        }
        lanes.iter().fold(0, |all, lane| all ^ lane)
    };
    bytes.par_chunks(1 << 20).map(part).reduce(|| 0, |a, b| a ^ b)
}

/// Roughly Gaussian numbers: sums of four uniform ones.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let number = |index: usize| {
        let mut z = (seed << 40 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^= z >> 27;
        (0..4).map(|part| (z >> (16 * part) & 0xffff) as f32).sum::<f32>() / 65536.0 - 2.0
    };
    (0..count).into_par_iter().map(number).collect()
}

fn candidate(i: usize, columns: usize) -> Result<CheckpointFile> {
    let spec = TensorSpec { name: "w".to_owned(), dtype: Dtype::F32, shape: vec![columns] };
    let mut bytes = Vec::with_capacity(4 * columns + 4096);
    let mut writer = Writer::new(&mut bytes, vec![spec], &std::collections::BTreeMap::new())?;
    let data: Vec<u8> = numbers(i as u64 + 1, columns).iter().flat_map(|value| value.to_le_bytes()).collect();
    writer.write("w", &data)?;
    writer.finish()?;
    CheckpointFile::from_bytes(bytes)
}
