//! Checkpoints of several files through the real command line, server and worker.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use barycenter_api::{
    Among, CandidateSetRule, CreateCandidateSet, CreateRun, Job, JobState, PushDataset, client::ByteCounter,
};
use barycenter_core::checkpoint::{CheckpointFile, OpenOptions, Shards, TensorSpec, open};
use serde_json::json;
use sqlx::PgPool;

use crate::{
    cluster::{Cluster, Process},
    inputs::{draw, submit, tensor, write},
};

const FEATURES: usize = 6;
const TARGETS: usize = 2;
const SAMPLES: usize = 200;

/// A model in two files with weights, with an index, a configuration and a tokeniser that all share.
pub fn folder(path: &Path, seed: u64) {
    let tensors = [
        tensor("0.weight", &[TARGETS, FEATURES], &draw(seed, TARGETS * FEATURES)),
        tensor("0.bias", &[TARGETS], &draw(seed + 100, TARGETS)),
    ];
    let specs: Vec<TensorSpec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    let shards = Shards::plan(specs, 48).unwrap();
    fs::create_dir_all(path).unwrap();
    for ((name, _), tensor) in shards.files.iter().zip(tensors) {
        write(&path.join(name), vec![tensor]);
    }
    fs::write(path.join(Shards::INDEX), shards.index().unwrap()).unwrap();
    fs::write(path.join("config.json"), r#"{"model_type": "mlp"}"#).unwrap();
    fs::write(path.join("tokenizer.json"), vec![b' '; 10_000]).unwrap();
}

fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

pub async fn create_run(cluster: &Cluster, name: &str) {
    let run = CreateRun { name: name.into(), project: None, description: None, metadata: serde_json::Map::new() };
    cluster.client.create_run(&run).await.unwrap();
}

async fn command(cluster: &Cluster, words: &[&str]) -> bool {
    Process::start(words, &[("BARYCENTER_SERVER", format!("http://{}", cluster.address))]).succeeds().await
}

async fn push(cluster: &Cluster, folders: &[PathBuf]) -> bool {
    let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let words = ["checkpoint", "push", "--run", "r"].into_iter().chain(folders.iter().map(String::as_str));
    command(cluster, &words.collect::<Vec<_>>()).await
}

#[sqlx::test]
async fn folders_are_pushed_averaged_by_a_worker_and_pulled_byte_for_byte(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    create_run(&cluster, "r").await;
    let root = cluster.folder.path();
    let folders: Vec<PathBuf> = (1..=3).map(|step| root.join(format!("checkpoint-{step}"))).collect();
    for (seed, path) in folders.iter().enumerate() {
        folder(path, seed as u64);
    }
    assert!(push(&cluster, &folders).await);
    assert!(push(&cluster, &folders).await, "what is there is no error");
    let checkpoints = cluster.client.list_checkpoints("r").await.unwrap();
    assert!(checkpoints.iter().all(|checkpoint| checkpoint.file_count == Some(5)), "{checkpoints:?}");
    let blobs: i64 = sqlx::query_scalar("select count(*) from blobs").fetch_one(&pool).await.unwrap();
    assert_eq!(blobs, 3 * 3 + 3, "index, configuration and tokeniser are stored once");

    let out = format!("{}/", root.join("pulled").display());
    assert!(command(&cluster, &["checkpoint", "pull", "2", "--run", "r", "--out", &out]).await);
    assert_eq!(files_of(Path::new(&out)), files_of(&folders[1]));

    let job = averaged(&cluster, &folders).await;
    pulled_as_a_folder(&cluster, &job, &folders[2]).await;
}

/// The folder that is pulled has the average and what the last candidate has beside its weights, whole and in shards.
async fn pulled_as_a_folder(cluster: &Cluster, job: &Job, last: &Path) {
    let root = cluster.folder.path();
    let [job_id, artifact_id] = [job.job_id, job.artifact_id.unwrap()].map(|id| id.to_string());
    let (whole, cut, single) = (root.join("whole"), root.join("cut"), root.join("single.safetensors"));
    let pull = async |id: &str, out: &Path, more: &[&str]| {
        let out = out.display().to_string();
        command(cluster, &[&["artifact", "pull", id, "--out", &out], more].concat()).await
    };
    // What an interrupted download left is taken, unless it is of something else.
    fs::create_dir(root.join("whole.part")).unwrap();
    fs::write(root.join("whole.part/config.json"), vec![b'x'; fs::read(last.join("config.json")).unwrap().len()])
        .unwrap();
    assert!(pull(&job_id, &whole, &[]).await);
    assert!(pull(&artifact_id, &cut, &["--shard-size", "48"]).await);
    assert!(pull(&artifact_id, &single, &[]).await);
    assert!(!pull(&artifact_id, &whole, &[]).await, "nothing is overwritten");

    let (whole_files, cut_files, mut last_files) = (files_of(&whole), files_of(&cut), files_of(last));
    assert_eq!(whole_files["model.safetensors"], fs::read(&single).unwrap());
    assert_eq!(cut_files.keys().collect::<Vec<_>>(), last_files.keys().collect::<Vec<_>>());
    assert_eq!(cut_files[Shards::INDEX], last_files[Shards::INDEX]);
    last_files.retain(|name, _| !name.contains(".safetensors"));
    assert_eq!(last_files.len(), 2);
    for (name, bytes) in last_files {
        assert!(whole_files[&name] == bytes && cut_files[&name] == bytes, "{name} came with other bytes");
    }
    assert_eq!(whole_files.len(), 3);
    let [whole, cut] = [whole, cut].map(|folder| open(folder, &OpenOptions::default()).unwrap());
    assert_eq!(whole.read_f32("0.weight").unwrap(), cut.read_f32("0.weight").unwrap());
    for left in ["whole.part", "cut.part", "cut.safetensors"] {
        assert!(!root.join(left).exists(), "{left} was left behind");
    }
}

/// Averages the set uniformly and compares every number.
async fn averaged(cluster: &Cluster, folders: &[PathBuf]) -> Job {
    let client = &cluster.client;
    let path = cluster.folder.path().join("data.safetensors");
    let inputs = tensor("inputs", &[SAMPLES, FEATURES], &draw(7, SAMPLES * FEATURES));
    write(&path, vec![inputs, tensor("targets", &[SAMPLES, TARGETS], &draw(8, SAMPLES * TARGETS))]);
    client.push_dataset("numbers", &PushDataset::default(), &path, &ByteCounter::none()).await.unwrap();
    let rule = CandidateSetRule::Last { count: 3, among: Among::default() };
    let set = CreateCandidateSet { name: None, rule, other_runs: Vec::new() };
    let set = client.create_candidate_set("r", &set).await.unwrap();
    let spec = json!({
        "candidate_set_id": set.candidate_set_id,
        "network": { "kind": "mlp", "features": [FEATURES, TARGETS] },
        "method": { "kind": "uniform" },
        "guard": "off",
        "data": { "fit": "numbers" },
    });
    let job = submit(cluster, &serde_json::from_value(spec).unwrap()).await;
    let _worker = cluster.worker("only");
    let job = cluster.until_terminal(job.job_id).await;
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
    let artifact = client.artifact(job.artifact_id.unwrap()).await.unwrap();
    let path = cluster.folder.path().join("averaged.safetensors");
    client.download_artifact(&artifact, &path, &ByteCounter::none()).await.unwrap();
    let averaged = CheckpointFile::open(&path).unwrap();
    let candidates: Vec<CheckpointFile> =
        folders.iter().map(|folder| open(folder, &OpenOptions::default()).unwrap()).collect();
    for name in ["0.weight", "0.bias"] {
        let columns: Vec<Vec<f32>> = candidates.iter().map(|candidate| candidate.read_f32(name).unwrap()).collect();
        for (i, found) in averaged.read_f32(name).unwrap().into_iter().enumerate() {
            let mean = columns.iter().map(|column| f64::from(column[i])).sum::<f64>() / 3.0;
            assert!((f64::from(found) - mean).abs() < 1e-6, "{name} {i}: {found} for {mean}");
        }
    }
    let id = artifact.artifact_id.to_string();
    assert!(command(cluster, &["artifact", "drop", &id]).await);
    assert!(client.artifact(artifact.artifact_id).await.unwrap().dropped_at.is_some());
    assert!(command(cluster, &["artifact", "rebuild", &id]).await, "shards are merged as whole files are");
    assert!(client.artifact(artifact.artifact_id).await.unwrap().dropped_at.is_none());
    job
}

#[sqlx::test]
async fn a_folder_whose_push_was_cut_off_sends_only_the_files_that_are_missing(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let server = cluster.serve().await;
    create_run(&cluster, "r").await;
    let path = cluster.folder.path().join("checkpoint-1");
    folder(&path, 1);
    // A file that the server refuses keeps the checkpoint from being made, after others have come.
    let (last, good) = files_of(&path).into_iter().find(|(name, _)| name.ends_with("2-of-00002.safetensors")).unwrap();
    let mut bad = good.clone();
    let end = bad.len();
    bad[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(path.join(&last), &bad).unwrap();
    assert!(!push(&cluster, std::slice::from_ref(&path)).await);
    assert!(cluster.client.list_checkpoints("r").await.unwrap().is_empty());
    server.kill();
    let _server = cluster.serve().await;
    let staged = async || -> Vec<(String, chrono::DateTime<chrono::Utc>)> {
        let query = sqlx::query_as("select digest_blake3, created_at from blobs order by digest_blake3");
        query.fetch_all(&pool).await.unwrap()
    };
    let before = staged().await;
    assert!(!before.is_empty());
    fs::write(path.join(&last), &good).unwrap();
    assert!(push(&cluster, &[path]).await);
    let after = staged().await;
    assert!(before.iter().all(|blob| after.contains(blob)), "what was there stayed as it was");
    let checkpoints = cluster.client.list_checkpoints("r").await.unwrap();
    assert_eq!((checkpoints.len(), checkpoints[0].file_count), (1, Some(5)));
}
