//! Runs whole jobs of five shapes and prints, for each, the estimate of their memory beside what they held at most.
//!
//! `cargo run --release -p barycenter-bench --bin bench_memory FOLDER [shape]`
//!
//! Without a shape the program runs itself once for each, since a peak is one of a process. Each line has
//! `{figure, estimated_bytes, held_bytes}`; held are pages of the process's own, as mapped files can be dropped at any time.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use barycenter_bench::process::HeldPeak;
use barycenter_core::{
    Error, Result,
    average::{
        AverageData, AverageOptions, Averaging, Baselines, BatchNormOptions, BatchNormPolicy, Materialise,
        MemoryEstimate, Method, Part, Silent, Sizes, TwaOptions,
    },
    blocks::Granularity,
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer},
    data::{Augmentation, Dataset, Draws},
    network::{Gpt2Sizes, Network, NetworkSpec, Role, VitSizes},
    objective::Loss,
};

#[global_allocator]
static ALLOCATOR: barycenter_allocator::MiMalloc = barycenter_allocator::MiMalloc;

const SHAPES: [&str; 5] = ["mlp", "resnet20", "resnet18", "vit", "gpt2"];
const CLASSES: usize = 10;

/// A job: network, shape of a sample, samples, batch size, candidates, bits.
struct Shape {
    spec: NetworkSpec,
    sample: Vec<usize>,
    samples: usize,
    batch_size: usize,
    n: usize,
    bits: u8,
}

fn shape(name: &str) -> Result<Shape> {
    let classes = CLASSES;
    let features = vec![784, 8192, 2048, CLASSES];
    let vit =
        VitSizes { image_size: 32, patch_size: 4, width: 384, depth: 8, heads: 6, mlp_width: 1536, classes: CLASSES };
    let gpt2 = Gpt2Sizes { vocabulary: 8192, positions: 128, width: 256, depth: 4, heads: 4 };
    let (spec, sample, samples, batch_size, n, bits) = match name {
        "mlp" => (NetworkSpec::Mlp { features }, vec![784], 512, 256, 16, 4),
        "resnet20" => (NetworkSpec::ResnetCifar { depth: 20, classes }, vec![3, 32, 32], 512, 256, 16, 4),
        "resnet18" => (NetworkSpec::Resnet { depth: 18, classes }, vec![3, 64, 64], 128, 64, 8, 8),
        "vit" => (NetworkSpec::Vit(vit), vec![3, 32, 32], 128, 64, 8, 2),
        "gpt2" => (NetworkSpec::Gpt2(gpt2), vec![128], 16, 8, 12, 32),
        _ => return Err(Error::input(format!("`{name}` is none of {SHAPES:?}"))),
    };
    Ok(Shape { spec, sample, samples, batch_size, n, bits })
}

fn main() -> Result<()> {
    barycenter_allocator::keep_between_steps();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().ok_or_else(|| Error::input("name a folder for the files"))?;
    let Some(name) = arguments.get(1) else {
        let program = std::env::current_exe().expect("a running program");
        for name in SHAPES {
            for work in ["make", "run"] {
                let ran = Command::new(&program).args([folder, name, work]).status().expect("a program that runs");
                assert!(ran.success(), "{work} {name}: {ran}");
            }
        }
        return Ok(());
    };
    let (folder, work) = (Path::new(folder), arguments.get(2).map_or("run", String::as_str));
    if work == "make" { make(folder, name) } else { run(folder, name) }
}

/// Writes a job's candidates and data, in a process of its own: an allocator keeps some of what is freed.
fn make(folder: &Path, name: &str) -> Result<()> {
    let Shape { spec, sample, samples, n, .. } = shape(name)?;
    let network = spec.build()?;
    for i in 0..n {
        write_candidate(&*network, &candidate_path(folder, name, i), i)?;
    }
    write_dataset(&*network, &dataset_path(folder, name), &sample, samples)
}

fn candidate_path(folder: &Path, name: &str, i: usize) -> PathBuf {
    folder.join(format!("memory_{name}_{i}.safetensors"))
}

fn dataset_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("memory_{name}_data.safetensors"))
}

