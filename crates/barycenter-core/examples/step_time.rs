//! Prints the time of a training step and of an evaluated batch of ResNet-20 on random images.
//!
//! `cargo run --release -p barycenter-core --example step_time [threads] [batch size] [steps]`

use std::sync::Arc;
use std::time::Instant;

use barycenter_core::Result;
use barycenter_core::data::{Augmentation, Dataset, Draws, Inputs, Normalisation};
use barycenter_core::network::{Network, NetworkSpec};
use barycenter_core::objective::{
    DatasetLoss, DatasetLossOptions, Loss, Objective, Recomputation, evaluate, recompute_statistics,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let argument = |position: usize, default: usize| {
        std::env::args().nth(position).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (threads, batch_size, steps) = (argument(1, 1), argument(2, 128), argument(3, 10));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
    pool.install(|| run(batch_size, steps))
}

fn run(batch_size: usize, steps: usize) -> Result<()> {
    let network: Arc<dyn Network> = Arc::from(NetworkSpec::ResnetCifar { depth: 20, classes: 10 }.build()?);
    let parameters = network.initial_parameters(0);
    let dataset = Arc::new(images(4 * batch_size)?);
    let indices: Vec<usize> = (0..dataset.len()).collect();
    let augmentation = Augmentation { pad: 4, flip: true };
    let options =
        DatasetLossOptions { batch_size, augmentation, loss: Loss::CrossEntropy { label_smoothing: 0.0 }, seed: 0 };
    let mut objective = DatasetLoss::new(network.clone(), dataset.clone(), indices.clone(), options)?;
    let mut times = Vec::new();
    for step in 0..steps {
        let start = Instant::now();
        objective.loss_and_gradient(&parameters, step as u64)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("step: best {:.0} ms, median {:.0} ms", times[0], times[steps / 2]);

    let start = Instant::now();
    let recomputation = Recomputation { batch_size, augmentation, batches: None, seed: 0 };
    let statistics = recompute_statistics(&*network, &parameters, &dataset, &indices, &recomputation, &|| false)?;
    println!("recomputed statistics: {:.0} ms a batch", start.elapsed().as_secs_f64() * 1e3 / 4.0);
    let start = Instant::now();
    evaluate(&*network, &parameters, &statistics, &dataset, &indices, batch_size, &|| false)?;
    println!("evaluation: {:.0} ms a batch", start.elapsed().as_secs_f64() * 1e3 / 4.0);
    Ok(())
}

fn images(count: usize) -> Result<Dataset> {
    let mut draws = Draws::keyed(&[1]);
    let inputs = (0..count * 3 * 32 * 32).map(|_| draws.bits() as u8).collect();
    let labels = (0..count).map(|sample| (sample % 10) as u32).collect();
    let normalisation = Normalisation { scale: 1.0 / 255.0, mean: vec![0.5], std: vec![0.25] };
    Dataset::from_inputs(Inputs::U8(inputs), &[count, 3, 32, 32], labels, normalisation)
}
