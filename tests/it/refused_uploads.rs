//! Bad files: each is refused by what is wrong with it, and leaves nothing behind.

use axum::{body::Body, http::Request};
use barycenter_api::{Checkpoint, Problem};
use serde_json::json;
use sqlx::PgPool;

use crate::harness::{
    TestApp,
    files::{self, assemble, checkpoint, f32s, raw, safetensors},
};

/// Pushes a bad file at step 1, once with its length announced and once in chunks, and checks that nothing is left.
async fn refused(pool: PgPool, bytes: Vec<u8>, status: u16, code: &str) -> Problem {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let chunks: Vec<_> = bytes.chunks(7).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
    let chunked = Body::from_stream(futures::stream::iter(chunks));
    let chunked = app.put("/v1/runs/run/checkpoints/1", chunked).await.problem(status, code);
    let request = Request::put("/v1/runs/run/checkpoints/1").header("content-length", bytes.len());
    let announced = app.send(request.body(bytes.into()).unwrap()).await.problem(status, code);
    assert_eq!(announced.errors, chunked.errors);
    app.assert_nothing_stored().await;
    announced
}

#[sqlx::test]
async fn a_truncated_file_is_refused(pool: PgPool) {
    let whole = checkpoint(1);
    let problem = refused(pool, whole[..whole.len() - 5].to_vec(), 422, "invalid_file").await;
    assert!(problem.detail.contains("truncated"), "{problem:?}");
}

#[sqlx::test]
async fn a_file_that_goes_on_after_its_last_tensor_is_refused(pool: PgPool) {
    let problem = refused(pool, [checkpoint(1), vec![0; 9]].concat(), 422, "invalid_file").await;
    assert!(problem.detail.contains("after its last tensor"), "{problem:?}");
}

#[sqlx::test]
async fn an_empty_file_is_refused(pool: PgPool) {
    refused(pool, Vec::new(), 422, "invalid_file").await;
}

#[sqlx::test]
async fn a_header_longer_than_the_file_is_refused(pool: PgPool) {
    let bytes = [&1000_u64.to_le_bytes()[..], b"{\"a\":"].concat();
    let problem = refused(pool, bytes, 422, "invalid_file").await;
    assert!(problem.detail.contains("claims 1000 bytes"), "{problem:?}");
}

#[sqlx::test]
async fn a_header_that_claims_100_megabytes_is_refused(pool: PgPool) {
    let bytes = [&100_000_000_u64.to_le_bytes()[..], &[b' '; 64]].concat();
    let problem = refused(pool, bytes, 422, "invalid_file").await;
    assert!(problem.detail.contains("100000000"), "{problem:?}");
}

#[sqlx::test]
async fn overlapping_offsets_are_refused_by_tensor(pool: PgPool) {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let problem = refused(pool, assemble(header, &[0; 12]), 422, "invalid_file").await;
    assert!(problem.detail.contains("`b`") && problem.detail.contains("overlaps `a`"), "{problem:?}");
}

#[sqlx::test]
async fn an_unknown_dtype_is_refused_by_tensor(pool: PgPool) {
    let problem = refused(pool, safetensors(&[raw("w", "Q4", &[4], vec![0; 4])]), 422, "invalid_file").await;
    assert!(problem.detail.contains("`w`") && problem.detail.contains("Q4"), "{problem:?}");
}

#[sqlx::test]
async fn a_header_that_is_no_json_is_refused(pool: PgPool) {
    refused(pool, assemble("{not json", &[]), 422, "invalid_file").await;
}

#[sqlx::test]
async fn a_nul_in_a_tensors_name_is_refused(pool: PgPool) {
    let problem = refused(pool, safetensors(&[f32s("a\0b", &[1], [1.0])]), 422, "invalid_file").await;
    assert!(problem.detail.contains("NUL"), "{problem:?}");
}

#[sqlx::test]
async fn nan_and_infinity_are_refused_by_tensor(pool: PgPool) {
    let bytes = safetensors(&[f32s("good", &[2], [1.0, 2.0]), f32s("bad", &[3], [0.0, f32::NAN, 1.0])]);
    let problem = refused(pool.clone(), bytes, 422, "not_finite").await;
    assert_eq!(problem.errors[0].field, "bad");
}

