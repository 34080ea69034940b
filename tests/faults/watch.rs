//! `barycenter watch` beside a cluster that writes: what is finished is pushed, what is not is left alone.

use std::{fs, path::Path};

use barycenter_api::Checkpoint;
use sqlx::PgPool;

use crate::{
    cluster::{Cluster, Process},
    folders::{create_run, folder},
    inputs::{draw, tensor, write},
};

fn file(path: &Path, seed: u64) {
    write(path, vec![tensor("0.weight", &[2, 6], &draw(seed, 12)), tensor("0.bias", &[2], &draw(seed + 100, 2))]);
}

fn watch(cluster: &Cluster, further: &[&str]) -> Process {
    let written = written(cluster).display().to_string();
    let words = ["watch", &written, "--run", "r", "--settle", "0.2", "--poll", "1"];
    let words: Vec<&str> = words.into_iter().chain(further.iter().copied()).collect();
    Process::start(&words, &[("BARYCENTER_SERVER", format!("http://{}", cluster.address))])
}

fn written(cluster: &Cluster) -> std::path::PathBuf {
    let folder = cluster.folder.path().join("written");
    fs::create_dir_all(&folder).unwrap();
    folder
}

async fn until_pushed(cluster: &Cluster, step: i64) -> Checkpoint {
    cluster
        .until("the checkpoint is pushed", async || {
            cluster.client.find_named_checkpoint("r", &step.to_string()).await.ok()
        })
        .await
}

async fn steps(cluster: &Cluster) -> Vec<i64> {
    let mut steps: Vec<i64> =
        cluster.client.list_checkpoints("r").await.unwrap().iter().map(|checkpoint| checkpoint.step).collect();
    steps.sort_unstable();
    steps
}

#[sqlx::test]
async fn what_a_cluster_has_finished_is_pushed_and_outages_are_waited_for(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let server = cluster.serve().await;
    let written = written(&cluster);
    let watching = watch(&cluster, &["--create-run", "--tag", "auto"]);

    // A file of which half has been written, before one that is whole.
    let whole = cluster.folder.path().join("whole.safetensors");
    file(&whole, 1);
    let bytes = fs::read(&whole).unwrap();
    let half = written.join("step-10.safetensors");
    fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    fs::write(written.join("step-20.json"), r#"{"loss": 0.5, "epoch": 2}"#).unwrap();
    file(&written.join("step-20.safetensors"), 2);
    let pushed = until_pushed(&cluster, 20).await;
    assert_eq!((pushed.metrics["loss"], pushed.epoch, pushed.tags), (0.5, Some(2.0), vec!["auto".to_owned()]));
    // One that comes later is there sooner: the half one was looked at and left alone.
    file(&written.join("step-30.safetensors"), 3);
    until_pushed(&cluster, 30).await;
    assert_eq!(steps(&cluster).await, [20, 30]);
    fs::write(&half, &bytes).unwrap();
    until_pushed(&cluster, 10).await;

    // A folder whose index is written before all it names, and metrics that come after their checkpoint.
    let prepared = cluster.folder.path().join("prepared");
    folder(&prepared, 4);
    let target = written.join("checkpoint-40");
    fs::create_dir(&target).unwrap();
    let mut names: Vec<_> = fs::read_dir(&prepared).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let last = names.iter().position(|name| name.to_string_lossy().contains("2-of-00002")).unwrap();
    let last = names.remove(last);
    for name in &names {
        fs::copy(prepared.join(name), target.join(name)).unwrap();
    }
    file(&written.join("step-50.safetensors"), 5);
    until_pushed(&cluster, 50).await;
    assert_eq!(steps(&cluster).await, [10, 20, 30, 50]);
    fs::copy(prepared.join(&last), target.join(&last)).unwrap();
    assert_eq!(until_pushed(&cluster, 40).await.file_count, Some(5));
    fs::write(target.join("metrics.json"), r#"{"loss": 0.25}"#).unwrap();
    cluster
        .until("the metrics are told", async || {
            let told = cluster.client.find_named_checkpoint("r", "40").await.unwrap();
            (told.metrics.get("loss") == Some(&0.25)).then_some(())
        })
        .await;

    server.kill();
    file(&written.join("step-60.safetensors"), 6);
    let _server = cluster.serve().await;
    until_pushed(&cluster, 60).await;
    watching.terminate();
    assert!(watching.succeeds().await, "SIGTERM is no failure");
}

#[sqlx::test]
async fn once_pushes_what_is_there_and_again_changes_nothing(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    create_run(&cluster, "r").await;
    let written = written(&cluster);
    file(&written.join("step-1.safetensors"), 1);
    file(&written.join("step-2.safetensors"), 2);
    fs::write(written.join("optimizer-step-2.pt"), b"nothing of ours").unwrap();
    assert!(watch(&cluster, &["--once"]).succeeds().await);
    assert_eq!(steps(&cluster).await, [1, 2]);
    let before = cluster.client.list_checkpoints("r").await.unwrap();
    assert!(watch(&cluster, &["--once"]).succeeds().await);
    let after = cluster.client.list_checkpoints("r").await.unwrap();
    assert_eq!(before.len(), after.len());

    // Another file of a step that is taken is told, and keeps nothing else from its way.
    file(&written.join("step-1.safetensors"), 9);
    file(&written.join("step-3.safetensors"), 3);
    assert!(!watch(&cluster, &["--once"]).succeeds().await);
    assert_eq!(steps(&cluster).await, [1, 2, 3]);
    assert_eq!(until_pushed(&cluster, 1).await.digest_blake3, before[1].digest_blake3);
}

#[sqlx::test]
async fn a_folder_of_pytorch_files_is_converted_on_its_way(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let _server = cluster.serve().await;
    let target = written(&cluster).join("checkpoint-7");
    fs::create_dir(&target).unwrap();
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/crates/barycenter-core/tests/fixtures/pytorch/flat.pt");
    fs::copy(fixture, target.join("pytorch_model.bin")).unwrap();
    fs::write(target.join("config.json"), b"{}").unwrap();
    assert!(watch(&cluster, &["--once", "--create-run"]).succeeds().await);
    let pushed = until_pushed(&cluster, 7).await;
    let files = cluster.client.list_checkpoint_files(pushed.checkpoint_id, &pushed.digest_blake3).await.unwrap();
    assert_eq!(files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["config.json", "model.safetensors"]);
}
