//! What is in files that come in parts: bad headers, numbers that are none, wherever the parts are cut.

use barycenter_api::{Dataset, UploadPart};
use serde_json::json;
use sqlx::PgPool;

use crate::harness::{
    TestApp,
    files::{checkpoint, dataset, digest, f32s, large_checkpoint, raw, safetensors},
    uploads::Sender,
};

/// A checkpoint of ten and a half parts of 1 KiB.
fn file() -> Vec<u8> {
    large_checkpoint(10_600)
}

#[sqlx::test]
async fn a_bad_header_is_refused_with_the_first_part(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let mut bytes = file();
    bytes[9] = b'!';
    let sender = Sender::begin(&app, "run", 1, bytes, 1024).await;
    sender.try_send(&app, 1).await.problem(422, "invalid_file");
    let mut longer = file();
    longer.extend([0; 1000]);
    let sender = Sender::begin(&app, "run", 2, longer, 1024).await;
    let problem = sender.try_send(&app, 1).await.problem(422, "invalid_file");
    assert!(problem.detail.contains("1000 bytes after its last tensor"), "{problem:?}");

    app.push("run", 3, "", checkpoint(1)).await;
    let sender = Sender::begin(&app, "run", 4, file(), 1024).await;
    sender.try_send(&app, 1).await.problem(422, "layout_differs");
    assert!(sender.listed(&app).await.is_empty());
}

/// A checkpoint whose f32 of this index is NaN; the data begins `shift` bytes after a multiple of four.
fn poisoned(index: usize, shift: usize) -> Vec<u8> {
    let mut values: Vec<f32> = (0..2500).map(|i| i as f32).collect();
    values[index] = f32::NAN;
    let mut tensors = vec![f32s("weight", &[2500], values)];
    if shift > 0 {
        tensors.insert(0, raw("flags", "U8", &[shift], vec![255; shift]));
    }
    safetensors(&tensors)
}

#[sqlx::test]
async fn a_part_with_a_nan_is_refused_as_it_passes(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let sender = Sender::begin(&app, "run", 1, poisoned(1200, 0), 1024).await;
    sender.send(&app, 1).await;
    let nan = (8 + sender.bytes.iter().position(|b| *b == b'}').unwrap() + 4800) as u64 / 1024 + 1;
    let refused = [nan - 1, nan, nan + 1].map(|number| sender.try_send(&app, number));
    let refused = futures::future::join_all(refused).await;
    let codes: Vec<u16> = refused.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(codes.iter().filter(|status| **status == 422).count(), 1, "{codes:?}");
    let problem = refused.iter().find(|answer| answer.status == 422).unwrap().problem(422, "not_finite");
    assert_eq!(problem.errors[0].field, "weight");
}

#[sqlx::test]
async fn a_nan_that_came_before_the_header_or_across_two_parts_is_found_at_the_end(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    for (step, shift) in [(1, 0), (2, 1), (3, 2), (4, 3)] {
        let sound = poisoned(0, shift);
        let data = sound.len() - 10_000;
        // The element that holds the first byte of part 5, or ends there.
        let index = (4096 - data) / 4 - usize::from((4096 - data).is_multiple_of(4));
        let sender = Sender::begin(&app, "run", step, poisoned(index, shift), 1024).await;
        for number in (1..=sender.upload.part_count).rev() {
            sender.send(&app, number).await;
        }
        let problem = sender.try_complete(&app).await.problem(422, "not_finite");
        assert_eq!(problem.errors[0].field, "weight");
        app.get(&sender.path("")).await.problem(404, "upload_not_found");
    }
    app.assert_nothing_stored().await;
}

#[sqlx::test]
async fn a_nan_across_two_parts_is_found_where_both_were_looked_at(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let mut cut = 0;
    for (step, shift) in [(1, 0), (2, 1), (3, 2), (4, 3)] {
        let data = poisoned(0, shift).len() - 10_000;
        let before = (4096 - data) % 4;
        let sender = Sender::begin(&app, "run", step, poisoned((4096 - data) / 4, shift), 1024).await;
        if before == 0 {
            continue;
        }
        cut += 1;
        sender.send_all(&app).await;
        sender.try_complete(&app).await.problem(422, "not_finite");
    }
    assert_eq!(cut, 3, "one of four shifts puts no element across the boundary");
}

#[sqlx::test]
async fn a_header_longer_than_a_part_is_read_at_the_end(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let names: Vec<String> = (0..40).map(|i| format!("layer.{i:02}.weight.with.a.long.name")).collect();
    let tensors: Vec<_> = names.iter().map(|name| f32s(name, &[8], [1.0; 8])).collect();
    let sender = Sender::begin(&app, "run", 1, safetensors(&tensors), 1024).await;
    sender.send_all(&app).await;
    let completed = sender.complete(&app).await;
    sender.assert_stored(&app, &completed).await;
    let mut bytes = sender.bytes.clone();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let sender = Sender::begin(&app, "run", 2, bytes, 1024).await;
    sender.send_all(&app).await;
    sender.try_complete(&app).await.problem(422, "not_finite");
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_new_first_part_with_another_header_makes_the_others_be_looked_at_again(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    // As integers the numbers are no numbers to look at; as floats the last of them is NaN.
    let mut data: Vec<u8> = (0..2500_u32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    data[9996..].copy_from_slice(&f32::NAN.to_le_bytes());
    let floats = safetensors(&[raw("w", "F32", &[2500], data.clone())]);
    let integers = safetensors(&[raw("w", "I32", &[2500], data)]);
    let sender = Sender::begin(&app, "run", 1, floats, 1024).await;
    app.put(&sender.path("/parts/1"), integers[..1024].to_vec()).await.json::<UploadPart>(200);
    for number in 2..=sender.upload.part_count {
        sender.send(&app, number).await;
    }
    sender.send(&app, 1).await;
    sender.try_complete(&app).await.problem(422, "not_finite");
    app.assert_nothing_stored().await;
}

#[sqlx::test]
async fn a_dataset_comes_in_parts_too(pool: PgPool) {
    let app = TestApp::new(pool);
    let bytes = dataset(100);
    let target = json!({ "kind": "dataset", "name": "validation", "mean": "0.1" });
    let body = json!({
        "target": target, "size_bytes": bytes.len(), "digest_blake3": digest(&bytes), "part_size_bytes": 1024,
    });
    let sender = Sender { upload: app.post("/v1/uploads", body.clone()).await.json(201), bytes };
    sender.send_all(&app).await;
    let completed = sender.complete(&app).await;
    let stored: Dataset = app.get("/v1/datasets/validation").await.json(200);
    assert_eq!((completed.dataset_id, completed.checkpoint_id), (Some(stored.dataset_id), None));
    assert_eq!((stored.sample_count, stored.normalisation.mean), (100, vec![0.1]));
    assert_eq!(app.get("/v1/datasets/validation/content").await.body, sender.bytes);
    // Again, and with another normalisation.
    let again = Sender { upload: app.post("/v1/uploads", body.clone()).await.json(201), bytes: sender.bytes.clone() };
    again.send_all(&app).await;
    assert_eq!(again.complete(&app).await.dataset_id, completed.dataset_id);
    let mut other = body;
    other["target"]["mean"] = json!("0.2");
    let other = Sender { upload: app.post("/v1/uploads", other).await.json(201), bytes: sender.bytes };
    other.send_all(&app).await;
    other.try_complete(&app).await.problem(409, "dataset_differs");
    app.assert_no_orphans().await;
}
