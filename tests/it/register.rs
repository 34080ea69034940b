//! Checkpoints that lie in somebody's folder or bucket and stay there.

use std::{path::Path, time::Duration};

use axum::http::Request;
use barycenter::{app::gc, storage::Store};
use barycenter_api::{Checkpoint, Deleted};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use url::Url;

use crate::harness::{
    TestApp,
    files::{checkpoint, digest},
};

/// A server with a store of its own, where objects below `folder/allowed` may be registered.
async fn server(pool: PgPool, folder: &TempDir) -> TestApp {
    std::fs::create_dir_all(folder.path().join("allowed/deep")).unwrap();
    let allowed = Url::from_directory_path(folder.path().join("allowed")).unwrap();
    let store = Store::open(&"memory:///".parse().unwrap(), []).unwrap().with_registered(&[allowed], &[]).unwrap();
    let app = TestApp::with(pool, store, |_| {});
    app.create_run("run").await;
    app
}

fn url(path: &Path) -> String {
    Url::from_file_path(path).unwrap().to_string()
}

fn body(step: i64, path: &Path, bytes: &[u8]) -> Value {
    json!({ "step": step, "url": url(path), "digest_blake3": digest(bytes), "metrics": { "loss": 0.5 } })
}

const PATH: &str = "/v1/runs/run/checkpoints/register";

#[sqlx::test]
async fn a_file_below_an_allowed_prefix_becomes_a_checkpoint_where_it_lies(pool: PgPool) {
    let folder = TempDir::new().unwrap();
    let app = server(pool, &folder).await;
    let (file, bytes) = (folder.path().join("allowed/deep/a model.safetensors"), checkpoint(1));
    std::fs::write(&file, &bytes).unwrap();
    let created = app.post(PATH, body(1, &file, &bytes)).await;
    let stored: Checkpoint = created.json(201);
    assert_eq!((stored.step, stored.metrics["loss"], stored.digest_blake3.clone()), (1, 0.5, digest(&bytes)));
    assert_eq!(created.header("location"), format!("/v1/checkpoints/{}", stored.checkpoint_id));
    assert!(app.state.store.list_keys().await.unwrap().is_empty(), "no byte moves");
    let path = format!("/v1/checkpoints/{}/content", stored.checkpoint_id);
    assert_eq!(app.get(&path).await.body, bytes);
    let part = Request::get(&path).header("range", "bytes=5-10").body("".into()).unwrap();
    assert_eq!(app.send(part).await.body, bytes[5..=10]);

    let again: Checkpoint = app.post(PATH, body(1, &file, &bytes)).await.json(200);
    assert_eq!(again.checkpoint_id, stored.checkpoint_id);
    let other: Checkpoint = app.post(PATH, body(2, &file, &bytes)).await.json(201);
    assert_ne!(other.checkpoint_id, stored.checkpoint_id);
    assert_eq!(app.count("blobs").await, 1);

    // The same bytes uploaded no longer rest on a file of somebody else.
    app.push("run", 3, "", bytes.clone()).await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!(app.get(&path).await.body, bytes);
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_registered_file_is_never_deleted(pool: PgPool) {
    let folder = TempDir::new().unwrap();
    let app = server(pool, &folder).await;
    let file = folder.path().join("allowed/model.safetensors");
    std::fs::write(&file, checkpoint(1)).unwrap();
    let registered: Checkpoint = app.post(PATH, body(1, &file, &checkpoint(1))).await.json(201);
    let key: String = sqlx::query_scalar("select object_key from blobs").fetch_one(&app.state.pool).await.unwrap();
    app.state.store.delete(&barycenter::storage::ObjectKey::from_stored(&key)).await.unwrap();
    assert!(file.exists());

    app.delete(&format!("/v1/checkpoints/{}", registered.checkpoint_id)).await.json::<Deleted>(200);
    app.clock.advance(Duration::from_hours(2));
    let collected = gc::collect(&app.state).await.unwrap();
    assert_eq!((collected.checkpoints, collected.objects, collected.bytes), (1, 0, 0));
    assert_eq!((app.count("blobs").await, app.count("freed_objects").await), (0, 0));
    assert!(file.exists());
}

#[sqlx::test]
async fn what_lies_elsewhere_or_is_not_sound_is_refused(pool: PgPool) {
    let folder = TempDir::new().unwrap();
    let app = server(pool, &folder).await;
    let bytes = checkpoint(1);
    let (inside, outside) = (folder.path().join("allowed/m"), folder.path().join("secret"));
    std::fs::write(&inside, &bytes).unwrap();
    std::fs::write(&outside, &bytes).unwrap();
    let allowed = url(&folder.path().join("allowed"));
    for elsewhere in [
        url(&outside),
        format!("{allowed}/../secret"),
        format!("{allowed}/%2e%2e/secret"),
        format!("{allowed}/..%2Fsecret"),
        format!("{allowed}-not/m"),
        "s3://bucket/m".to_owned(),
        "m".to_owned(),
    ] {
        let mut body = body(1, &inside, &bytes);
        body["url"] = json!(elsewhere);
        let refused = app.post(PATH, body).await;
        assert_eq!(refused.problem(403, "prefix_not_allowed").errors[0].field, "url", "{elsewhere}");
    }
    let absent = folder.path().join("allowed/absent");
    app.post(PATH, body(1, &absent, &bytes)).await.problem(404, "object_not_found");
    app.post(PATH, body(1, &inside, b"other")).await.problem(422, "digest_differs");
    app.post(PATH, body(-1, &inside, &bytes)).await.problem(422, "invalid_field");
    std::fs::write(&inside, &bytes[..40]).unwrap();
    app.post(PATH, body(1, &inside, &bytes[..40])).await.problem(422, "invalid_file");
    let mut poisoned = bytes.clone();
    let end = poisoned.len();
    poisoned[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&inside, &poisoned).unwrap();
    app.post(PATH, body(1, &inside, &poisoned)).await.problem(422, "not_finite");
    app.assert_nothing_stored().await;
}

#[sqlx::test]
async fn nothing_is_registered_unless_a_prefix_is_allowed(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let body = body(1, Path::new("/etc/passwd"), b"");
    app.post(PATH, body).await.problem(403, "prefix_not_allowed");
}
