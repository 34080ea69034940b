//! Prints, as one line of JSON, the time of a training step (forward and backward pass) and the process's peak memory.
//!
//! `cargo run --release -p barycenter-core --example step_time_transformers -- KIND [threads] [steps]` with the kind `mlp`
//! (784-512-512-10, batch 128), `vit_tiny` (6 blocks of width 192, 3 heads, 65 positions, batch 64) or `gpt2_tiny` (4 blocks of
//! width 256, 4 heads, 128 positions, vocabulary 8192, batch 8). `benches/compare/transformers.py` does the same in PyTorch.

use std::sync::Arc;
use std::time::Instant;

use barycenter_core::data::Draws;
use barycenter_core::network::{Gpt2Sizes, Mode, Network, NetworkSpec, VitSizes, Weights};
use barycenter_core::{Error, Result, ops};
use candle_core::{Device, Tensor};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |position: usize, default: usize| arguments.get(position).and_then(|text| text.parse().ok()).unwrap_or(default);
    let kind = arguments.first().map_or("vit_tiny", String::as_str);
    let (threads, steps) = (number(1, 1), number(2, 10));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
    let mut times = pool.install(|| Work::new(kind)?.times(steps))?;
    times.sort_by(|a, b| a.wall.total_cmp(&b.wall));
    let cpu = times.iter().map(|time| time.cpu).fold(f64::INFINITY, f64::min);
    let line = serde_json::json!({
        "side": "barycenter",
        "kind": kind,
        "threads": threads,
        "best_ms": times[0].wall,
        "median_ms": times[steps / 2].wall,
        "best_thread_cpu_ms": cpu,
        "peak_rss_mb": peak_memory(),
    });
    println!("{line}");
    Ok(())
}

/// Milliseconds of a step: wall-clock time, and processor time of the thread that led it.
struct StepTime {
    wall: f64,
    cpu: f64,
}

/// A network with a batch of random data.
struct Work {
    network: Box<dyn Network>,
    inputs: Tensor,
    labels: Arc<[u32]>,
}

impl Work {
    fn new(kind: &str) -> Result<Self> {
        let mut draws = Draws::keyed(&[1]);
        let mut images = |shape: &[usize]| {
            let values = (0..shape.iter().product()).map(|_| draws.normal() as f32).collect::<Vec<_>>();
            Tensor::from_vec(values, shape, &Device::Cpu)
        };
        let label = |classes: usize| move |sample: usize| (sample * 7 % classes) as u32;
        match kind {
            "mlp" => {
                let network = NetworkSpec::Mlp { features: vec![784, 512, 512, 10] }.build()?;
                Ok(Self { network, inputs: images(&[128, 784])?, labels: (0..128).map(label(10)).collect() })
            }
            "vit_tiny" => {
                let (image_size, patch_size, width) = (32, 4, 192);
                let sizes =
                    VitSizes { image_size, patch_size, width, depth: 6, heads: 3, mlp_width: 4 * width, classes: 10 };
                let network = NetworkSpec::Vit(sizes).build()?;
                Ok(Self { network, inputs: images(&[64, 32, 32, 3])?, labels: (0..64).map(label(10)).collect() })
            }
            "gpt2_tiny" => {
                let sizes = Gpt2Sizes { vocabulary: 8192, positions: 128, width: 256, depth: 4, heads: 4 };
                let network = NetworkSpec::Gpt2(sizes).build()?;
                let tokens: Vec<u32> = (0..8 * 128).map(|_| draws.below(8192) as u32).collect();
                let inputs = Tensor::from_vec(tokens, (8, 128), &Device::Cpu)?;
                Ok(Self { network, inputs, labels: (0..8 * 128).map(label(8192)).collect() })
            }
            _ => Err(Error::input(format!("`{kind}` is not one of `mlp`, `vit_tiny`, `gpt2_tiny`"))),
        }
    }

    fn times(&self, steps: usize) -> Result<Vec<StepTime>> {
        let weights = self.network.initial_parameters(0);
        let weights = Weights::trained(&*self.network, &weights)?;
        let step = || {
            let (start, cpu) = (Instant::now(), processor_time());
            let logits = self.network.forward(&weights, &self.inputs, &mut Mode::Train)?;
            let losses = ops::cross_entropy(weights.graph(), &logits, self.labels.clone(), 0.0)?;
            drop(logits);
            let rows = losses.elem_count();
            weights.gradients(&losses, vec![1.0 / rows as f32; rows])?;
            Ok(StepTime { wall: start.elapsed().as_secs_f64() * 1e3, cpu: processor_time() - cpu })
        };
        (0..steps.max(1)).map(|_| step()).collect()
    }
}

/// Milliseconds this thread has spent on a processor, as Linux counts them; 0 elsewhere.
fn processor_time() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|nanoseconds| nanoseconds.parse::<f64>().ok()).unwrap_or(0.0) * 1e-6
}

/// Megabytes of memory the process has held at most, as Linux counts them; 0 elsewhere.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}
