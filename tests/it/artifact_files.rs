//! Artifacts as folders: the model, and what its last candidate has beside its weights.

use axum::{body::Body, http::Request};
use barycenter::app::gc;
use barycenter_api::{CandidateSet, CheckpointFile, FileKind, Job};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    checkpoint_files::{INDEX, SHARDS, push, sharded},
    harness::files::digest,
    scene::{self, Scene},
};

/// A scene whose set ends with a checkpoint of several files, and a job of it that succeeded.
async fn averaged(pool: PgPool) -> (Scene, Job) {
    let mut scene = Scene::new(pool).await;
    push(&scene.app, "demo", 40, &sharded(1.0, r#"{"of": 40}"#)).await;
    push(&scene.app, "demo", 50, &sharded(2.0, r#"{"of": 50}"#)).await;
    let rule = json!({"rule": {"kind": "explicit", "checkpoints": ["10", "40", "50"]}});
    scene.set = scene.app.post("/v1/runs/demo/candidate_sets", rule).await.json::<CandidateSet>(201);
    scene.submit().await;
    let job = scene.succeed(&scene.claim().await).await;
    (scene, job)
}

fn path(job: &Job) -> String {
    format!("/v1/artifacts/{}", job.artifact_id.unwrap())
}

#[sqlx::test]
async fn an_artifact_has_the_files_beside_the_weights_of_its_last_candidate(pool: PgPool) {
    let (scene, job) = averaged(pool).await;
    let files: Vec<CheckpointFile> = scene.app.get(&format!("{}/files", path(&job))).await.json(200);
    let told: Vec<_> = files.iter().map(|file| (file.name.as_str(), file.kind)).collect();
    assert_eq!(told, [("config.json", FileKind::Other), ("model.safetensors", FileKind::Weights)]);
    for (file, bytes) in files.iter().zip([br#"{"of": 50}"#.to_vec(), scene::checkpoint(21.0)]) {
        let path = format!("{}/files/{}", path(&job), file.name);
        let read = scene.app.get(&path).await;
        assert_eq!((read.body.as_ref(), file.size_bytes), (bytes.as_slice(), bytes.len() as u64));
        assert_eq!(
            (file.digest_blake3.clone(), read.header("etag")),
            (digest(&bytes), format!("\"{}\"", digest(&bytes)).as_str())
        );
        let range = Request::get(&path).header("range", "bytes=2-5").body(Body::empty()).unwrap();
        assert_eq!(scene.app.send(range).await.body, bytes[2..=5]);
    }
    // Weights and index of the candidate are no files of the artifact.
    for name in [SHARDS[0], INDEX, "tokenizer.json"] {
        let problem = scene.app.get(&format!("{}/files/{name}", path(&job))).await.problem(404, "file_not_found");
        assert!(problem.detail.contains(name), "{problem:?}");
    }
    let absent = "/v1/artifacts/0190f3a8-0000-7000-8000-000000000001/files";
    scene.app.get(absent).await.problem(404, "artifact_not_found");
    scene.app.get(&format!("{absent}/config.json")).await.problem(404, "artifact_not_found");
}

#[sqlx::test]
async fn an_artifact_of_single_files_is_a_file(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let job = scene.succeed(&scene.claim().await).await;
    let files: Vec<CheckpointFile> = scene.app.get(&format!("{}/files", path(&job))).await.json(200);
    assert_eq!(files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["model.safetensors"]);
    scene.app.get(&format!("{}/files/config.json", path(&job))).await.problem(404, "file_not_found");
}

#[sqlx::test]
async fn the_files_of_an_artifact_stay_as_long_as_it_does(pool: PgPool) {
    let (scene, job) = averaged(pool).await;
    let app = &scene.app;
    let checkpoint = scene.set.members[2].checkpoint_id;
    let rules = json!({"last": 1, "best": [{"count": 1, "metric": "loss", "direction": "min"}]});
    app.put_json("/v1/runs/demo/retention", rules).await.json::<Value>(200);
    let delete = [
        (format!("/v1/checkpoints/{checkpoint}"), "in_use"),
        (format!("/v1/candidate_sets/{}", scene.set.candidate_set_id), "in_use"),
        (format!("/v1/jobs/{}", job.job_id), "in_use"),
    ];
    for (path, code) in &delete {
        app.delete(path).await.problem(409, code);
    }
    app.clock.advance(std::time::Duration::from_hours(200));
    gc::collect(&app.state).await.unwrap();
    let config = format!("{}/files/config.json", path(&job));
    assert_eq!(app.get(&config).await.text(), r#"{"of": 50}"#);
    // Once the artifact is gone, the rest may go, and the configuration goes with its checkpoint.
    app.delete(&path(&job)).await.json::<Value>(200);
    app.get(&config).await.problem(404, "artifact_not_found");
    for (path, _) in delete.iter().rev() {
        app.delete(path).await.json::<Value>(200);
    }
    app.clock.advance(std::time::Duration::from_hours(200));
    gc::collect(&app.state).await.unwrap();
    let held: Vec<String> =
        sqlx::query_scalar("select digest_blake3 from blobs").fetch_all(&app.state.pool).await.unwrap();
    assert!(!held.contains(&digest(br#"{"of": 50}"#)));
    app.assert_no_orphans().await;
}
