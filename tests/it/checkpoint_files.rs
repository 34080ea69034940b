//! Checkpoints of several files: shards with their index, and what lies beside them.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use barycenter_api::{
    CandidateSet, Checkpoint, CheckpointFile, EqualTensors, FileKind, NamedFile, Page, StagedFile, TensorInfo,
    file_list,
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    harness::{TestApp, TestResponse, files::digest, uploads::Sender},
    scene::{self, floats, keyed_post, safetensors},
};

pub const INDEX: &str = "model.safetensors.index.json";
pub const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// Files of a checkpoint: name and bytes.
pub type Files = Vec<(String, Vec<u8>)>;

/// The tensors of [`scene::checkpoint`] in two files, with their index and a configuration.
pub fn sharded(seed: f32, configuration: &str) -> Files {
    let weight: Vec<f32> = (0..6).map(|i| seed + i as f32).collect();
    let index = json!({"metadata": {"total_size": 36}, "weight_map": {"0.weight": SHARDS[0], "0.bias": SHARDS[1]}});
    vec![
        (SHARDS[0].into(), safetensors(&[("0.weight", "F32", &[3, 2], floats(&weight))])),
        (SHARDS[1].into(), safetensors(&[("0.bias", "F32", &[3], floats(&[seed; 3]))])),
        (INDEX.into(), index.to_string().into_bytes()),
        ("config.json".into(), configuration.as_bytes().to_vec()),
    ]
}

/// Where a file goes before its checkpoint is created.
pub fn staged_path(run: &str, name: &str, bytes: &[u8]) -> String {
    let kind = if name.ends_with(".safetensors") { "weights" } else { "other" };
    format!("/v1/runs/{run}/files/{}?kind={kind}", digest(bytes))
}

pub fn listed(files: &Files) -> Vec<NamedFile> {
    let named = |(name, bytes): &(String, Vec<u8>)| NamedFile {
        name: name.clone(),
        digest_blake3: digest(bytes),
        size_bytes: bytes.len() as u64,
    };
    files.iter().map(named).collect()
}

pub fn create_body(step: i64, files: &Files) -> Value {
    json!({"step": step, "files": listed(files)})
}

pub async fn stage(app: &TestApp, run: &str, files: &Files) {
    for (name, bytes) in files {
        let put = app.put(&staged_path(run, name, bytes), bytes.clone()).await;
        assert!(put.status.is_success(), "{}", put.text());
    }
}

pub async fn try_create(app: &TestApp, run: &str, step: i64, files: &Files) -> TestResponse {
    app.post(&format!("/v1/runs/{run}/checkpoints"), create_body(step, files)).await
}

pub async fn push(app: &TestApp, run: &str, step: i64, files: &Files) -> Checkpoint {
    stage(app, run, files).await;
    try_create(app, run, step, files).await.json(201)
}

async fn files_of(app: &TestApp, checkpoint: &Checkpoint) -> Vec<CheckpointFile> {
    app.get(&format!("/v1/checkpoints/{}/files", checkpoint.checkpoint_id)).await.json(200)
}

#[sqlx::test]
async fn shards_with_their_index_and_a_configuration_are_one_checkpoint(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    let files = sharded(1.0, "{}");
    let body = json!({"step": 7, "files": listed(&files), "epoch": 0.5, "metrics": {"loss": 0.25}, "tags": ["warm"]});
    stage(&app, "r", &files).await;
    let made = app.post("/v1/runs/r/checkpoints", body).await;
    let checkpoint: Checkpoint = made.json(201);
    assert_eq!(made.header("location"), format!("/v1/checkpoints/{}", checkpoint.checkpoint_id));
    let total: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!((checkpoint.file_count, checkpoint.size_bytes), (Some(4), total as u64));
    assert_eq!(checkpoint.digest_blake3, digest(file_list(&listed(&files)).as_bytes()));
    assert_eq!((checkpoint.step, checkpoint.metrics["loss"], checkpoint.tensor_count), (7, 0.25, 2));

    let kinds: Vec<(String, FileKind)> =
        files_of(&app, &checkpoint).await.into_iter().map(|file| (file.name, file.kind)).collect();
    let expected = [
        ("config.json", FileKind::Other),
        (SHARDS[0], FileKind::Weights),
        (SHARDS[1], FileKind::Weights),
        (INDEX, FileKind::Index),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind)));
    for (name, bytes) in &files {
        let path = format!("/v1/checkpoints/{}/files/{name}", checkpoint.checkpoint_id);
        let read = app.get(&path).await;
        assert_eq!((read.status.as_u16(), read.body.as_ref()), (200, bytes.as_slice()));
        assert_eq!(read.header("etag"), format!("\"{}\"", digest(bytes)));
        let part = app.send(Request::get(&path).header("range", "bytes=0-1").body(Body::empty()).unwrap()).await;
        assert_eq!((part.status.as_u16(), part.body.as_ref()), (206, &bytes[..2]));
    }
    let content = app.get(&format!("/v1/checkpoints/{}/content", checkpoint.checkpoint_id)).await;
    assert!(content.problem(409, "several_files").detail.contains("/files"));
    let absent = app.get(&format!("/v1/checkpoints/{}/files/other.json", checkpoint.checkpoint_id)).await;
    absent.problem(404, "file_not_found");
    assert_eq!(app.count("staged_files").await, 0, "what a checkpoint holds is staged no more");
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_checkpoint_of_one_file_lists_it(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    let bytes = scene::checkpoint(1.0);
    let checkpoint = app.push("r", 1, "", bytes.clone()).await;
    assert_eq!(checkpoint.file_count, None);
    let listed = files_of(&app, &checkpoint).await;
    assert_eq!((listed.len(), listed[0].name.as_str()), (1, "model.safetensors"));
    assert_eq!(listed[0].digest_blake3, checkpoint.digest_blake3);
    let path = format!("/v1/checkpoints/{}/files/model.safetensors", checkpoint.checkpoint_id);
    assert_eq!(app.get(&path).await.body, bytes);
}

