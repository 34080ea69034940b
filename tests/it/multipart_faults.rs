//! Uploads in parts, disturbed at every point: a server that dies, a store that fails. What was stored stays, what is missing is
//! sent, nothing is half-visible, and what nobody finishes is given back.

use std::time::Duration;

use axum::{body::Body, http::Request};
use barycenter_api::{Checkpoint, Page, Upload, UploadState};
use bytes::Bytes;
use futures::StreamExt;
use sqlx::PgPool;

use crate::harness::{
    TestApp,
    faulty::{Fault, Faulty, Point},
    files::large_checkpoint,
    uploads::Sender,
};

const PART: u64 = 1024;

/// A server on the store; the next one on the same database is what a restart gives.
fn server(pool: &PgPool, faulty: &Faulty) -> TestApp {
    TestApp::with(pool.clone(), faulty.store(), |_| {})
}

/// Eight parts, of other bytes for every step.
fn file(step: i64) -> Vec<u8> {
    large_checkpoint(7000 + 4 * step as usize)
}

/// The whole upload as a client makes it that sends parts 1, 3, 2, 4, ... one after another and gives up at the first refusal.
async fn upload(app: &TestApp, step: i64) -> Option<Upload> {
    let bytes = file(step);
    let asked = app.post("/v1/uploads", crate::harness::uploads::checkpoint_upload("run", step, &bytes, PART)).await;
    if !asked.status.is_success() {
        asked.problem(503, "unavailable");
        return None;
    }
    let sender = Sender { upload: asked.json(asked.status.as_u16()), bytes };
    if sender.upload.state == UploadState::Completed {
        return Some(sender.upload);
    }
    let there: Vec<u64> = sender.listed(app).await.iter().map(|part| part.number).collect();
    // Part 2 comes before the header, so that it is read back at the end.
    for number in [2, 1, 3, 4, 5, 6, 7].into_iter().filter(|number| !there.contains(number)) {
        let sent = sender.try_send(app, number).await;
        if !sent.status.is_success() {
            sent.problem(503, "unavailable");
            return None;
        }
    }
    let completed = sender.try_complete(app).await;
    if !completed.status.is_success() {
        completed.problem(503, "unavailable");
        return None;
    }
    Some(completed.json(200))
}

/// Runs an upload into a planned fault: until it gives up, or until it hangs and is killed with its server.
async fn disturbed(pool: &PgPool, faulty: &Faulty, step: i64, point: Point, fault: Fault) {
    faulty.plan(point, fault);
    let app = server(pool, faulty);
    tokio::select! {
        outcome = upload(&app, step) => {
            assert_eq!(fault, Fault::Fail, "{point:?}: it should have been killed");
            // A failure behind the store's back, after the parts were put together, is seen to have succeeded.
            assert_eq!(outcome.is_some(), point == Point::AfterFinish, "{point:?}");
        }
        () = faulty.hanging() => assert_eq!(fault, Fault::Hang),
    }
    assert!(faulty.is_spent(), "{point:?} was never reached");
    let visible: Page<Checkpoint> = app.get("/v1/runs/run/checkpoints").await.json(200);
    let visible = visible.items.iter().any(|checkpoint| checkpoint.step == step);
    assert_eq!(visible, fault == Fault::Fail && point == Point::AfterFinish, "{point:?}: half-visible");
}

async fn stored_parts(app: &TestApp) -> Vec<(i64, chrono::DateTime<chrono::Utc>)> {
    let parts = sqlx::query_as("select number, stored_at from upload_parts order by number");
    parts.fetch_all(&app.state.pool).await.unwrap()
}

