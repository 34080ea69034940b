//! Uploads by the tus protocol.

use axum::{
    body::Body,
    http::{Method, Request},
};
use barycenter_api::{Checkpoint, Dataset, Page, Upload, UploadState};
use base64::{Engine, engine::general_purpose::STANDARD};
use sqlx::PgPool;

use crate::harness::{
    TestApp, TestResponse,
    files::{dataset, digest, large_checkpoint},
};

/// Ten parts of 1 KiB and some more.
fn file() -> Vec<u8> {
    large_checkpoint(10_600)
}

fn metadata(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key} {}", STANDARD.encode(value))).collect();
    pairs.join(",")
}

fn request(method: Method, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header("tus-resumable", "1.0.0")
}

async fn create(app: &TestApp, length: usize, pairs: &[(&str, &str)]) -> TestResponse {
    let request = request(Method::POST, "/v1/tus").header("upload-length", length);
    app.send(request.header("upload-metadata", metadata(pairs)).body(Body::empty()).unwrap()).await
}

async fn append(app: &TestApp, path: &str, offset: u64, body: impl Into<Body>) -> TestResponse {
    let request = request(Method::PATCH, path).header("upload-offset", offset);
    app.send(request.header("content-type", "application/offset+octet-stream").body(body.into()).unwrap()).await
}

async fn offset(app: &TestApp, path: &str) -> u64 {
    let answer = app.send(request(Method::HEAD, path).body(Body::empty()).unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (200, "no-store"));
    answer.header("upload-offset").parse().unwrap()
}

async fn begun(app: &TestApp) -> String {
    app.create_run("run").await;
    let created = create(app, file().len(), &[("run", "run"), ("step", "3"), ("metrics", "loss:0.5")]).await;
    assert_eq!((created.status.as_u16(), created.header("tus-resumable")), (201, "1.0.0"));
    created.header("location").to_owned()
}

async fn only_checkpoint(app: &TestApp) -> Checkpoint {
    let page: Page<Checkpoint> = app.get("/v1/runs/run/checkpoints").await.json(200);
    page.items.into_iter().next().unwrap()
}

