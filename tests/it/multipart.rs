//! Uploads in parts.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    body::Body,
    http::{Method, Request},
};
use barycenter_api::{Checkpoint, Page, Upload, UploadPart, UploadState, tree};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{
    TestApp,
    files::{checkpoint, digest, large_checkpoint},
    json_request,
    uploads::{Sender, checkpoint_upload},
};

/// A checkpoint of ten and a half parts of 1 KiB.
fn file() -> Vec<u8> {
    large_checkpoint(10_600)
}

async fn begun(app: &TestApp) -> Sender {
    app.create_run("run").await;
    Sender::begin(app, "run", 1, file(), 1024).await
}

#[sqlx::test]
async fn parts_in_any_order_become_a_checkpoint(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let bytes = file();
    let mut body = checkpoint_upload("run", 7, &bytes, 1024);
    body["target"]["metrics"] = json!({ "val_loss": 0.5 });
    body["target"]["tags"] = json!(["warm"]);
    body["target"]["epoch"] = json!(1.5);
    let created = app.post("/v1/uploads", body).await;
    let upload: Upload = created.json(201);
    assert_eq!(created.header("location"), format!("/v1/uploads/{}", upload.upload_id));
    assert_eq!((upload.state, upload.part_count, upload.received_parts), (UploadState::Open, 11, 0));
    let sender = Sender { upload, bytes };
    for number in [11, 3, 1, 2, 10, 4, 9, 5, 8, 6, 7] {
        sender.send(&app, number).await;
    }
    let upload: Upload = app.get(&sender.path("")).await.json(200);
    assert_eq!((upload.received_parts, upload.received_bytes), (11, sender.bytes.len() as u64));
    let page: Page<Checkpoint> = app.get("/v1/runs/run/checkpoints").await.json(200);
    assert!(page.items.is_empty(), "it is visible before it is complete");

    let answer = sender.try_complete(&app).await;
    let completed: Upload = answer.json(200);
    assert_eq!(completed.state, UploadState::Completed);
    assert_eq!((completed.received_parts, completed.lapses_at), (11, None));
    let path = format!("/v1/checkpoints/{}", completed.checkpoint_id.unwrap());
    assert_eq!(answer.header("location"), path);
    let stored: Checkpoint = app.get(&path).await.json(200);
    assert_eq!((stored.step, stored.epoch, stored.tags), (7, Some(1.5), vec!["warm".to_owned()]));
    assert_eq!((stored.metrics["val_loss"], stored.digest_blake3), (0.5, digest(&sender.bytes)));
    sender.assert_stored(&app, &completed).await;
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn completing_again_answers_the_same(pool: PgPool) {
    let app = TestApp::new(pool);
    let sender = begun(&app).await;
    sender.send_all(&app).await;
    let first = sender.complete(&app).await;
    let second = sender.complete(&app).await;
    assert_eq!(first.checkpoint_id, second.checkpoint_id);
    let shown: Upload = app.get(&sender.path("")).await.json(200);
    assert_eq!(shown.checkpoint_id, first.checkpoint_id);
    assert_eq!(app.count("checkpoints").await, 1);
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn completing_twice_at_once_makes_one_checkpoint(pool: PgPool) {
    let app = TestApp::new(pool);
    let sender = begun(&app).await;
    sender.send_all(&app).await;
    let (first, second) = tokio::join!(sender.complete(&app), sender.complete(&app));
    assert_eq!(first.checkpoint_id, second.checkpoint_id);
    sender.assert_stored(&app, &first).await;
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_file_of_one_part_is_stored_like_any_other(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let sender = Sender::begin(&app, "run", 1, checkpoint(1), 1024).await;
    let part = sender.send(&app, 1).await;
    assert_eq!(part.chaining_value_blake3, Some(digest(&sender.bytes)));
    let completed = sender.complete(&app).await;
    sender.assert_stored(&app, &completed).await;
}

#[sqlx::test]
async fn many_parts_at_a_time_are_taken(pool: PgPool) {
    let app = TestApp::new(pool);
    let sender = begun(&app).await;
    futures::future::join_all((1..=11).map(|number| sender.send(&app, number))).await;
    let completed = sender.complete(&app).await;
    sender.assert_stored(&app, &completed).await;
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn asking_again_finds_the_open_upload_and_what_it_has(pool: PgPool) {
    let app = TestApp::new(pool);
    let sender = begun(&app).await;
    sender.send(&app, 1).await;
    sender.send(&app, 5).await;
    let mut body = checkpoint_upload("run", 1, &sender.bytes, 2048);
    body["target"]["metrics"] = json!({ "loss": 2.5 });
    let again: Upload = app.post("/v1/uploads", body).await.json(200);
    assert_eq!(again.upload_id, sender.upload.upload_id);
    assert_eq!((again.part_size_bytes, again.received_parts), (1024, 2));
    assert_eq!(sender.send_missing(&app).await, [2, 3, 4, 6, 7, 8, 9, 10, 11]);
    let completed = sender.complete(&app).await;
    let stored: Checkpoint = app.get(&format!("/v1/checkpoints/{}", completed.checkpoint_id.unwrap())).await.json(200);
    assert_eq!(stored.metrics, BTreeMap::from([("loss".to_owned(), 2.5)]), "what was told last holds");

    let done: Upload = app.post("/v1/uploads", checkpoint_upload("run", 1, &sender.bytes, 1024)).await.json(200);
    assert_eq!((done.state, done.checkpoint_id), (UploadState::Completed, completed.checkpoint_id));
    let other = checkpoint_upload("run", 1, &checkpoint(5), 1024);
    app.post("/v1/uploads", other).await.problem(409, "step_taken");
}

#[sqlx::test]
async fn two_who_begin_the_same_at_once_share_one_upload(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let body = || checkpoint_upload("run", 1, &file(), 1024);
    let (first, second) = tokio::join!(app.post("/v1/uploads", body()), app.post("/v1/uploads", body()));
    let read = |answer: &crate::harness::TestResponse| answer.json::<Upload>(answer.status.as_u16()).upload_id;
    assert_eq!(read(&first), read(&second));
    assert_eq!((app.count("uploads").await, app.count("multipart_uploads").await), (1, 1));
}

#[sqlx::test]
async fn the_same_key_again_gets_the_same_reply(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let keyed = || {
        let mut request = json_request(Method::POST, "/v1/uploads", &checkpoint_upload("run", 1, &file(), 1024));
        request.headers_mut().insert("idempotency-key", "k1".parse().unwrap());
        request
    };
    let (first, second) = (app.send(keyed()).await, app.send(keyed()).await);
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (201, 201));
    assert_eq!(first.body, second.body);
}

#[sqlx::test]
async fn a_part_that_is_sent_again_is_replaced(pool: PgPool) {
    let app = TestApp::new(pool);
    let sender = begun(&app).await;
    sender.send_all(&app).await;
    let wrong: UploadPart = app.put(&sender.path("/parts/4"), vec![0; 1024]).await.json(200);
    assert_ne!(wrong.chaining_value_blake3, sender.listed(&app).await[4].chaining_value_blake3);
    let problem = sender.try_complete(&app).await.problem(422, "digest_differs");
    assert!(problem.detail.contains(&digest(&sender.bytes)), "{problem:?}");
    sender.send(&app, 4).await;
    let completed = sender.complete(&app).await;
    sender.assert_stored(&app, &completed).await;
}

#[sqlx::test]
async fn parts_are_listed_in_pages(pool: PgPool) {
    let app = TestApp::new(pool);
    let sender = begun(&app).await;
    for number in [9, 2, 4] {
        sender.send(&app, number).await;
    }
    let page: Page<UploadPart> = app.get(&sender.path("/parts?page_size=2")).await.json(200);
    assert_eq!(
        page.items.iter().map(|part| (part.number, part.size_bytes)).collect::<Vec<_>>(),
        [(2, 1024), (4, 1024)]
    );
    let token = page.next_page_token.unwrap();
    let page: Page<UploadPart> = app.get(&sender.path(&format!("/parts?page_token={token}"))).await.json(200);
    assert_eq!(page.items.iter().map(|part| part.number).collect::<Vec<_>>(), [9]);
    assert_eq!(page.next_page_token, None);
    let uploads: Page<Upload> = app.get("/v1/uploads?run=run").await.json(200);
    assert_eq!(uploads.items.iter().map(|upload| upload.received_parts).collect::<Vec<_>>(), [3]);
    app.get("/v1/uploads?run=nobody").await.problem(404, "run_not_found");
}

#[sqlx::test]
async fn missing_parts_are_named(pool: PgPool) {
    let app = TestApp::new(pool);
    let sender = begun(&app).await;
    for number in [1, 2, 6, 11] {
        sender.send(&app, number).await;
    }
    let problem = sender.try_complete(&app).await.problem(409, "parts_missing");
    assert!(problem.detail.contains("3 to 5, 7 to 10"), "{problem:?}");
    sender.send_missing(&app).await;
    sender.complete(&app).await;
}

#[sqlx::test]
async fn a_part_of_the_wrong_length_or_digest_is_refused_and_missing(pool: PgPool) {
    let app = TestApp::new(pool);
    let sender = begun(&app).await;
    for length in [0, 1023, 1025] {
        let problem = app.put(&sender.path("/parts/2"), vec![1; length]).await.problem(422, "part_length");
        assert!(problem.detail.contains("1024"), "{problem:?}");
        // A body that announces no length.
        let chunked = Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>(vec![1; length])]));
        app.put(&sender.path("/parts/2"), chunked).await.problem(422, "part_length");
    }
    let announced = tree::to_hex(&[7; 32]);
    let path = sender.path(&format!("/parts/2?chaining_value_blake3={announced}"));
    app.put(&path, sender.part(2)).await.problem(422, "digest_differs");
    app.put(&sender.path("/parts/2?chaining_value_blake3=xyz"), sender.part(2)).await.problem(422, "invalid_field");
    for number in ["0", "12", "-1", "x"] {
        let problem = app.put(&sender.path(&format!("/parts/{number}")), sender.part(2)).await;
        assert!(problem.problem(422, "invalid_field").detail.contains("1 to 11"));
    }
    assert!(sender.listed(&app).await.is_empty());
    let announced = sender.send(&app, 2).await.chaining_value_blake3.unwrap();
    let path = sender.path(&format!("/parts/2?chaining_value_blake3={announced}"));
    app.put(&path, sender.part(2)).await.json::<UploadPart>(200);
}