fn run(folder: &Path, name: &str) -> Result<()> {
    let Shape { spec, sample, batch_size, n, bits, .. } = shape(name)?;
    let network: Arc<dyn Network> = Arc::from(spec.build()?);
    let candidates: Vec<_> =
        (0..n).map(|i| CheckpointFile::open(candidate_path(folder, name, i))).collect::<Result<_>>()?;
    let data = Arc::new(Dataset::open(&dataset_path(folder, name), None)?);
    let part = Part::all(data);
    let data =
        AverageData { fit: vec![part.clone()], select: part.clone(), test: Some(part.clone()), batch_norm: part };
    let parameters: Vec<usize> = network.parameters().iter().map(|spec| spec.len()).collect();
    let estimate = MemoryEstimate::new(&Sizes {
        candidates: n,
        tensors: &parameters,
        blocks: 1,
        bits,
        extends: false,
        ranks: 1,
        activation_bytes: network.activation_bytes(&sample, batch_size) as u64,
        dataset_bytes: 0,
    });
    let names: Vec<String> = (0..n).map(|i| format!("candidate {i}")).collect();
    let options = options(bits, batch_size, Loss::of(data.fit[0].dataset.kind()));
    let peak = HeldPeak::watch();
    let averaging = Averaging::new(network, &candidates, &names, data, options, &mut Silent)?;
    let projection = averaging.build_projection(&mut Silent)?;
    averaging.run(projection.as_ref(), None, &mut Silent)?;
    let line = serde_json::json!({
        "figure": name,
        "estimated_bytes": estimate.total_bytes,
        "held_bytes": peak.bytes(),
    });
    println!("{line}");
    Ok(())
}

fn options(bits: u8, batch_size: usize, loss: Loss) -> AverageOptions {
    AverageOptions {
        method: Method::Twa(TwaOptions {
            learning_rate: Some(1e-3),
            history_every: 10,
            ..TwaOptions::plain(Granularity::Model, bits, 2)
        }),
        batch_size,
        augmentation: Augmentation::default(),
        loss,
        batch_norm: BatchNormOptions { policy: BatchNormPolicy::Recompute, augment: false, batches: None },
        baselines: Baselines::All,
        guard: true,
        materialise: Materialise::Exact,
        tensors: Vec::new(),
        dtype: None,
        seed: 1,
    }
}

fn write_candidate(network: &dyn Network, path: &Path, i: usize) -> Result<()> {
    let tensors = network.tensors().iter().filter(|tensor| !matches!(tensor.role, Role::Tied(_) | Role::Carried));
    let specs = tensors.clone().map(|tensor| {
        let dtype = if tensor.role == Role::BatchCount { Dtype::I64 } else { Dtype::F32 };
        TensorSpec { name: tensor.name.clone(), dtype, shape: tensor.shape.clone() }
    });
    let (mut shared, mut own) = (network.initial_parameters(0), network.initial_parameters(1 + i as u64));
    let mut values = shared.drain(..).zip(own.drain(..));
    let mut writer = Writer::new(file(path)?, specs.collect(), &BTreeMap::new())?;
    for tensor in tensors {
        let bytes: Vec<u8> = match tensor.role {
            Role::Parameter => {
                let (shared, own) = values.next().expect("a vector for every parameter");
                shared.iter().zip(own).flat_map(|(shared, own)| (shared + 0.1 * own).to_le_bytes()).collect()
            }
            Role::BatchCount => vec![0; 8],
            _ => (0..tensor.len()).flat_map(|_| 1_f32.to_le_bytes()).collect(),
        };
        writer.write(&tensor.name, &bytes)?;
    }
    writer.finish()?;
    Ok(())
}

fn write_dataset(network: &dyn Network, path: &Path, sample: &[usize], samples: usize) -> Result<()> {
    let mut draws = Draws::keyed(&[7]);
    let shape = [&[samples], sample].concat();
    let count = shape.iter().product::<usize>();
    let spec = |name: &str, dtype, shape| TensorSpec { name: name.to_owned(), dtype, shape };
    if network.reads_tokens() {
        let tokens: Vec<u8> = (0..count).flat_map(|_| (draws.below(network.outputs()) as i64).to_le_bytes()).collect();
        let mut writer = Writer::new(file(path)?, vec![spec("tokens", Dtype::I64, shape)], &BTreeMap::new())?;
        writer.write("tokens", &tokens)?;
        writer.finish()?;
    } else {
        let inputs: Vec<u8> = (0..count).flat_map(|_| (draws.normal() as f32).to_le_bytes()).collect();
        let labels: Vec<u8> = (0..samples).flat_map(|i| ((i % CLASSES) as i64).to_le_bytes()).collect();
        let specs = vec![spec("inputs", Dtype::F32, shape), spec("labels", Dtype::I64, vec![samples])];
        let mut writer = Writer::new(file(path)?, specs, &BTreeMap::new())?;
        writer.write("inputs", &inputs)?;
        writer.write("labels", &labels)?;
        writer.finish()?;
    }
    Ok(())
}

fn file(path: &Path) -> Result<File> {
    File::create(path).map_err(|e| Error::io(path, e))
}
