//! Times training steps (forward, loss, backward) of a network on random inputs and prints them as one JSON line.
//!
//! `cargo run --release -p barycenter-bench --bin bench_step [network] [batch] [threads] [steps]`, with `resnet20`
//! (CIFAR, 32x32), `resnet18` (64x64), `resnet50` (64x64), `vgg16`, `preresnet164`, `wide_resnet28`, `mlp` (784-512-512-10),
//! `vit_tiny` (6 blocks of width 192, 3 heads, 65 positions) or `gpt2_tiny` (4 blocks of width 256, 4 heads, 128 positions, a
//! vocabulary of 8192) as the network. `benches/compare/networks.py` takes the same arguments and runs `PyTorch`.

use std::time::Instant;

use barycenter_bench::process;
use barycenter_core::data::Draws;
use barycenter_core::network::{Gpt2Sizes, Mode, Network, NetworkSpec, VitSizes, Weights};
use barycenter_core::{Error, Result, ops};
use candle_core::{Device, Tensor};

#[global_allocator]
static ALLOCATOR: barycenter_allocator::MiMalloc = barycenter_allocator::MiMalloc;

const CLASSES: usize = 10;
const VOCABULARY: usize = 8192;
/// Steps that are not timed: the allocator and the caches settle.
const WARM_UP: usize = 2;

fn main() -> Result<()> {
    barycenter_allocator::keep_between_steps();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = arguments.first().map_or("resnet20", String::as_str);
    let number =
        |position: usize, default: usize| arguments.get(position).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (batch, threads, steps) = (number(1, 128), number(2, 1), number(3, 10));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
    let mut times = pool.install(|| run(name, batch, steps))?;
    times.wall_ms.sort_by(f64::total_cmp);
    let line = serde_json::json!({
        "side": "barycenter",
        "network": name,
        "batch": batch,
        "threads": threads,
        "steps": steps,
        "best_ms": times.wall_ms[0],
        "median_ms": times.wall_ms[steps / 2],
        "cpu_ms": times.cpu_ms,
        "peak_rss_bytes": process::peak_rss_bytes(),
    });
    println!("{line}");
    Ok(())
}

struct Times {
    wall_ms: Vec<f64>,
    /// Mean over the timed steps, all threads together.
    cpu_ms: f64,
}

/// The network of a name, and the shape of its inputs without the batch.
fn network(name: &str) -> Result<(Box<dyn Network>, Vec<usize>)> {
    let classes = CLASSES;
    let (spec, shape) = match name {
        "resnet20" => (NetworkSpec::ResnetCifar { depth: 20, classes }, vec![32, 32, 3]),
        "resnet18" => (NetworkSpec::Resnet { depth: 18, classes }, vec![64, 64, 3]),
        "resnet50" => (NetworkSpec::Resnet { depth: 50, classes }, vec![64, 64, 3]),
        "vgg16" => (NetworkSpec::VggBn { depth: 16, classes }, vec![32, 32, 3]),
        "preresnet164" => (NetworkSpec::PreresnetCifar { depth: 164, classes }, vec![32, 32, 3]),
        "wide_resnet28" => (NetworkSpec::WideResnet { depth: 28, width: 10, classes }, vec![32, 32, 3]),
        "mlp" => (NetworkSpec::Mlp { features: vec![784, 512, 512, CLASSES] }, vec![784]),
        "vit_tiny" => {
            let (image_size, patch_size, width, depth, heads) = (32, 4, 192, 6, 3);
            let sizes = VitSizes { image_size, patch_size, width, depth, heads, mlp_width: 4 * width, classes };
            (NetworkSpec::Vit(sizes), vec![32, 32, 3])
        }
        "gpt2_tiny" => {
            let sizes = Gpt2Sizes { vocabulary: VOCABULARY, positions: 128, width: 256, depth: 4, heads: 4 };
            (NetworkSpec::Gpt2(sizes), vec![128])
        }
        _ => return Err(Error::input(format!("`{name}` is no network of this program"))),
    };
    Ok((spec.build()?, shape))
}

fn run(name: &str, batch: usize, steps: usize) -> Result<Times> {
    let (network, shape) = network(name)?;
    let parameters = network.initial_parameters(0);
    let inputs = inputs(&*network, &[&[batch], shape.as_slice()].concat())?;
    let mut times = Times { wall_ms: Vec::new(), cpu_ms: 0.0 };
    for step in 0..WARM_UP + steps {
        if step == WARM_UP {
            times.cpu_ms = -1e3 * process::cpu_seconds();
        }
        let start = Instant::now();
        train_step(&*network, &parameters, &inputs)?;
        if step >= WARM_UP {
            times.wall_ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.cpu_ms = (times.cpu_ms + 1e3 * process::cpu_seconds()) / steps as f64;
    Ok(times)
}

fn inputs(network: &dyn Network, shape: &[usize]) -> Result<Tensor> {
    let mut draws = Draws::keyed(&[1]);
    let count = shape.iter().product();
    if network.reads_tokens() {
        let tokens: Vec<u32> = (0..count).map(|_| draws.below(VOCABULARY) as u32).collect();
        return Ok(Tensor::from_vec(tokens, shape, &Device::Cpu)?);
    }
    let numbers: Vec<f32> = (0..count).map(|_| draws.normal() as f32).collect();
    Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
}

fn train_step(network: &dyn Network, parameters: &[Vec<f32>], inputs: &Tensor) -> Result<()> {
    let weights = Weights::trained(network, parameters)?;
    let logits = network.forward(&weights, inputs, &mut Mode::Train)?;
    let rows = logits.dims()[0];
    let labels = (0..rows).map(|row| (row % CLASSES) as u32).collect();
    let losses = ops::cross_entropy(weights.graph(), &logits, labels, 0.0)?;
    drop(logits);
    weights.gradients(&losses, vec![1.0 / rows as f32; rows])?;
    Ok(())
}