#[sqlx::test]
async fn what_makes_no_sense_is_refused_by_its_field_and_leaves_nothing(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let good = checkpoint_upload("run", 1, &file(), 1024);
    let with = |path: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(path).unwrap() = value;
        body
    };
    for (path, value, field) in [
        ("/size_bytes", json!(0), "size_bytes"),
        ("/part_size_bytes", json!(1000), "part_size_bytes"),
        ("/part_size_bytes", json!(512), "part_size_bytes"),
        ("/part_size_bytes", json!(1_u64 << 31), "part_size_bytes"),
        ("/size_bytes", json!(20 << 20), "part_size_bytes"),
        ("/digest_blake3", json!("ABC"), "digest_blake3"),
        ("/target/step", json!(-1), "target.step"),
    ] {
        let problem = app.post("/v1/uploads", with(path, value)).await.problem(422, "invalid_field");
        assert_eq!(problem.errors[0].field, field);
    }
    app.post("/v1/uploads", with("/size_bytes", json!(1_u64 << 40))).await.problem(413, "too_large");
    app.post("/v1/uploads", with("/target/run", json!("nobody"))).await.problem(404, "run_not_found");
    let mut unknown = good.clone();
    unknown["speed"] = json!(1);
    app.post("/v1/uploads", unknown).await.problem(422, "invalid_field");
    let mut metrics = good.clone();
    metrics["target"]["metrics"] = json!({ "a b": 1 });
    app.post("/v1/uploads", metrics).await.problem(422, "invalid_field");
    assert_eq!((app.count("multipart_uploads").await, app.count("uploads").await), (0, 0));
    let nobody = "/v1/uploads/0190f3a8-0000-7000-8000-000000000001";
    app.get(nobody).await.problem(404, "upload_not_found");
    app.put(&format!("{nobody}/parts/1"), vec![1]).await.problem(404, "upload_not_found");
    app.get("/v1/uploads/x").await.problem(400, "invalid_id");
}