#[sqlx::test]
async fn whatever_point_it_is_disturbed_at_a_restart_sends_only_what_is_missing(pool: PgPool) {
    let faulty = Faulty::default();
    server(&pool, &faulty).create_run("run").await;
    for (step, (point, fault)) in every_fault().into_iter().enumerate() {
        let step = step as i64;
        // The files differ in length, which one run would refuse.
        for statement in ["delete from checkpoints", "delete from tensor_files", "delete from layouts"] {
            sqlx::query(statement).execute(&pool).await.unwrap();
        }
        disturbed(&pool, &faulty, step, point, fault).await;

        let app = server(&pool, &faulty);
        app.clock.advance(Duration::from_mins(1));
        let before = stored_parts(&app).await;
        let completed = upload(&app, step).await.unwrap_or_else(|| panic!("{point:?}, {fault:?}"));
        let sender = Sender { upload: completed.clone(), bytes: file(step) };
        sender.assert_stored(&app, &completed).await;
        let expected = match (point, fault) {
            (Point::BeforeFinish | Point::BeforeRead, _) | (Point::AfterFinish, Fault::Hang) => 7,
            // The first part is the one that was disturbed; or all is done and forgotten.
            _ => 0,
        };
        assert_eq!(before.len(), expected, "{point:?}, {fault:?}: parts that were there");
        assert_eq!(faulty.part_bytes(), 0, "{point:?}, {fault:?}");
    }
}

fn every_fault() -> Vec<(Point, Fault)> {
    Point::ALL.iter().flat_map(|point| [(*point, Fault::Fail), (*point, Fault::Hang)]).collect()
}

#[sqlx::test]
async fn whatever_point_it_is_left_at_the_reaper_gives_all_bytes_back(pool: PgPool) {
    let faulty = Faulty::default();
    server(&pool, &faulty).create_run("run").await;
    for (step, (point, fault)) in every_fault().into_iter().enumerate() {
        if (point, fault) == (Point::AfterFinish, Fault::Fail) {
            continue;
        }
        disturbed(&pool, &faulty, step as i64, point, fault).await;
        let app = server(&pool, &faulty);
        app.reap_after(Duration::from_hours(73)).await;
        app.assert_nothing_stored().await;
        assert_eq!((faulty.part_bytes(), app.count("multipart_uploads").await), (0, 0), "{point:?}, {fault:?}");
    }
}