#[sqlx::test]
async fn sharded_and_whole_checkpoints_of_the_same_tensors_are_one_candidate_set(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    let whole = app.push("r", 1, "", scene::checkpoint(1.0)).await;
    let of_files = push(&app, "r", 2, &sharded(2.0, "{}")).await;
    assert_eq!(whole.layout_blake3, of_files.layout_blake3);
    let tensors: Vec<TensorInfo> =
        app.get(&format!("/v1/checkpoints/{}/tensors", of_files.checkpoint_id)).await.json(200);
    assert_eq!(tensors.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>(), ["0.bias", "0.weight"]);
    let rule = json!({"rule": {"kind": "last", "count": 2}});
    let set: CandidateSet = app.post("/v1/runs/r/candidate_sets", rule).await.json(201);
    let sizes: Vec<u64> = set.members.iter().map(|member| member.size_bytes).collect();
    assert_eq!(sizes, [whole.size_bytes, of_files.size_bytes]);
    let page: Page<Checkpoint> = app.get("/v1/runs/r/checkpoints").await.json(200);
    assert_eq!(page.items[0].size_bytes, of_files.size_bytes);
}

#[sqlx::test]
async fn the_same_files_again_are_the_same_checkpoint_and_others_are_refused(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    let files = sharded(1.0, "{}");
    let first = push(&app, "r", 1, &files).await;
    let reversed: Files = files.iter().rev().cloned().collect();
    let again: Checkpoint = try_create(&app, "r", 1, &reversed).await.json(200);
    assert_eq!(again.checkpoint_id, first.checkpoint_id);
    let others = sharded(2.0, "{}");
    stage(&app, "r", &others).await;
    try_create(&app, "r", 1, &others).await.problem(409, "step_taken");
    app.put("/v1/runs/r/checkpoints/1", scene::checkpoint(1.0)).await.problem(409, "step_taken");
    let keyed = keyed_post("/v1/runs/r/checkpoints", "k", &create_body(2, &others));
    let made: Checkpoint = app.send(keyed).await.json(201);
    let keyed = keyed_post("/v1/runs/r/checkpoints", "k", &create_body(2, &others));
    assert_eq!(app.send(keyed).await.json::<Checkpoint>(201).checkpoint_id, made.checkpoint_id);
    let keyed = keyed_post("/v1/runs/r/checkpoints", "k", &create_body(3, &others));
    app.send(keyed).await.problem(422, "idempotency_key_reused");
}

