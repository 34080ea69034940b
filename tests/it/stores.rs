//! The same upload and download over every kind of store.

use std::{net::SocketAddr, path::Path, time::Duration};

use axum::{body::Body, http::Request};
use barycenter::storage::Store;
use barycenter_api::{PartUrls, UploadPart};
use futures::StreamExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use sqlx::PgPool;
use tempfile::TempDir;
use url::Url;

use crate::harness::{
    TestApp,
    files::{checkpoint, large_checkpoint},
    uploads::Sender,
};

/// Stores a small and a large file, reads them back whole and in part, stores equal bytes once, refuses a bad file.
async fn keeps_files(pool: PgPool, store: Store) {
    let app = TestApp::with(pool, store, |_| {});
    assert_eq!(app.get("/readyz").await.status, 200);
    app.create_run("small").await;
    app.create_run("large").await;
    let large = large_checkpoint(20 << 20);
    for (run, bytes) in [("small", checkpoint(1)), ("large", large.clone())] {
        let pushed = app.push(run, 1, "", bytes.clone()).await;
        let path = format!("/v1/checkpoints/{}/content", pushed.checkpoint_id);
        assert!(app.get(&path).await.body == bytes, "{run}");
        let middle = bytes.len() / 2;
        let request = Request::get(&path).header("range", format!("bytes={middle}-")).body("".into()).unwrap();
        assert!(app.send(request).await.body == bytes[middle..], "{run}");
    }
    app.push("large", 2, "", large.clone()).await;
    assert_eq!((app.count("checkpoints").await, app.count("blobs").await), (3, 2));
    let mut poisoned = large;
    let end = poisoned.len();
    poisoned[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    app.put("/v1/runs/large/checkpoints/3", poisoned).await.problem(422, "not_finite");
    app.assert_no_orphans().await;
    takes_parts(&app).await;
}

/// Stores a file in parts that come in no order, replaces one, gives back what is aborted or abandoned.
async fn takes_parts(app: &TestApp) {
    app.create_run("parts").await;
    let bytes = large_checkpoint(19 << 20);
    let sender = Sender::begin(app, "parts", 1, bytes, 8 << 20).await;
    app.put(&sender.path("/parts/3"), vec![7; sender.part(3).len()]).await.json::<UploadPart>(200);
    for number in [3, 1, 2] {
        sender.send(app, number).await;
    }
    let completed = sender.complete(app).await;
    sender.assert_stored(app, &completed).await;
    for abort in [true, false] {
        let mut bytes = sender.bytes.clone();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&0.25_f32.to_le_bytes());
        let other = Sender::begin(app, "parts", 2, bytes, 8 << 20).await;
        other.send(app, 2).await;
        if abort {
            assert_eq!(other.abort(app).await.status, 204);
        } else {
            assert_eq!(app.reap_after(Duration::from_hours(73)).await, 1);
        }
    }
    app.assert_no_orphans().await;
}

/// Bytes of all files below a folder.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| if entry.path().is_dir() { bytes_below(&entry.path()) } else { entry.metadata().unwrap().len() })
        .sum()
}

/// What the two large files, the small one and the one in parts take.
fn expected_bytes() -> u64 {
    let files = [checkpoint(1), large_checkpoint(20 << 20), large_checkpoint(19 << 20)];
    files.iter().map(|file| file.len() as u64).sum()
}

#[sqlx::test]
async fn a_store_in_memory_keeps_files(pool: PgPool) {
    keeps_files(pool, Store::open(&Url::parse("memory:///").unwrap(), []).unwrap()).await;
}

#[sqlx::test]
async fn a_folder_keeps_files(pool: PgPool) {
    let folder = TempDir::new().unwrap();
    let url = Url::from_directory_path(folder.path().join("made/on/demand")).unwrap();
    keeps_files(pool, Store::open(&url, []).unwrap()).await;
    assert_eq!(bytes_below(folder.path()), expected_bytes());
}

#[sqlx::test]
async fn an_s3_bucket_keeps_files(pool: PgPool) {
    let folder = TempDir::new().unwrap();
    keeps_files(pool, s3_store(&folder).await).await;
    assert_eq!(bytes_below(&folder.path().join("bucket")), expected_bytes());
    assert_eq!(parts_left(&folder), 0);
}

/// Names of parts that belong to no object.
fn parts_left(folder: &TempDir) -> usize {
    let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    entries.filter(|name| name.to_string_lossy().contains(".part-")).count()
}

