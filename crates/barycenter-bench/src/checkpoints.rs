//! Checkpoints made in a folder, and plain reading and writing to compare with.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use barycenter_core::{
    Result,
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer},
};
use rayon::prelude::*;

/// Elements of the larger tensors; a model of some layers.
const LAYER: usize = 1 << 23;

/// Bytes that are read or written at once.
pub const RUN: usize = 1 << 20;

/// The arguments of both programs.
pub struct Arguments {
    /// Where the files are.
    pub folder: PathBuf,
    /// Threads of the pool.
    pub threads: usize,
    /// n.
    pub candidates: usize,
    /// Size of a candidate's file.
    pub megabytes: usize,
    /// The best of so many counts.
    pub rounds: usize,
}

impl Arguments {
    /// Those of this process, or the defaults.
    ///
    /// # Panics
    /// Where no folder is named.
    pub fn of_process() -> Self {
        let argument = |position: usize, default: usize| {
            std::env::args().nth(position).and_then(|text| text.parse().ok()).unwrap_or(default)
        };
        Self {
            folder: std::env::args().nth(1).expect("a folder for the files").into(),
            threads: argument(2, 2),
            candidates: argument(3, 6),
            megabytes: argument(4, 1000),
            rounds: argument(5, 5),
        }
    }

    /// A pool of that many threads.
    ///
    /// # Panics
    /// Where the system refuses threads.
    pub fn pool(&self) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(self.threads).build().expect("a pool of threads")
    }
}

/// Makes the files that are not there yet: f32 tensors of many sizes, one run's checkpoints near each other.
pub fn make(arguments: &Arguments) -> Result<Vec<PathBuf>> {
    let paths: Vec<_> =
        (0..arguments.candidates).map(|i| arguments.folder.join(format!("candidate_{i}.safetensors"))).collect();
    for (i, path) in paths.iter().enumerate().filter(|(_, path)| !path.exists()) {
        write_checkpoint(path, i as u64, arguments.megabytes)?;
    }
    Ok(paths)
}

fn write_checkpoint(path: &Path, seed: u64, megabytes: usize) -> Result<()> {
    let mut left = megabytes * 250_000;
    let mut sizes = Vec::new();
    while left > 0 {
        for size in [LAYER, 1000, 30_000] {
            sizes.push(size.min(left));
            left -= size.min(left);
        }
    }
    let named = sizes.iter().filter(|size| **size > 0).enumerate();
    let specs: Vec<_> = named
        .map(|(t, size)| TensorSpec { name: format!("layer.{t}.weight"), dtype: Dtype::F32, shape: vec![*size] })
        .collect();
    let mut writer = Writer::new(File::create(path).expect("a file in the folder"), specs.clone(), &BTreeMap::new())?;
    for (t, spec) in specs.iter().enumerate() {
        let value = |e: usize| number(t as u64, e as u64) + 0.1 * number(1000 + seed * 7919 + t as u64, e as u64);
        let mut bytes = vec![0; 4 * spec.shape[0]];
        bytes.par_chunks_mut(RUN).enumerate().for_each(|(run, into)| {
            for (e, into) in into.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *into = value(run * RUN / 4 + e).to_le_bytes();
            }
        });
        writer.write(&spec.name, &bytes)?;
    }
    writer.finish()?;
    Ok(())
}

/// Roughly Gaussian: a sum of four uniform numbers.
fn number(seed: u64, index: u64) -> f32 {
    let mut z = (seed << 32 | index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^= z >> 27;
    (0..4).map(|part| (z >> (16 * part) & 0xffff) as f32).sum::<f32>() / 65536.0 - 2.0
}

/// Drops the system's copy of files.
///
/// # Panics
/// Where `dd`, which does it, refuses.
pub fn forget(paths: &[PathBuf]) {
    for path in paths {
        let input = format!("if={}", path.display());
        let dropped = Command::new("dd").args([&input, "iflag=nocache", "count=0", "status=none"]).status();
        assert!(dropped.is_ok_and(|status| status.success()), "{}: dd refuses", path.display());
    }
}

/// Has the system hold files as it holds what it read from the disk, in large pages; of what a program wrote it may hold small
/// ones, which take longer to read.
///
/// # Panics
/// Where a file cannot be read.
pub fn warm(paths: &[PathBuf]) {
    forget(paths);
    read_files(paths);
}

/// Seconds that `work` took.
pub fn seconds<T>(work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    std::hint::black_box(work());
    start.elapsed().as_secs_f64()
}

/// Reads every byte once through `read`, the files shared out over the threads.
///
/// # Panics
/// Where a file cannot be read.
pub fn read_files(paths: &[PathBuf]) -> u64 {
    let read = |path: &PathBuf| {
        let (mut file, mut bytes, mut all) = (File::open(path).expect("a file made above"), vec![0; RUN], 0);
        loop {
            let count = file.read(&mut bytes).expect("a file that can be read");
            if count == 0 {
                return all;
            }
            all ^= folded(&bytes[..count]);
        }
    };
    paths.par_iter().map(read).reduce(|| 0, |a, b| a ^ b)
}

/// Reads every byte once through maps.
///
/// # Panics
/// Where a file cannot be mapped.
pub fn read_maps(paths: &[PathBuf]) -> u64 {
    let read = |path: &PathBuf| {
        let file = CheckpointFile::open(path).expect("a file made above");
        let tensors = file.layout().tensors.par_iter();
        let bytes = tensors.map(|tensor| file.bytes(&tensor.name).expect("a tensor of the file"));
        bytes.flat_map(|bytes| bytes.par_chunks(RUN)).map(folded).reduce(|| 0, |a, b| a ^ b)
    };
    paths.iter().map(read).fold(0, |a, b| a ^ b)
}

fn folded(bytes: &[u8]) -> u64 {
    let mut lanes = [0_u64; 16];
    for words in bytes.as_chunks::<8>().0.as_chunks::<16>().0 {
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane ^= u64::from_le_bytes(*word);
        }
    }
    lanes.iter().fold(0, |all, lane| all ^ lane)
}

/// Prints one line of JSON.
pub fn report(figure: &str, seconds: f64, bytes: u64, more: &[(&str, f64)]) {
    let more: Vec<String> = more.iter().map(|(name, value)| format!(r#", "{name}": {value:.3}"#)).collect();
    let more = more.concat();
    println!(r#"{{"figure": "{figure}", "seconds": {seconds:.4}, "bytes": {bytes}{more}}}"#);
}