#[sqlx::test]
async fn equal_files_are_stored_once_and_not_read_again(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    for step in 0..3 {
        push(&app, "r", step, &sharded(step as f32, r#"{"tokenizer": true}"#)).await;
    }
    // Two files with weights and a list a step; one index and one configuration for all.
    assert_eq!(app.count("blobs").await, 3 * 3 + 2);
    let configuration = br#"{"tokenizer": true}"#;
    let put = app.put(&staged_path("r", "config.json", configuration), "other bytes that nobody reads").await;
    let known: StagedFile = put.json(200);
    assert_eq!((known.size_bytes, known.lapses_at), (configuration.len() as u64, None));
    app.create_run("other").await;
    let path = staged_path("other", "config.json", configuration);
    app.get(path.split('?').next().unwrap()).await.problem(404, "file_not_found");
    assert_eq!(app.put(&path, configuration.to_vec()).await.status, StatusCode::CREATED);
    assert_eq!(app.count("blobs").await, 3 * 3 + 2);
}

#[sqlx::test]
async fn a_checkpoint_whose_files_have_not_all_come_names_those_that_are_missing(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    let files = sharded(1.0, "{}");
    stage(&app, "r", &files[1..3].to_vec()).await;
    let problem = try_create(&app, "r", 1, &files).await.problem(409, "files_missing");
    let named: Vec<&str> = problem.errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(named, ["files.config.json".to_owned(), format!("files.{}", SHARDS[0])]);
    let page: Page<Checkpoint> = app.get("/v1/runs/r/checkpoints").await.json(200);
    assert!(page.items.is_empty());
    stage(&app, "r", &files).await;
    try_create(&app, "r", 1, &files).await.json::<Checkpoint>(201);
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn files_come_in_parts_too(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    let bytes = crate::harness::files::large_checkpoint(5000);
    let asked = json!({"target": {"kind": "file", "run": "r"}, "size_bytes": bytes.len(),
        "digest_blake3": digest(&bytes), "part_size_bytes": 1024});
    let sender = Sender { upload: app.post("/v1/uploads", asked.clone()).await.json(201), bytes: bytes.clone() };
    sender.send(&app, 2).await;
    let again: barycenter_api::Upload = app.post("/v1/uploads", asked.clone()).await.json(200);
    assert_eq!(again.upload_id, sender.upload.upload_id);
    sender.send_missing(&app).await;
    let completed = sender.complete(&app).await;
    assert_eq!((completed.checkpoint_id, completed.dataset_id), (None, None));
    let files = vec![("w.safetensors".to_owned(), bytes), ("config.json".to_owned(), b"{}".to_vec())];
    stage(&app, "r", &files[1..].to_vec()).await;
    try_create(&app, "r", 1, &files).await.json::<Checkpoint>(201);
    let known: barycenter_api::Upload = app.post("/v1/uploads", asked).await.json(200);
    assert_eq!(known.state, barycenter_api::UploadState::Completed);
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn files_of_which_nobody_makes_a_checkpoint_are_removed(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    let kept = push(&app, "r", 1, &sharded(1.0, "{}")).await;
    stage(&app, "r", &sharded(2.0, "{}")).await;
    app.clock.advance(Duration::from_hours(71));
    let shared = sharded(2.0, "{}");
    app.put(&staged_path("r", &shared[0].0, &shared[0].1), shared[0].1.clone()).await.json::<StagedFile>(200);
    app.clock.advance(Duration::from_hours(2));
    let collected = barycenter::app::gc::collect(&app.state).await.unwrap();
    // The configuration and the index are the checkpoint's too; the first shard was asked for an hour ago.
    assert_eq!((collected.staged_files, collected.objects), (3, 1));
    try_create(&app, "r", 2, &shared).await.problem(409, "files_missing");
    assert_eq!(files_of(&app, &kept).await.len(), 4);
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_deletion_frees_all_files_that_nothing_else_needs(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    let first = push(&app, "r", 1, &sharded(1.0, "{}")).await;
    push(&app, "r", 2, &sharded(2.0, "{}")).await;
    let rules = json!({"last": 1});
    let preview: Value = app.post("/v1/runs/r/retention/preview", rules).await.json(200);
    let own: u64 = sharded(1.0, "{}")[..2].iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let list = file_list(&listed(&sharded(1.0, "{}"))).len() as u64;
    assert_eq!(preview["freed_bytes"], own + list);
    app.delete(&format!("/v1/checkpoints/{}", first.checkpoint_id)).await.json::<Value>(200);
    app.clock.advance(Duration::from_hours(2));
    let collected = barycenter::app::gc::collect(&app.state).await.unwrap();
    assert_eq!((collected.checkpoints, collected.objects, collected.bytes), (1, 3, own + list));
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn equal_tensors_of_two_checkpoints_are_told(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    let frozen = floats(&[7.0; 3]);
    let trained = |seed: f32| {
        safetensors(&[("0.bias", "F32", &[3], frozen.clone()), ("0.weight", "F32", &[3, 2], floats(&[seed; 6]))])
    };
    let first = app.push("r", 1, "", trained(1.0)).await;
    let second = app.push("r", 2, "", trained(2.0)).await;
    let mut files = sharded(2.0, "{}");
    files[1].1 = safetensors(&[("0.bias", "F32", &[3], frozen.clone())]);
    let third = push(&app, "r", 3, &files).await;
    for (checkpoint, other) in [(&first, &second), (&second, &first), (&third, &first), (&third, &first)] {
        let path = format!("/v1/checkpoints/{}/equal_tensors?with={}", checkpoint.checkpoint_id, other.checkpoint_id);
        let equal: EqualTensors = app.get(&path).await.json(200);
        assert_eq!((equal.step, equal.with_step), (checkpoint.step, other.step));
        assert_eq!((equal.tensor_count, equal.tensor_bytes), (2, 36));
        assert_eq!((equal.equal_count, equal.equal_bytes, equal.equal), (1, 12, vec!["0.bias".to_owned()]));
    }
    let path = format!("/v1/checkpoints/{}/equal_tensors?with={0}", first.checkpoint_id);
    assert_eq!(app.get(&path).await.json::<EqualTensors>(200).equal_bytes, 36);
    let path = format!("/v1/checkpoints/{}/equal_tensors?with={}", first.checkpoint_id, first.run_id);
    app.get(&path).await.problem(404, "checkpoint_not_found");
}