#[sqlx::test]
async fn a_stream_that_was_killed_leaves_no_part_in_the_bucket(pool: PgPool) {
    let folder = TempDir::new().unwrap();
    let app = TestApp::with(pool, s3_store(&folder).await, |_| {});
    app.create_run("run").await;
    let half = large_checkpoint(40 << 20)[..30 << 20].to_vec();
    let chunks: Vec<_> = half.chunks(1 << 20).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
    let stalled = futures::stream::iter(chunks).chain(futures::stream::pending());
    let three_parts = async {
        while parts_left(&folder) < 3 {
            tokio::task::yield_now().await;
        }
    };
    // What a killed server does to a request, as far as the bucket can tell.
    tokio::select! {
        _ = app.put("/v1/runs/run/checkpoints/1", Body::from_stream(stalled)) => panic!("the body never ends"),
        () = three_parts => {}
    }
    assert_eq!(app.reap_after(Duration::from_secs(200)).await, 0, "it may still be alive");
    assert_eq!(app.reap_after(Duration::from_secs(200)).await, 1);
    assert_eq!(parts_left(&folder), 0);
    app.assert_nothing_stored().await;
}

/// Sends some parts to the store itself, as a client does that was given URLs.
#[sqlx::test]
async fn parts_that_went_to_the_bucket_directly_are_found_there_and_verified(pool: PgPool) {
    let folder = TempDir::new().unwrap();
    let app = TestApp::with(pool, s3_store(&folder).await, |_| {});
    app.create_run("run").await;
    let bytes = large_checkpoint(35 << 20);
    let sender = Sender::begin(&app, "run", 1, bytes.clone(), 8 << 20).await;
    sender.send(&app, 2).await;
    assert_eq!(send_directly(&app, &sender, &[5, 1, 3]).await, [200; 3]);
    let listed = sender.listed(&app).await;
    assert_eq!(listed.iter().map(|part| part.number).collect::<Vec<_>>(), [1, 2, 3, 5]);
    assert_eq!(listed.iter().filter(|part| part.chaining_value_blake3.is_some()).count(), 1);
    sender.try_complete(&app).await.problem(409, "parts_missing");
    assert_eq!(send_directly(&app, &sender, &[4]).await, [200]);
    let completed = sender.complete(&app).await;
    sender.assert_stored(&app, &completed).await;

    // Other bytes than announced are found out, and are not kept.
    let mut other = bytes;
    let end = other.len();
    other[end - 4..].copy_from_slice(&0.5_f32.to_le_bytes());
    let mut sender = Sender::begin(&app, "run", 2, other, 8 << 20).await;
    sender.bytes[end - 4..].copy_from_slice(&0.75_f32.to_le_bytes());
    send_directly(&app, &sender, &[1, 2, 3, 4, 5]).await;
    sender.try_complete(&app).await.problem(422, "digest_differs");
    app.assert_no_orphans().await;
}

async fn send_directly(app: &TestApp, sender: &Sender, numbers: &[u64]) -> Vec<u16> {
    let signed = app.post(&sender.path("/part_urls"), serde_json::json!({ "numbers": numbers })).await;
    let signed: PartUrls = signed.json(200);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut answers = Vec::new();
    for part in signed.urls {
        assert_eq!(part.size_bytes, sender.part(part.number).len() as u64);
        let answer = client.put(&part.url).body(sender.part(part.number)).send().await.unwrap();
        answers.push(answer.status().as_u16());
    }
    answers
}

#[sqlx::test]
async fn urls_are_refused_where_the_store_signs_none_or_the_parts_make_no_sense(pool: PgPool) {
    let folder = TempDir::new().unwrap();
    let app = TestApp::new(pool.clone());
    app.create_run("run").await;
    let sender = Sender::begin(&app, "run", 1, checkpoint(1), 1024).await;
    let ask = |numbers: serde_json::Value| serde_json::json!({ "numbers": numbers });
    let refused = app.post(&sender.path("/part_urls"), ask(serde_json::json!([1]))).await;
    refused.problem(409, "direct_upload_unsupported");
    let app = TestApp::with(pool, s3_store(&folder).await, |_| {});
    for numbers in [vec![], vec![0], vec![2], vec![1; 101]] {
        let refused = app.post(&sender.path("/part_urls"), ask(serde_json::json!(numbers))).await;
        assert_eq!(refused.problem(422, "invalid_field").errors[0].field, "numbers");
    }
}

async fn s3_store(folder: &TempDir) -> Store {
    std::fs::create_dir(folder.path().join("bucket")).unwrap();
    let address = s3_server(folder).await;
    let settings = [
        ("aws_endpoint", format!("http://{address}").as_str()),
        ("aws_allow_http", "true"),
        ("aws_region", "us-east-1"),
        ("aws_access_key_id", "key"),
        ("aws_secret_access_key", "secret"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    Store::open(&Url::parse("s3://bucket/prefix").unwrap(), settings).unwrap()
}

async fn s3_server(folder: &TempDir) -> SocketAddr {
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
    service.set_auth(SimpleAuth::from_single("key", "secret"));
    let service = service.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                // A connection that the client closes is no failure of the test.
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    address
}
