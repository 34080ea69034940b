//! Adapters of one base model through the real worker: their products are averaged, and an adapter comes out.

use std::path::Path;

use barycenter_api::{
    Among, CandidateSetRule, CreateCandidateSet, CreateRun, Job, JobState, PushCheckpoint, PushDataset,
    client::ByteCounter,
};
use barycenter_core::checkpoint::CheckpointFile;
use serde_json::json;
use sqlx::PgPool;

use crate::{
    cluster::Cluster,
    inputs::{draw, submit, tensor, write},
};

const FEATURES: usize = 6;
const TARGETS: usize = 2;
const SAMPLES: usize = 600;
const SCALE: f32 = 2.0;
/// What the adapters add, in parts of what the base model lacks: their mean is far from 1.
const PARTS: [f32; 4] = [0.5, 2.0, 3.0, 2.5];

/// What the base model lacks: a product of rank 1.
fn lacking() -> (Vec<f32>, Vec<f32>) {
    (draw(51, TARGETS), draw(52, FEATURES))
}

fn true_weight() -> Vec<f32> {
    draw(53, TARGETS * FEATURES)
}

fn base(path: &Path) {
    let (b, a) = lacking();
    let products = b.iter().flat_map(|b| a.iter().map(move |a| b * a));
    let weight: Vec<f32> = true_weight().iter().zip(products).map(|(weight, product)| weight - product).collect();
    let bias = tensor("0.bias", &[TARGETS], &[0.0; TARGETS]);
    write(path, vec![tensor("0.weight", &[TARGETS, FEATURES], &weight), bias]);
}

fn adapter(path: &Path, part: f32) {
    let (b, a) = lacking();
    let b: Vec<f32> = b.iter().map(|b| b * part / SCALE).collect();
    let names = ["lora_A", "lora_B"].map(|factor| format!("base_model.model.0.{factor}.weight"));
    write(path, vec![tensor(&names[0], &[1, FEATURES], &a), tensor(&names[1], &[TARGETS, 1], &b)]);
}

fn dataset(path: &Path) {
    let (weight, inputs) = (true_weight(), draw(54, SAMPLES * FEATURES));
    let product =
        |(row, sample): (&[f32], &[f32])| row.iter().zip(sample).map(|(weight, input)| weight * input).sum::<f32>();
    let rows = |sample| weight.chunks_exact(FEATURES).map(move |row| (row, sample));
    let targets: Vec<f32> = inputs.chunks_exact(FEATURES).flat_map(rows).map(product).collect();
    let inputs = tensor("inputs", &[SAMPLES, FEATURES], &inputs);
    write(path, vec![inputs, tensor("targets", &[SAMPLES, TARGETS], &targets)]);
}

async fn job(cluster: &Cluster) -> Job {
    let (client, folder) = (&cluster.client, cluster.folder.path());
    let path = folder.join("file.safetensors");
    for run in ["base", "adapters"] {
        let run = CreateRun { name: run.into(), project: None, description: None, metadata: serde_json::Map::new() };
        client.create_run(&run).await.unwrap();
    }
    let uncounted = ByteCounter::none();
    base(&path);
    let base = client.push_checkpoint("base", 0, &PushCheckpoint::default(), &path, &uncounted).await.unwrap();
    for (step, part) in PARTS.into_iter().enumerate() {
        adapter(&path, part);
        let beside = PushCheckpoint::default();
        client.push_checkpoint("adapters", step as i64, &beside, &path, &uncounted).await.unwrap();
    }
    dataset(&path);
    client.push_dataset("numbers", &PushDataset::default(), &path, &uncounted).await.unwrap();
    let rule = CandidateSetRule::Last { count: PARTS.len() as u32, among: Among::default() };
    let set = client
        .create_candidate_set("adapters", &CreateCandidateSet { name: None, rule, other_runs: Vec::new() })
        .await
        .unwrap();
    let spec = json!({
        "candidate_set_id": set.candidate_set_id,
        "network": { "kind": "mlp", "features": [FEATURES, TARGETS] },
        "lora": {
            "base_checkpoint_id": base.checkpoint_id,
            "scale": SCALE,
            "result": { "kind": "adapter", "rank": 1 },
        },
        "method": { "kind": "twa", "bits": 8, "epochs": 20, "batch_size": 32 },
        "data": { "fit": "numbers" },
    });
    submit(cluster, &serde_json::from_value(spec).unwrap()).await
}

#[sqlx::test]
async fn adapters_are_averaged_by_their_products_to_an_adapter_that_fits(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    let job = job(&cluster).await;
    let _worker = cluster.worker("only");
    let job = cluster.until_terminal(job.job_id).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");

    let report = job.report.unwrap();
    let of = |method: &str| report.evaluations.iter().find(|row| row.method == method).unwrap().select.loss;
    assert!(of("twa") < 0.05 * of("uniform").min(of("best_single")), "{:?}", report.evaluations);
    let lora = report.lora.unwrap();
    assert!(lora.relative_error < 1e-6, "products of one direction have rank 1: {lora:?}");
    assert_eq!(lora.worst_module, "base_model.model.0");

    let path = cluster.folder.path().join("averaged.safetensors");
    let artifact = cluster.client.artifact(job.artifact_id.unwrap()).await.unwrap();
    cluster.client.download_artifact(&artifact, &path, &ByteCounter::none()).await.unwrap();
    let file = CheckpointFile::open(&path).unwrap();
    let factor = |name: &str| file.read_f32(&format!("base_model.model.0.{name}.weight")).unwrap();
    let (found_a, found_b) = (factor("lora_A"), factor("lora_B"));
    let coefficients = cluster.coefficients(job.job_id).await;
    let part: f64 = coefficients.values.iter().zip(PARTS).map(|(row, part)| row[0] * f64::from(part)).sum();
    assert!((part - 1.0).abs() < 0.1, "the average adds {part} of what the base model lacks");
    let (b, a) = lacking();
    for (row, b) in b.iter().enumerate() {
        for (column, a) in a.iter().enumerate() {
            let (found, wanted) = (found_b[row] * found_a[column], part as f32 * b * a);
            assert!((found - wanted).abs() < 1e-5, "{row} {column}: {found} for {wanted}");
        }
    }
}
