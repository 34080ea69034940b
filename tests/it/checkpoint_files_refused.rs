//! Files that make no checkpoint are refused by name, and nothing half-made is seen.

use barycenter_api::StagedFile;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    checkpoint_files::{Files, INDEX, SHARDS, create_body, listed, sharded, stage, staged_path, try_create},
    harness::{TestApp, files::digest},
    scene::{floats, safetensors},
};

fn index(map: &Value) -> Vec<u8> {
    json!({ "weight_map": map }).to_string().into_bytes()
}

async fn app(pool: PgPool) -> TestApp {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    app
}

/// The detail of the refusal of these files, after they were uploaded.
async fn refused(app: &TestApp, files: &Files) -> (String, String) {
    stage(app, "r", files).await;
    let problem = try_create(app, "r", 1, files).await.problem(422, "invalid_files");
    assert_eq!(app.count("checkpoints").await, 0);
    app.assert_no_orphans().await;
    (problem.errors[0].field.clone(), problem.errors[0].detail.clone())
}

#[sqlx::test]
async fn an_index_that_disagrees_with_its_files_is_refused_by_the_tensor(pool: PgPool) {
    let app = app(pool).await;
    let mut files = sharded(1.0, "{}");
    files[2].1 = index(&json!({"0.weight": SHARDS[1], "0.bias": SHARDS[1]}));
    let (field, detail) = refused(&app, &files).await;
    assert_eq!(field, format!("files.{INDEX}"));
    assert!(detail.contains("tensor `0.weight` is in `model-00001-of-00002.safetensors`"), "{detail}");
    files[2].1 = index(&json!({"0.weight": SHARDS[0]}));
    assert!(refused(&app, &files).await.1.contains("`0.bias`, which the index does not name"));
    files[2].1 = index(&json!({"0.weight": SHARDS[0], "0.bias": SHARDS[1], "0.more": SHARDS[1]}));
    assert!(refused(&app, &files).await.1.contains("no tensor `0.more`"));
    files[2].1 = b"{".to_vec();
    assert!(refused(&app, &files).await.1.contains("not valid"));
}

#[sqlx::test]
async fn a_tensor_in_two_files_is_refused_by_its_name(pool: PgPool) {
    let app = app(pool).await;
    let mut files = sharded(1.0, "{}");
    files[1].1 = safetensors(&[("0.bias", "F32", &[3], floats(&[1.0; 3])), ("0.weight", "F32", &[1], floats(&[1.0]))]);
    assert!(
        refused(&app, &files).await.1.contains("tensor `0.weight` is in `model-00001-of-00002.safetensors` and in")
    );
}

#[sqlx::test]
async fn a_file_that_the_index_names_and_nobody_lists_is_refused(pool: PgPool) {
    let app = app(pool).await;
    let mut files = sharded(1.0, "{}");
    files.remove(1);
    let (field, detail) = refused(&app, &files).await;
    assert_eq!(field, format!("files.{}", SHARDS[1]));
    assert!(detail.contains("not among the files"), "{detail}");
}

#[sqlx::test]
async fn unsafe_names_wrong_sizes_and_lists_that_are_no_checkpoint_are_refused(pool: PgPool) {
    let app = app(pool).await;
    let files = sharded(1.0, "{}");
    stage(&app, "r", &files).await;
    let problem = async |change: &dyn Fn(&mut Value)| {
        let mut body = create_body(1, &files);
        change(&mut body);
        let problem = app.post("/v1/runs/r/checkpoints", body).await.problem(422, "invalid_files");
        problem.errors[0].field.clone()
    };
    for name in ["../config.json", "/etc/passwd", "..", ".bashrc", "a/b.json", "a\\b.json", "model.bin", ""] {
        assert_eq!(problem(&|body| body["files"][3]["name"] = json!(name)).await, "files[3].name", "{name}");
    }
    assert_eq!(problem(&|body| body["files"][3]["name"] = json!(SHARDS[0])).await, format!("files.{}", SHARDS[0]));
    assert_eq!(problem(&|body| body["files"][3]["size_bytes"] = json!(77)).await, "files.config.json");
    assert_eq!(problem(&|body| _ = body["files"].as_array_mut().unwrap().remove(2)).await, "files");
    assert_eq!(problem(&|body| body["files"] = json!([])).await, "files");
    assert_eq!(app.count("checkpoints").await, 0);
}

#[sqlx::test]
async fn a_file_is_looked_at_as_what_it_is_used_for(pool: PgPool) {
    let app = app(pool).await;
    let files = sharded(1.0, "{}");
    stage(&app, "r", &files[1..].to_vec()).await;
    let other = format!("/v1/runs/r/files/{}?kind=other", digest(&files[0].1));
    assert!(!app.put(&other, files[0].1.clone()).await.json::<StagedFile>(201).is_weights);
    let missing = try_create(&app, "r", 1, &files).await.problem(409, "files_missing");
    assert!(missing.errors[0].detail.contains("no safetensors file"), "{missing:?}");
    let put = app.put(&staged_path("r", &files[0].0, &files[0].1), files[0].1.clone()).await;
    assert!(put.json::<StagedFile>(201).is_weights);
    assert_eq!(try_create(&app, "r", 1, &files).await.status, 201);
}

#[sqlx::test]
async fn a_bad_file_leaves_nothing_behind(pool: PgPool) {
    let app = app(pool).await;
    let nan = safetensors(&[("0.bias", "F32", &[1], floats(&[f32::NAN]))]);
    let put = async |path: String, bytes: Vec<u8>| app.put(&path, bytes).await;
    put(staged_path("r", "a.safetensors", &nan), nan.clone()).await.problem(422, "not_finite");
    put(staged_path("r", "a.safetensors", b"junk"), b"junk".to_vec()).await.problem(422, "invalid_file");
    put(staged_path("r", "a.json", b"one"), b"two".to_vec()).await.problem(422, "digest_differs");
    put("/v1/runs/r/files/abc?kind=other".into(), Vec::new()).await.problem(422, "invalid_field");
    put(staged_path("r", "a.json", b"x").replace("other", "else"), b"x".to_vec()).await.problem(400, "invalid_query");
    put(staged_path("absent", "a.json", b"x"), b"x".to_vec()).await.problem(404, "run_not_found");
    app.assert_nothing_stored().await;
}

#[sqlx::test]
async fn files_of_another_layout_than_the_runs_are_refused(pool: PgPool) {
    let app = app(pool).await;
    app.push("r", 1, "", safetensors(&[("0.weight", "F32", &[3, 2], floats(&[1.0; 6]))])).await;
    let files = sharded(1.0, "{}");
    stage(&app, "r", &files).await;
    let problem = try_create(&app, "r", 2, &files).await.problem(422, "layout_differs");
    assert_eq!(problem.errors[0].field, "0.bias");
    assert_eq!(listed(&files).len(), 4);
}
