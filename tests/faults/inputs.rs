//! A small real job: perceptrons that were pulled apart around a common centre, and data to average them on.

use std::{collections::BTreeMap, fs::File, io::BufWriter, path::Path};

use barycenter_api::{
    Among, CandidateSetRule, CreateCandidateSet, CreateRun, Job, JobSpec, PushCheckpoint, PushDataset,
    client::{ByteCounter, Client},
};
use barycenter_core::{
    checkpoint::{Dtype, TensorSpec, Writer},
    data::Draws,
    network::NetworkSpec,
};
use serde_json::json;

use crate::cluster::Cluster;

const FEATURES: [usize; 3] = [64, 256, 10];
const CANDIDATES: usize = 6;
const SAMPLES: usize = 2000;

#[expect(clippy::needless_pass_by_value, reason = "made on the spot by every caller")]
pub fn write(path: &Path, tensors: Vec<(TensorSpec, Vec<u8>)>) {
    let specs = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    let mut writer = Writer::new(BufWriter::new(File::create(path).unwrap()), specs, &BTreeMap::default()).unwrap();
    for (spec, bytes) in &tensors {
        writer.write(&spec.name, bytes).unwrap();
    }
    writer.finish().unwrap();
}

pub fn bytes(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

pub fn signed(draws: &mut Draws) -> f32 {
    draws.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0
}

/// A tensor of a file with its values.
pub fn tensor(name: &str, shape: &[usize], values: &[f32]) -> (TensorSpec, Vec<u8>) {
    let spec = TensorSpec { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec() };
    (spec, bytes(values.iter().copied()))
}

/// Numbers in [−1, 1), the same for a seed.
pub fn draw(seed: u64, count: usize) -> Vec<f32> {
    let mut draws = Draws::keyed(&[seed]);
    (0..count).map(|_| signed(&mut draws)).collect()
}

/// Writes a checkpoint: the common weights, pulled apart by a noise of its own.
pub fn checkpoint(path: &Path, candidate: usize) {
    let network = NetworkSpec::Mlp { features: FEATURES.to_vec() }.build().unwrap();
    let mut draws = Draws::keyed(&[17, 0, candidate as u64]);
    let tensors = network.tensors().iter().zip(network.initial_parameters(5)).map(|(tensor, weights)| {
        let spec = TensorSpec { name: tensor.name.clone(), dtype: Dtype::F32, shape: tensor.shape.clone() };
        let pull = 0.02 * (candidate + 1) as f32;
        (spec, bytes(weights.iter().map(|weight| weight + pull * signed(&mut draws)).collect::<Vec<_>>()))
    });
    write(path, tensors.collect());
}

fn dataset(path: &Path) {
    let mut draws = Draws::keyed(&[23, 0, 0]);
    let inputs: Vec<f32> = (0..SAMPLES * FEATURES[0]).map(|_| signed(&mut draws)).collect();
    let label = |sample: &[f32]| sample[..FEATURES[2]].iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    let labels = inputs.chunks_exact(FEATURES[0]).flat_map(|sample| (label(sample) as i64).to_le_bytes()).collect();
    let spec = |name: &str, dtype, shape: &[usize]| TensorSpec { name: name.into(), dtype, shape: shape.to_vec() };
    write(
        path,
        vec![
            (spec("labels", Dtype::I64, &[SAMPLES]), labels),
            (spec("inputs", Dtype::F32, &[SAMPLES, FEATURES[0]]), bytes(inputs)),
        ],
    );
}

/// Pushes a run with its checkpoints and a dataset, and returns the spec of a job that takes some seconds.
pub async fn push(cluster: &Cluster) -> JobSpec {
    push_from(&cluster.client, cluster.folder.path(), 400).await
}

/// The same through any client; the files are made in `folder`, and the job takes so many epochs.
pub async fn push_from(client: &Client, folder: &Path, epochs: u32) -> JobSpec {
    let run = CreateRun { name: "faults".into(), project: None, description: None, metadata: serde_json::Map::new() };
    client.create_run(&run).await.unwrap();
    for candidate in 0..CANDIDATES {
        let path = folder.join(format!("{candidate}.safetensors"));
        checkpoint(&path, candidate);
        let beside = PushCheckpoint::default();
        client.push_checkpoint("faults", candidate as i64, &beside, &path, &ByteCounter::none()).await.unwrap();
    }
    let path = folder.join("data.safetensors");
    dataset(&path);
    client.push_dataset("data", &PushDataset::default(), &path, &ByteCounter::none()).await.unwrap();
    let rule = CandidateSetRule::Last { count: CANDIDATES as u32, among: Among::default() };
    let set = client
        .create_candidate_set("faults", &CreateCandidateSet { name: None, rule, other_runs: Vec::new() })
        .await
        .unwrap();
    serde_json::from_value(json!({
        "candidate_set_id": set.candidate_set_id,
        "network": { "kind": "mlp", "features": FEATURES },
        "method": { "kind": "twa", "granularity": "tensor", "epochs": epochs, "batch_size": 32 },
        "data": { "fit": "data" },
        "seed": 11,
    }))
    .unwrap()
}

pub async fn submit(cluster: &Cluster, spec: &JobSpec) -> Job {
    cluster.client.submit_job(spec).await.unwrap()
}