#[sqlx::test]
async fn a_file_that_is_appended_becomes_a_checkpoint(pool: PgPool) {
    let app = TestApp::new(pool);
    let path = begun(&app).await;
    assert_eq!(offset(&app, &path).await, 0);
    let done = append(&app, &path, 0, file()).await;
    assert_eq!((done.status.as_u16(), done.header("upload-offset")), (204, file().len().to_string().as_str()));
    let checkpoint = only_checkpoint(&app).await;
    assert_eq!((checkpoint.step, checkpoint.metrics["loss"]), (3, 0.5));
    assert_eq!(checkpoint.digest_blake3, digest(&file()));
    assert_eq!(offset(&app, &path).await, file().len() as u64);
    let upload: Upload = app.get(&path.replace("tus", "uploads")).await.json(200);
    assert_eq!((upload.state, upload.checkpoint_id), (UploadState::Completed, Some(checkpoint.checkpoint_id)));
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn what_is_appended_in_pieces_counts_in_whole_parts(pool: PgPool) {
    let app = TestApp::new(pool);
    let path = begun(&app).await;
    let bytes = file();
    let answer = append(&app, &path, 0, bytes[..2500].to_vec()).await;
    assert_eq!((answer.status.as_u16(), answer.header("upload-offset")), (204, "2048"));
    let problem = append(&app, &path, 2500, bytes[2500..].to_vec()).await.problem(409, "offset_differs");
    assert!(problem.detail.contains("stands at 2048"), "{problem:?}");
    append(&app, &path, 2048, bytes[2048..2100].to_vec()).await.problem(422, "append_too_small");
    append(&app, &path, 2048, Vec::new()).await;
    assert_eq!(offset(&app, &path).await, 2048);
    // A connection that breaks in the middle.
    let torn: Vec<_> = [Ok(bytes[2048..6000].to_vec()), Err(std::io::Error::other("reset"))].into();
    append(&app, &path, 2048, Body::from_stream(futures::stream::iter(torn))).await.problem(400, "body_interrupted");
    assert_eq!(offset(&app, &path).await, 5120);
    append(&app, &path, 5120, bytes[5120..].to_vec()).await;
    assert_eq!(only_checkpoint(&app).await.digest_blake3, digest(&bytes));
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_dataset_and_its_digest_are_told_in_the_metadata(pool: PgPool) {
    let app = TestApp::new(pool);
    let bytes = dataset(100);
    let wrong = [("dataset", "val"), ("digest_blake3", &digest(b"other"))];
    let path = create(&app, bytes.len(), &wrong).await.header("location").to_owned();
    append(&app, &path, 0, bytes.clone()).await.problem(422, "digest_differs");
    let right = [("dataset", "val"), ("digest_blake3", &digest(&bytes)), ("filename", "v.safetensors")];
    let path = create(&app, bytes.len(), &right).await.header("location").to_owned();
    assert_eq!(append(&app, &path, 0, bytes).await.status, 204);
    let stored: Dataset = app.get("/v1/datasets/val").await.json(200);
    assert_eq!(stored.sample_count, 100);
}

#[sqlx::test]
async fn what_tus_asks_of_a_server_is_answered(pool: PgPool) {
    let app = TestApp::new(pool);
    let options = app.send(Request::options("/v1/tus").body(Body::empty()).unwrap()).await;
    assert_eq!((options.status.as_u16(), options.header("tus-version")), (204, "1.0.0"));
    assert_eq!(options.header("tus-extension"), "creation,termination");
    assert_eq!(options.header("tus-max-size"), (64 << 20).to_string());
    let silent = app.send(Request::post("/v1/tus").body(Body::empty()).unwrap()).await;
    silent.problem(412, "tus_version");
    assert_eq!((silent.header("tus-version"), silent.header("tus-resumable")), ("1.0.0", "1.0.0"));
    let lengthless = app.send(request(Method::POST, "/v1/tus").body(Body::empty()).unwrap()).await;
    assert_eq!(lengthless.problem(400, "bad_request").errors[0].field, "upload-length");
    create(&app, 10, &[("run", "run")]).await.problem(422, "invalid_field");
    create(&app, 10, &[("run", "run"), ("step", "1")]).await.problem(404, "run_not_found");
    create(&app, 1 << 30, &[("dataset", "d")]).await.problem(413, "too_large");
    let nobody = "/v1/tus/0190f3a8-0000-7000-8000-000000000001";
    append(&app, nobody, 0, vec![1]).await.problem(404, "upload_not_found");
    let path = begun(&app).await;
    let untyped = request(Method::PATCH, &path).header("upload-offset", 0).body(Body::from("x")).unwrap();
    app.send(untyped).await.problem(415, "unsupported_media_type");
}

#[sqlx::test]
async fn a_terminated_upload_leaves_nothing(pool: PgPool) {
    let app = TestApp::new(pool);
    let path = begun(&app).await;
    append(&app, &path, 0, file()[..3000].to_vec()).await;
    let gone = app.send(request(Method::DELETE, &path).body(Body::empty()).unwrap()).await;
    assert_eq!(gone.status, 204);
    append(&app, &path, 0, file()).await.problem(404, "upload_not_found");
    app.assert_nothing_stored().await;
}

#[sqlx::test]
async fn an_upload_whose_server_died_before_the_end_is_completed_by_the_last_part_again(pool: PgPool) {
    let app = TestApp::new(pool);
    let path = begun(&app).await;
    let bytes = file();
    append(&app, &path, 0, bytes[..10_240].to_vec()).await;
    // The last part is there, and nobody has completed the upload.
    app.put(&format!("{}/parts/11", path.replace("tus", "uploads")), bytes[10_240..].to_vec()).await;
    assert_eq!(offset(&app, &path).await, 10_240);
    append(&app, &path, 10_240, bytes[10_240..].to_vec()).await;
    assert_eq!(only_checkpoint(&app).await.digest_blake3, digest(&bytes));
}
