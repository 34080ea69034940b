//! Uploads that never end.

use std::time::Duration;

use axum::{body::Body, http::Request};
use barycenter_api::{Checkpoint, Page};
use bytes::Bytes;
use futures::StreamExt;
use sqlx::PgPool;

use crate::harness::{
    TestApp,
    faulty::{Fault, Faulty, Point},
    files::{checkpoint, large_checkpoint},
};

const PATH: &str = "/v1/runs/run/checkpoints/1";

/// A body that sends the first half of a file, and then neither more bytes nor an end.
fn stalled(bytes: &[u8]) -> Body {
    let half = Bytes::copy_from_slice(&bytes[..bytes.len() / 2]);
    let chunks: Vec<_> = half.chunks(1 << 16).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
    Body::from_stream(futures::stream::iter(chunks).chain(futures::stream::pending()))
}

#[sqlx::test]
async fn a_broken_connection_leaves_nothing(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let half = checkpoint(1)[..180].to_vec();
    let torn = futures::stream::iter([Ok(half), Err(std::io::Error::other("connection reset"))]);
    app.put(PATH, Body::from_stream(torn)).await.problem(400, "body_interrupted");
    app.assert_nothing_stored().await;
}

#[sqlx::test]
async fn a_killed_upload_is_never_visible_and_is_reaped(pool: PgPool) {
    let folder = tempfile::tempdir().unwrap();
    let url = url::Url::from_directory_path(folder.path()).unwrap();
    let store = barycenter::storage::Store::open(&url, []).unwrap();
    let app = TestApp::with(pool, store, |_| {});
    app.create_run("run").await;
    let request = Request::put(PATH).body(stalled(&large_checkpoint(40 << 20))).unwrap();
    // Dropping the request in the middle is what a killed server does to it, as far as the store and database can tell.
    let upload = app.send(request);
    tokio::select! {
        _ = upload => panic!("the body never ends"),
        () = upload_begun(&app) => {}
    }
    let page: Page<Checkpoint> = app.get("/v1/runs/run/checkpoints").await.json(200);
    assert!(page.items.is_empty());
    assert_eq!((app.count("blobs").await, app.count("uploads").await), (0, 1));
    // The unfinished file of a process that died without a chance to clean up.
    let key: String = sqlx::query_scalar("select object_key from uploads").fetch_one(&app.state.pool).await.unwrap();
    let unfinished = folder.path().join(format!("{key}#7"));
    std::fs::create_dir_all(unfinished.parent().unwrap()).unwrap();
    std::fs::write(&unfinished, b"half").unwrap();

    assert_eq!(app.reap_after(Duration::from_secs(200)).await, 0, "it may still be alive");
    assert_eq!(app.reap_after(Duration::from_secs(200)).await, 1);
    app.assert_nothing_stored().await;
    assert!(!unfinished.exists());
    app.push("run", 1, "", checkpoint(1)).await;
}

async fn upload_begun(app: &TestApp) {
    while app.count("uploads").await == 0 {
        tokio::task::yield_now().await;
    }
}

#[sqlx::test]
async fn an_upload_that_was_reaped_cannot_be_committed(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let bytes = checkpoint(1);
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let (head, tail) = (bytes[..bytes.len() - 4].to_vec(), bytes[bytes.len() - 4..].to_vec());
    let tail = futures::stream::once(async move {
        released.await.unwrap();
        Ok(tail)
    });
    let body = Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>(head)]).chain(tail));
    let reap = async {
        upload_begun(&app).await;
        assert_eq!(app.reap_after(Duration::from_secs(1000)).await, 1);
        release.send(()).unwrap();
    };
    let (response, ()) = tokio::join!(app.put(PATH, body), reap);
    response.problem(409, "upload_lapsed");
    assert_eq!(app.count("blobs").await, 0);
    app.push("run", 1, "", bytes).await;
}

/// Every point that a stream into a store passes, with a failure there and with a kill.
fn every_fault() -> impl Iterator<Item = (Point, Fault)> {
    let points = Point::ALL.into_iter().filter(|point| *point != Point::BeforeRead);
    points.flat_map(|point| [(point, Fault::Fail), (point, Fault::Hang)])
}

#[sqlx::test]
async fn a_stream_that_fails_or_is_killed_at_any_point_of_the_store_leaves_no_part_to_it(pool: PgPool) {
    let faulty = Faulty::default();
    let app = TestApp::with(pool, faulty.store(), |_| {});
    app.create_run("run").await;
    for (point, fault) in every_fault() {
        faulty.plan(point, fault);
        tokio::select! {
            refused = app.put(PATH, large_checkpoint(40 << 20)) => {
                refused.problem(503, "unavailable");
                assert_eq!((fault, faulty.part_bytes()), (Fault::Fail, 0), "{point:?}");
            }
            () = faulty.hanging() => assert_eq!(fault, Fault::Hang),
        }
        assert!(faulty.is_spent(), "{point:?} was never reached");
        app.reap_after(Duration::from_secs(301)).await;
        assert_eq!(faulty.part_bytes(), 0, "{point:?}");
        app.assert_nothing_stored().await;
    }
    app.push("run", 1, "", large_checkpoint(40 << 20)).await;
    assert_eq!(faulty.part_bytes(), 0);
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_store_without_room_is_named_and_keeps_nothing_of_what_it_refused(pool: PgPool) {
    let faulty = Faulty::default();
    let app = TestApp::with(pool, faulty.store(), |_| {});
    app.create_run("run").await;
    for point in [Point::BeforeCreate, Point::BeforePart, Point::BeforeFinish] {
        faulty.plan(point, Fault::Full);
        let refused = app.put(PATH, large_checkpoint(40 << 20)).await;
        assert!(refused.headers.contains_key("retry-after"));
        refused.problem(507, "store_full");
        assert_eq!(faulty.part_bytes(), 0, "{point:?}");
        app.assert_nothing_stored().await;
    }
    app.push("run", 1, "", large_checkpoint(40 << 20)).await;
    app.assert_no_orphans().await;
}