#[sqlx::test]
async fn equal_bytes_are_stored_once(pool: PgPool) {
    let app = TestApp::new(pool);
    let sender = begun(&app).await;
    sender.send_all(&app).await;
    sender.complete(&app).await;
    let second = Sender::begin(&app, "run", 2, file(), 1024).await;
    second.send_all(&app).await;
    let completed = second.complete(&app).await;
    second.assert_stored(&app, &completed).await;
    assert_eq!((app.count("checkpoints").await, app.count("blobs").await), (2, 1));
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn an_upload_whose_step_was_taken_meanwhile_is_refused_and_gone(pool: PgPool) {
    let app = TestApp::new(pool);
    let sender = begun(&app).await;
    sender.send_all(&app).await;
    let mut other = file();
    let end = other.len();
    other[end - 4..].copy_from_slice(&1.0_f32.to_le_bytes());
    app.push("run", 1, "", other).await;
    sender.try_complete(&app).await.problem(409, "step_taken");
    app.get(&sender.path("")).await.problem(404, "upload_not_found");
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn an_aborted_upload_leaves_nothing(pool: PgPool) {
    let app = TestApp::new(pool);
    let sender = begun(&app).await;
    sender.send(&app, 1).await;
    assert_eq!(sender.abort(&app).await.status, 204);
    app.get(&sender.path("")).await.problem(404, "upload_not_found");
    sender.try_send(&app, 2).await.problem(404, "upload_not_found");
    sender.abort(&app).await.problem(404, "upload_not_found");
    app.assert_nothing_stored().await;
    assert_eq!(app.count("multipart_uploads").await, 0);
    // The same file again is a new upload.
    let again = Sender::begin(&app, "run", 1, file(), 1024).await;
    assert_ne!(again.upload.upload_id, sender.upload.upload_id);
    again.send_all(&app).await;
    again.complete(&app).await;
    again.abort(&app).await.problem(409, "upload_sealed");
    again.try_send(&app, 1).await.problem(409, "upload_sealed");
}

#[sqlx::test]
async fn a_silent_upload_is_removed_after_its_time_and_a_live_one_is_not(pool: PgPool) {
    let app = TestApp::new(pool);
    let sender = begun(&app).await;
    sender.send(&app, 1).await;
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    assert_eq!(app.reap_after(hours(71)).await, 0);
    sender.send(&app, 2).await;
    assert_eq!(app.reap_after(hours(71)).await, 0, "a part is a sign of life");
    assert_eq!(app.reap_after(hours(2)).await, 1);
    sender.try_complete(&app).await.problem(404, "upload_not_found");
    app.assert_nothing_stored().await;
    assert_eq!((app.count("multipart_uploads").await, app.count("upload_parts").await), (0, 0));
}

#[sqlx::test]
async fn what_an_upload_became_is_forgotten_after_a_week(pool: PgPool) {
    let app = TestApp::new(pool);
    let sender = begun(&app).await;
    sender.send_all(&app).await;
    sender.complete(&app).await;
    app.reap_after(Duration::from_hours(6 * 24)).await;
    sender.complete(&app).await;
    app.reap_after(Duration::from_hours(2 * 24)).await;
    sender.try_complete(&app).await.problem(404, "upload_not_found");
    assert_eq!(app.count("checkpoints").await, 1);
}

#[sqlx::test]
async fn a_part_that_is_being_sent_is_busy_and_its_end_frees_it(pool: PgPool) {
    let app = TestApp::new(pool);
    let sender = begun(&app).await;
    let half = sender.part(3)[..500].to_vec();
    let (reached, taken) = tokio::sync::oneshot::channel();
    let stalled = futures::stream::once(async move {
        reached.send(()).unwrap();
        Ok::<_, std::io::Error>(half)
    });
    let stalled = Body::from_stream(futures::StreamExt::chain(stalled, futures::stream::pending()));
    let request = Request::put(sender.path("/parts/3")).body(stalled).unwrap();
    let busy = tokio::select! {
        _ = app.send(request) => panic!("the body never ends"),
        busy = async {
            taken.await.unwrap();
            sender.try_send(&app, 3).await
        } => busy,
    };
    busy.problem(409, "part_busy");
    assert!(!busy.header("retry-after").is_empty());
    // The first request is gone with its connection.
    sender.send(&app, 3).await;
}