#[sqlx::test]
async fn parts_that_were_there_before_a_part_was_disturbed_are_not_sent_again(pool: PgPool) {
    let faulty = Faulty::default();
    let app = server(&pool, &faulty);
    app.create_run("run").await;
    for (step, point) in [(1, Point::BeforePart), (1, Point::AfterPart)] {
        let sender = Sender::begin(&app, "run", step, file(step), PART).await;
        sender.send(&app, 1).await;
        sender.send(&app, 2).await;
        faulty.plan(point, Fault::Hang);
        tokio::select! {
            _ = sender.try_send(&app, 3) => panic!("it hangs"),
            () = faulty.hanging() => {}
        }
        let restarted = server(&pool, &faulty);
        assert_eq!(sender.listed(&restarted).await.iter().map(|part| part.number).collect::<Vec<_>>(), [1, 2]);
    }
    let restarted = server(&pool, &faulty);
    let sender = Sender::begin(&restarted, "run", 1, file(1), PART).await;
    assert_eq!(sender.send_missing(&restarted).await, [3, 4, 5, 6, 7]);
    sender.complete(&restarted).await;
    restarted.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_server_that_dies_while_a_part_arrives_has_not_got_it(pool: PgPool) {
    let folder = tempfile::tempdir().unwrap();
    let url = url::Url::from_directory_path(folder.path()).unwrap();
    for (step, store) in [(1, "memory:///".parse().unwrap()), (2, url)] {
        let store = barycenter::storage::Store::open(&store, []).unwrap();
        let app = TestApp::with(pool.clone(), store.clone(), |_| {});
        let run = format!("run-{step}");
        app.create_run(&run).await;
        let sender = Sender::begin(&app, &run, 1, file(step), PART).await;
        sender.send_all(&app).await;
        // A part that was there is sent again, with other bytes, and the server dies in the middle.
        let half = vec![9; 500];
        let (reached, taken) = tokio::sync::oneshot::channel();
        let stalled = futures::stream::once(async move {
            reached.send(()).unwrap();
            Ok::<_, std::io::Error>(Bytes::from(half))
        });
        let body = Body::from_stream(stalled.chain(futures::stream::pending()));
        let request = Request::put(sender.path("/parts/4")).body(body).unwrap();
        tokio::select! {
            _ = app.send(request) => panic!("the body never ends"),
            _ = taken => {}
        }
        let restarted = TestApp::with(pool.clone(), store, |_| {});
        let problem = sender.try_complete(&restarted).await.problem(409, "parts_missing");
        assert!(problem.detail.ends_with("missing: 4"), "{problem:?}");
        assert_eq!(sender.send_missing(&restarted).await, [4]);
        let completed = sender.complete(&restarted).await;
        sender.assert_stored(&restarted, &completed).await;
    }
}

#[sqlx::test]
async fn a_lost_answer_to_complete_costs_nothing(pool: PgPool) {
    let faulty = Faulty::default();
    let app = server(&pool, &faulty);
    app.create_run("run").await;
    let first = upload(&app, 1).await.unwrap();
    let again = upload(&server(&pool, &faulty), 1).await.unwrap();
    assert_eq!(first.checkpoint_id, again.checkpoint_id);
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn two_servers_on_one_folder_take_parts_of_one_upload(pool: PgPool) {
    let folder = tempfile::tempdir().unwrap();
    let url = url::Url::from_directory_path(folder.path()).unwrap();
    let server = || TestApp::with(pool.clone(), barycenter::storage::Store::open(&url, []).unwrap(), |_| {});
    let (one, two) = (server(), server());
    one.create_run("run").await;
    let sender = Sender::begin(&one, "run", 1, file(1), PART).await;
    // The one is in the middle of part 2: the other may not write it, and may write all others.
    let (reached, taken) = tokio::sync::oneshot::channel();
    let bytes = sender.part(2);
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let slow = futures::stream::once(async move {
        reached.send(()).unwrap();
        released.await.unwrap();
        Ok::<_, std::io::Error>(Bytes::from(bytes))
    });
    let request = Request::put(sender.path("/parts/2")).body(Body::from_stream(slow)).unwrap();
    let meanwhile = async {
        taken.await.unwrap();
        sender.try_send(&two, 2).await.problem(409, "part_busy");
        for number in [1, 3, 4, 5, 6, 7] {
            sender.send(&two, number).await;
        }
        sender.try_complete(&two).await.problem(409, "parts_missing");
        release.send(()).unwrap();
    };
    let (sent, ()) = tokio::join!(one.send(request), meanwhile);
    sent.json::<barycenter_api::UploadPart>(200);
    let completed = sender.complete(&two).await;
    sender.assert_stored(&one, &completed).await;
    one.assert_no_orphans().await;
    let files = walk(folder.path());
    assert_eq!(files.len(), 1, "{files:?}");
}

#[sqlx::test]
async fn a_folder_gives_everything_back_that_an_upload_left_in_it(pool: PgPool) {
    let folder = tempfile::tempdir().unwrap();
    let url = url::Url::from_directory_path(folder.path()).unwrap();
    let app = TestApp::with(pool, barycenter::storage::Store::open(&url, []).unwrap(), |_| {});
    app.create_run("run").await;
    let sender = Sender::begin(&app, "run", 1, file(1), PART).await;
    sender.send(&app, 5).await;
    assert_eq!(walk(folder.path()).len(), 1);
    assert_eq!(app.reap_after(Duration::from_hours(73)).await, 1);
    assert!(walk(folder.path()).is_empty());
    let sender = Sender::begin(&app, "run", 1, file(1), PART).await;
    sender.send(&app, 5).await;
    sender.abort(&app).await;
    assert!(walk(folder.path()).is_empty());
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
