//! Artifacts of the real worker, dropped and made again by the real command on another number of threads.

use std::path::Path;

use barycenter_api::{
    Among, Artifact, CandidateSetRule, CreateCandidateSet, CreateRun, Job, JobState, PushCheckpoint, PushDataset,
    client::ByteCounter,
};
use barycenter_core::{
    checkpoint::{Dtype, TensorSpec},
    data::Draws,
    network::{NetworkSpec, Role},
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    cluster::{Cluster, Process},
    inputs::{bytes, signed, submit, write},
};

const SAMPLES: usize = 48;
const CANDIDATES: usize = 3;

fn spec(name: &str, dtype: Dtype, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.into(), dtype, shape: shape.to_vec() }
}

/// A small residual network with running statistics, pulled apart by a noise of its own.
fn checkpoint(path: &Path, candidate: usize) {
    let network = NetworkSpec::ResnetCifar { depth: 8, classes: 10 }.build().unwrap();
    let mut draws = Draws::keyed(&[29, candidate as u64]);
    let mut parameters = network.initial_parameters(5).into_iter();
    let tensors = network.tensors().iter().map(|tensor| {
        let float = spec(&tensor.name, Dtype::F32, &tensor.shape);
        match tensor.role {
            Role::Parameter => {
                let weights = parameters.next().unwrap();
                let noisy: Vec<f32> = weights.iter().map(|weight| weight + 0.01 * signed(&mut draws)).collect();
                (float, bytes(noisy))
            }
            Role::RunningMean => (float, bytes(vec![0.0; tensor.len()])),
            Role::RunningVar => (float, bytes(vec![1.0; tensor.len()])),
            _ => (spec(&tensor.name, Dtype::I64, &[]), (candidate as i64).to_le_bytes().to_vec()),
        }
    });
    write(path, tensors.collect());
}

fn dataset(path: &Path) {
    let mut draws = Draws::keyed(&[31]);
    let pixels: Vec<f32> = (0..SAMPLES * 3 * 32 * 32).map(|_| signed(&mut draws)).collect();
    let labels = (0..SAMPLES as i64).flat_map(|sample| (sample % 10).to_le_bytes()).collect();
    let inputs = (spec("inputs", Dtype::F32, &[SAMPLES, 3, 32, 32]), bytes(pixels));
    write(path, vec![(spec("labels", Dtype::I64, &[SAMPLES]), labels), inputs]);
}

async fn push(cluster: &Cluster) -> Value {
    let (client, folder) = (&cluster.client, cluster.folder.path());
    let run = CreateRun { name: "images".into(), project: None, description: None, metadata: serde_json::Map::new() };
    client.create_run(&run).await.unwrap();
    let path = folder.join("file.safetensors");
    for candidate in 0..CANDIDATES {
        checkpoint(&path, candidate);
        let beside = PushCheckpoint::default();
        client.push_checkpoint("images", candidate as i64, &beside, &path, &ByteCounter::none()).await.unwrap();
    }
    dataset(&path);
    client.push_dataset("images", &PushDataset::default(), &path, &ByteCounter::none()).await.unwrap();
    let rule = CandidateSetRule::Last { count: CANDIDATES as u32, among: Among::default() };
    let new = CreateCandidateSet { name: None, rule, other_runs: Vec::new() };
    let set = client.create_candidate_set("images", &new).await.unwrap();
    json!({
        "candidate_set_id": set.candidate_set_id,
        "network": { "kind": "resnet_cifar", "depth": 8, "classes": 10 },
        "method": { "kind": "twa", "granularity": "layer", "epochs": 1, "batch_size": 16 },
        "data": { "fit": "images" },
        "baselines": "uniform",
        "guard": "off",
    })
}

async fn artifact_of(cluster: &Cluster, spec: &Value) -> Artifact {
    let job: Job = submit(cluster, &serde_json::from_value(spec.clone()).unwrap()).await;
    let job = cluster.until_terminal(job.job_id).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    cluster.client.artifact(job.artifact_id.unwrap()).await.unwrap()
}

async fn command(cluster: &Cluster, words: &[&str]) -> bool {
    let environment = [("BARYCENTER_SERVER", format!("http://{}", cluster.address))];
    Process::start(words, &environment).succeeds().await
}

#[sqlx::test]
async fn dropped_bytes_are_made_again_from_the_manifest(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    let spec = push(&cluster).await;
    let _worker = cluster.worker_on("only", 1);
    let with = |field: &str, value: Value| {
        let mut spec = spec.clone();
        spec[field] = value;
        spec
    };
    let averaged = json!({ "policy": "average" });
    let rules = json!([{ "pattern": "fc.*", "policy": "copy" }]);
    for spec in [
        spec.clone(),
        with("output", json!({ "dtype": "BF16" })),
        with("output", json!({ "dtype": "F64" })),
        with("batch_norm", averaged),
        with("tensors", rules),
        with("method", json!({ "kind": "greedy" })),
    ] {
        let artifact = artifact_of(&cluster, &spec).await;
        let id = artifact.artifact_id.to_string();
        assert!(command(&cluster, &["artifact", "rebuild", &id, "--check"]).await, "{spec}");
        assert!(command(&cluster, &["artifact", "drop", &id]).await, "{spec}");
        let dropped = cluster.client.artifact(artifact.artifact_id).await.unwrap();
        assert!(dropped.dropped_at.is_some() && dropped.kept.unwrap().size_bytes < artifact.size_bytes / 10, "{spec}");
        let path = cluster.folder.path().join("pulled.safetensors");
        let pulled = cluster.client.download_artifact(&artifact, &path, &ByteCounter::none()).await.unwrap_err();
        assert_eq!(pulled.problem().unwrap().code, "artifact_dropped");
        // The digest is the server's own condition: what comes back is what was there.
        assert!(command(&cluster, &["artifact", "rebuild", &id]).await, "{spec}");
        cluster.client.download_artifact(&artifact, &path, &ByteCounter::none()).await.unwrap();
    }
}

#[sqlx::test]
async fn weights_as_they_were_fitted_keep_their_bytes(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    let mut spec = push(&cluster).await;
    spec["materialise"] = json!("as_fitted");
    let _worker = cluster.worker_on("only", 2);
    let artifact = artifact_of(&cluster, &spec).await;
    let refused = cluster.client.drop_artifact(artifact.artifact_id).await.unwrap_err();
    assert!(refused.to_string().contains("`materialise: as_fitted`"), "{refused}");
    assert!(!command(&cluster, &["artifact", "rebuild", &artifact.artifact_id.to_string()]).await);
}