#[sqlx::test]
async fn a_checkpoint_of_another_layout_is_refused_by_its_first_difference(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    app.push("run", 1, "", checkpoint(1)).await;
    let other = safetensors(&[f32s("0.weight", &[2, 3], [0.0; 6]), f32s("0.bias", &[3], [0.0; 3])]);
    let problem = app.put("/v1/runs/run/checkpoints/2", other).await.problem(422, "layout_differs");
    assert_eq!(problem.errors[0].field, "0.weight");
    assert!(problem.detail.contains("[2, 3]") && problem.detail.contains("[3, 2]"), "{problem:?}");
    assert_eq!((app.count("checkpoints").await, app.count("blobs").await), (1, 1));
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_taken_step_is_refused_and_the_same_bytes_again_are_not(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let stored = app.push("run", 1, "", checkpoint(1)).await;
    let path = "/v1/runs/run/checkpoints/1";
    let again: Checkpoint = app.put(path, checkpoint(1)).await.json(200);
    assert_eq!(again.checkpoint_id, stored.checkpoint_id);
    let announced = format!("{path}?digest_blake3={}", files::digest(&checkpoint(1)));
    let again: Checkpoint = app.put(&announced, checkpoint(1)).await.json(200);
    assert_eq!(again.checkpoint_id, stored.checkpoint_id);
    let problem = app.put(path, checkpoint(2)).await.problem(409, "step_taken");
    assert_eq!(problem.errors[0].field, "step");
    let announced = format!("{path}?digest_blake3={}", files::digest(&checkpoint(2)));
    app.put(&announced, checkpoint(2)).await.problem(409, "step_taken");
    assert_eq!((app.count("checkpoints").await, app.count("blobs").await), (1, 1));
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn two_pushes_of_one_step_at_once_store_one(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let path = "/v1/runs/run/checkpoints/1";
    let (first, second) = tokio::join!(app.put(path, checkpoint(1)), app.put(path, checkpoint(2)));
    let mut statuses = [first.status.as_u16(), second.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
    assert_eq!((app.count("checkpoints").await, app.count("blobs").await), (1, 1));
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn bad_parameters_are_refused_by_field(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    for (path, status, code, named) in [
        ("run/checkpoints/-1", 422, "invalid_field", "step"),
        ("run/checkpoints/one", 422, "invalid_field", "step"),
        ("run/checkpoints/1?metrics=val_loss:NaN", 422, "invalid_field", "metrics.val_loss"),
        ("run/checkpoints/1?metrics=val_loss", 422, "invalid_field", "metrics"),
        ("run/checkpoints/1?epoch=inf", 422, "invalid_field", "epoch"),
        ("run/checkpoints/1?tags=a,,b", 422, "invalid_field", "tags"),
        ("run/checkpoints/1?digest_blake3=abc", 422, "invalid_field", "digest_blake3"),
        ("run/checkpoints/1?epoch=first", 400, "invalid_query", "epoch"),
        ("run/checkpoints/1?metric=val_loss:1", 400, "invalid_query", "metric"),
        ("absent/checkpoints/1", 404, "run_not_found", "absent"),
    ] {
        let problem = app.put(&format!("/v1/runs/{path}"), checkpoint(1)).await.problem(status, code);
        assert!(problem.detail.contains(named), "{path}: {problem:?}");
    }
    app.assert_nothing_stored().await;
}

#[sqlx::test]
async fn bytes_of_another_digest_than_announced_are_refused(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let path = format!("/v1/runs/run/checkpoints/1?digest_blake3={}", files::digest(b"other"));
    app.put(&path, checkpoint(1)).await.problem(422, "digest_differs");
    app.assert_nothing_stored().await;
}

#[sqlx::test]
async fn a_file_above_the_limit_is_refused(pool: PgPool) {
    let store = TestApp::new(pool.clone()).state.store;
    let app = TestApp::with(pool, store, |config| config.uploads.max_upload_bytes = 100);
    app.create_run("run").await;
    let request = Request::put("/v1/runs/run/checkpoints/1").header("content-length", 1_u64 << 40);
    app.send(request.body(checkpoint(1).into()).unwrap()).await.problem(413, "too_large");
    app.put("/v1/runs/run/checkpoints/1", checkpoint(1)).await.problem(413, "too_large");
    app.assert_nothing_stored().await;
}

#[sqlx::test]
async fn metrics_and_tags_are_kept(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let pushed = app.push("run", 7, "?epoch=0.5&metrics=val_loss:0.1,acc:-0.25&tags=warm", checkpoint(1)).await;
    let found: Checkpoint = app.get(&format!("/v1/checkpoints/{}", pushed.checkpoint_id)).await.json(200);
    assert_eq!(json!(found), json!(pushed));
    assert_eq!(json!(found.metrics), json!({ "acc": -0.25, "val_loss": 0.1 }));
    assert_eq!((found.step, found.epoch, found.tensor_count), (7, Some(0.5), 2));
    assert_eq!(found.digest_blake3, files::digest(&checkpoint(1)));
    let tensors: serde_json::Value =
        app.get(&format!("/v1/checkpoints/{}/tensors", found.checkpoint_id)).await.json(200);
    let expected = json!([
        { "name": "0.bias", "dtype": "F32", "shape": [3] },
        { "name": "0.weight", "dtype": "F32", "shape": [3, 2] },
    ]);
    assert_eq!(tensors, expected);
}
