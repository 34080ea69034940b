//! The inner loops at sizes that fit the caches: what a change of a kernel does, without the memory's share.

#![expect(clippy::unwrap_used, reason = "a benchmark whose inputs cannot be made is over")]

use std::{collections::BTreeMap, hint::black_box};

use barycenter_core::{
    blocks::{Blocks, Granularity},
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer, check_finite},
    data::Draws,
    merge::{merge, policies, weights::uniform},
    network::{Mode, Network, NetworkSpec, Weights},
    ops,
    projection::Projection,
};
use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[global_allocator]
static ALLOCATOR: barycenter_allocator::MiMalloc = barycenter_allocator::MiMalloc;

const COLUMNS: usize = 1 << 18;
const N: usize = 16;

fn candidate(seed: u64) -> CheckpointFile {
    let spec = TensorSpec { name: "w".to_owned(), dtype: Dtype::F32, shape: vec![COLUMNS] };
    let mut draws = Draws::keyed(&[seed]);
    let data: Vec<u8> = (0..COLUMNS).flat_map(|_| (draws.normal() as f32).to_le_bytes()).collect();
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, vec![spec], &BTreeMap::new()).unwrap();
    writer.write("w", &data).unwrap();
    writer.finish().unwrap();
    CheckpointFile::from_bytes(bytes).unwrap()
}

fn candidates() -> Vec<CheckpointFile> {
    (0..N as u64).map(candidate).collect()
}

fn blocks() -> Blocks {
    Blocks::new(&[("w".to_owned(), COLUMNS)], Granularity::Model)
}

fn passes(criterion: &mut Criterion) {
    let candidates = candidates();
    let mut group = criterion.benchmark_group("projection");
    for bits in [1, 2, 4, 8, 32] {
        let build = || Projection::build(&candidates, &["w".to_owned()], &blocks(), bits, &mut |_, _| Ok(())).unwrap();
        let projection = build();
        let (gradient, mut weights) = (vec![vec![0.5; COLUMNS]], vec![vec![0.0; COLUMNS]]);
        let x = [0.1; N];
        group.throughput(Throughput::Elements((N * COLUMNS) as u64));
        group.bench_function(format!("project, {bits} bits"), |b| b.iter(|| projection.project(black_box(&gradient))));
        group.bench_function(format!("reconstruct, {bits} bits"), |b| {
            b.iter(|| projection.reconstruct(black_box(&x), &mut weights));
        });
        group.sample_size(20).bench_function(format!("build, {bits} bits"), |b| b.iter(build));
    }
}

fn files(criterion: &mut Criterion) {
    let candidates = candidates();
    let names: Vec<String> = (0..N).map(|i| i.to_string()).collect();
    let policies = policies(&candidates[0], &["w".to_owned()], &blocks()).unwrap();
    let mut group = criterion.benchmark_group("files");
    group.throughput(Throughput::Bytes((4 * N * COLUMNS) as u64));
    group.bench_function("merge", |b| {
        b.iter(|| merge(&candidates, &uniform(N), &policies, None, std::io::sink(), &mut |_, _| Ok(())).unwrap());
    });
    group.bench_function("check for NaN", |b| b.iter(|| check_finite(&candidates, &names).unwrap()));
}

fn step(network: &dyn Network, parameters: &[Vec<f32>], inputs: &Tensor) -> Vec<Vec<f32>> {
    let weights = Weights::trained(network, parameters).unwrap();
    let logits = network.forward(&weights, inputs, &mut Mode::Train).unwrap();
    let rows = logits.dims()[0];
    let losses = ops::cross_entropy(weights.graph(), &logits, vec![1; rows].into(), 0.0).unwrap();
    weights.gradients(&losses, vec![1.0 / rows as f32; rows]).unwrap()
}

fn networks(criterion: &mut Criterion) {
    barycenter_allocator::keep_between_steps();
    let mut group = criterion.benchmark_group("step");
    for (name, spec, shape) in [
        ("mlp", NetworkSpec::Mlp { features: vec![784, 512, 512, 10] }, vec![128, 784]),
        ("resnet20", NetworkSpec::ResnetCifar { depth: 20, classes: 10 }, vec![16, 32, 32, 3]),
    ] {
        let network = spec.build().unwrap();
        let parameters = network.initial_parameters(0);
        let inputs = Tensor::randn(0_f32, 1.0, shape, &Device::Cpu).unwrap();
        group.sample_size(20).bench_function(name, |b| b.iter(|| step(&*network, &parameters, &inputs)));
    }
}

criterion_group!(kernels, passes, files, networks);
criterion_main!(kernels);
