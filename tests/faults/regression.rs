//! A regression through the real worker, from the dataset's file to the report.

use std::path::Path;

use barycenter_api::{
    Among, CandidateSetRule, CreateCandidateSet, CreateRun, DatasetKind, Job, JobState, ObjectiveSpec, PushCheckpoint,
    PushDataset, client::ByteCounter,
};
use serde_json::json;
use sqlx::PgPool;

use crate::{
    cluster::Cluster,
    inputs::{draw, submit, tensor, write},
};

const FEATURES: usize = 6;
const TARGETS: usize = 2;
const SAMPLES: usize = 600;
/// Where the candidates lie on a line through the optimum at 0: on both sides of it, with a mean that is far from it.
const OFFSETS: [f32; 4] = [-0.5, 1.0, 2.0, 1.5];

/// A linear network so many steps away from the true one, in a direction common to all.
fn weights(offset: f32) -> (Vec<f32>, Vec<f32>) {
    let moved = |seed, count| -> Vec<f32> {
        let (truth, direction) = (draw(seed, count), draw(seed + 1, count));
        truth.iter().zip(&direction).map(|(truth, direction)| truth + offset * direction).collect()
    };
    (moved(31, TARGETS * FEATURES), moved(33, TARGETS))
}

fn checkpoint(path: &Path, offset: f32) {
    let (weight, bias) = weights(offset);
    write(path, vec![tensor("0.weight", &[TARGETS, FEATURES], &weight), tensor("0.bias", &[TARGETS], &bias)]);
}

/// Inputs with what the true network makes of them, and a little noise.
fn dataset(path: &Path) {
    let (weight, bias) = weights(0.0);
    let inputs = draw(35, SAMPLES * FEATURES);
    let mut noise = draw(36, SAMPLES * TARGETS).into_iter();
    let mut targets = Vec::new();
    for sample in inputs.chunks_exact(FEATURES) {
        for (row, bias) in weight.chunks_exact(FEATURES).zip(&bias) {
            let product: f32 = row.iter().zip(sample).map(|(weight, input)| weight * input).sum();
            targets.push(product + bias + 0.1 * noise.next().unwrap());
        }
    }
    write(
        path,
        vec![tensor("inputs", &[SAMPLES, FEATURES], &inputs), tensor("targets", &[SAMPLES, TARGETS], &targets)],
    );
}

async fn job(cluster: &Cluster) -> Job {
    let (client, folder) = (&cluster.client, cluster.folder.path());
    let run = CreateRun { name: "line".into(), project: None, description: None, metadata: serde_json::Map::new() };
    client.create_run(&run).await.unwrap();
    for (step, offset) in OFFSETS.into_iter().enumerate() {
        let path = folder.join(format!("{step}.safetensors"));
        checkpoint(&path, offset);
        let beside = PushCheckpoint::default();
        client.push_checkpoint("line", step as i64, &beside, &path, &ByteCounter::none()).await.unwrap();
    }
    let path = folder.join("numbers.safetensors");
    dataset(&path);
    let stored = client.push_dataset("numbers", &PushDataset::default(), &path, &ByteCounter::none()).await.unwrap();
    assert_eq!((stored.kind, stored.target_count), (DatasetKind::Targets, Some(TARGETS as u64)));
    let rule = CandidateSetRule::Last { count: OFFSETS.len() as u32, among: Among::default() };
    let set = client
        .create_candidate_set("line", &CreateCandidateSet { name: None, rule, other_runs: Vec::new() })
        .await
        .unwrap();
    let spec = json!({
        "candidate_set_id": set.candidate_set_id,
        "network": { "kind": "mlp", "features": [FEATURES, TARGETS] },
        "method": { "kind": "twa", "bits": 8, "epochs": 20, "batch_size": 32 },
        "data": { "fit": "numbers", "test": "numbers" },
    });
    submit(cluster, &serde_json::from_value(spec).unwrap()).await
}

#[sqlx::test]
async fn a_regression_finds_the_optimum_between_its_candidates(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    let job = job(&cluster).await;
    let _worker = cluster.worker("only");
    let job = cluster.until_terminal(job.job_id).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    assert_eq!(job.spec.objective, Some(ObjectiveSpec::SquaredError {}));

    let report = job.report.unwrap();
    let of = |method: &str| report.evaluations.iter().find(|row| row.method == method).unwrap();
    let (learned, uniform, single) = (of("twa"), of("uniform"), of("best_single"));
    assert_eq!(report.chosen, "twa");
    assert!(learned.select.loss < 0.1 * uniform.select.loss.min(single.select.loss), "{:?}", report.evaluations);
    assert!(learned.select_difference_from_uniform[1] < 0.0, "{learned:?}");
    assert!(report.evaluations.iter().all(|row| row.select.accuracy.is_none() && row.test.unwrap().accuracy.is_none()));

    let coefficients = cluster.coefficients(job.job_id).await;
    let place: f64 = coefficients.values.iter().zip(OFFSETS).map(|(row, offset)| row[0] * f64::from(offset)).sum();
    assert!(place.abs() < 0.05, "the average lies {place} from the optimum: {:?}", coefficients.values);
    let manifest = cluster.client.manifest(job.artifact_id.unwrap()).await.unwrap();
    assert_eq!(manifest.report, report);
}
