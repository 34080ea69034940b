//! Artifacts whose bytes are dropped and made again.

use std::time::Duration;

use barycenter::app::gc;
use barycenter_api::{Artifact, Deleted, DroppedArtifact, Job, Manifest, Page};
use barycenter_core::checkpoint::CheckpointFile;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    harness::{TestApp, files::digest},
    scene::{Scene, checkpoint, finish_body, floats, safetensors},
};

/// An artifact with a running mean that no merge makes.
fn model() -> Vec<u8> {
    safetensors(&[
        ("0.weight", "F32", &[3, 2], floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ("1.running_mean", "F32", &[3], floats(&[0.25, 0.5, 0.75])),
        ("0.bias", "F32", &[3], floats(&[7.0; 3])),
    ])
}

fn plan(kept: &[&str]) -> Value {
    json!({
        "rules": "merge_1",
        "averaged": [{ "tensor": "0.weight", "block": 0 }, { "tensor": "0.bias", "block": 1 }],
        "kept": kept,
    })
}

/// Ends a job with this artifact, and with what its worker tells of the merge.
async fn publish(scene: &Scene, spec: Value, model: Vec<u8>, plan: Option<Value>) -> Artifact {
    scene.app.post("/v1/jobs", spec).await.json::<Job>(202);
    let lease = scene.claim().await;
    let stored = scene.upload(&lease, model).await;
    let mut finish = finish_body(&stored.digest_blake3);
    if let Some(plan) = plan {
        finish["merge"] = plan;
    }
    let job: Job = scene.finish(&lease, finish).await.json(200);
    scene.app.get(&format!("/v1/artifacts/{}", job.artifact_id.unwrap())).await.json(200)
}

async fn published(scene: &Scene) -> (Artifact, String) {
    let artifact = publish(scene, scene.spec(), model(), Some(plan(&["1.running_mean"]))).await;
    let path = format!("/v1/artifacts/{}", artifact.artifact_id);
    (artifact, path)
}

async fn post(app: &TestApp, path: &str) -> crate::harness::TestResponse {
    app.post(path, json!({})).await
}

async fn bytes_in_store(app: &TestApp) -> u64 {
    app.assert_no_orphans().await;
    let sizes: Vec<i64> = sqlx::query_scalar("select size_bytes from blobs").fetch_all(&app.state.pool).await.unwrap();
    sizes.iter().map(|size| size.unsigned_abs()).sum()
}

#[sqlx::test]
async fn a_dropped_artifact_frees_its_bytes_and_takes_back_none_but_the_same(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (artifact, path) = published(&scene).await;
    let before = bytes_in_store(&scene.app).await;
    scene.app.get(&format!("{path}/kept")).await.problem(404, "nothing_kept");
    let dropped: DroppedArtifact = post(&scene.app, &format!("{path}/drop")).await.json(200);
    assert_eq!(dropped.freed_bytes, artifact.size_bytes);
    assert_eq!(before - bytes_in_store(&scene.app).await, dropped.freed_bytes - dropped.kept_bytes);

    let problem = scene.app.get(&format!("{path}/content")).await.problem(410, "artifact_dropped");
    assert!(problem.detail.contains(&format!("artifact rebuild {}", artifact.artifact_id)), "{problem:?}");
    let now: Artifact = scene.app.get(&path).await.json(200);
    assert_eq!((now.dropped_at, &now.digest_blake3), (Some(dropped.dropped_at), &artifact.digest_blake3));
    let kept = scene.app.get(&format!("{path}/kept")).await;
    assert_eq!(digest(&kept.body), now.kept.unwrap().digest_blake3);
    let file = CheckpointFile::from_bytes(kept.body.to_vec()).unwrap();
    assert_eq!(file.layout().tensors.len(), 1);
    assert_eq!(file.read_f32("1.running_mean").unwrap(), [0.25, 0.5, 0.75]);
    let again: DroppedArtifact = post(&scene.app, &format!("{path}/drop")).await.json(200);
    assert_eq!((again.dropped_at, again.freed_bytes), (dropped.dropped_at, 0));
    let manifest: Manifest = scene.app.get(&format!("{path}/manifest")).await.json(200);
    assert_eq!(serde_json::to_value(manifest.merge).unwrap(), plan(&["1.running_mean"]));

    let mut other = model();
    *other.last_mut().unwrap() ^= 1;
    let problem = scene.app.put(&format!("{path}/content"), other).await.problem(422, "digest_differs");
    assert!(problem.detail.contains(&artifact.digest_blake3), "{problem:?}");
    scene.app.put(&format!("{path}/content"), checkpoint(1.0)).await.problem(422, "digest_differs");
    scene.app.get(&format!("{path}/content")).await.problem(410, "artifact_dropped");
    // Sent again, as after a reply that was lost.
    for _ in 0..2 {
        let back: Artifact = scene.app.put(&format!("{path}/content"), model()).await.json(200);
        assert_eq!((back.dropped_at, back.kept), (None, None));
    }
    assert_eq!(scene.app.get(&format!("{path}/content")).await.body, model());
    gc::collect(&scene.app.state).await.unwrap();
    assert_eq!(bytes_in_store(&scene.app).await, before);
}

#[sqlx::test]
async fn bytes_that_something_else_has_too_are_not_freed(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (_, path) = published(&scene).await;
    let (_, twin) = published(&scene).await;
    let dropped: DroppedArtifact = post(&scene.app, &format!("{path}/drop")).await.json(200);
    assert_eq!(dropped.freed_bytes, 0);
    assert_eq!(scene.app.get(&format!("{twin}/content")).await.body, model());
    // Both kept the same tensors: one file, which stays until the second has its bytes again.
    let second: DroppedArtifact = post(&scene.app, &format!("{twin}/drop")).await.json(200);
    assert_eq!(second.freed_bytes, model().len() as u64);
    scene.app.put(&format!("{path}/content"), model()).await.json::<Artifact>(200);
    assert_eq!(scene.app.get(&format!("{twin}/kept")).await.status, 200);
    scene.app.put(&format!("{twin}/content"), model()).await.json::<Artifact>(200);
    gc::collect(&scene.app.state).await.unwrap();
    scene.app.assert_no_orphans().await;
}

#[sqlx::test]
async fn what_no_merge_makes_again_is_not_dropped(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let refusal = async |spec: Value, plan: Option<Value>| {
        let artifact = publish(&scene, spec, model(), plan).await;
        let path = format!("/v1/artifacts/{}", artifact.artifact_id);
        let problem = post(&scene.app, &format!("{path}/drop")).await.problem(409, "not_rebuildable");
        assert_eq!(scene.app.get(&format!("{path}/content")).await.body, model());
        problem.detail
    };
    let untold = refusal(scene.spec(), None).await;
    assert!(untold.ends_with("its worker (version 0.1.0) did not tell how a merge makes it again"), "{untold}");
    let mut as_fitted = scene.spec();
    as_fitted["materialise"] = json!("as_fitted");
    assert!(refusal(as_fitted, None).await.contains("`materialise: as_fitted`"));
    let unknown = refusal(scene.spec(), Some(plan(&["2.running_mean"]))).await;
    assert!(unknown.contains("the tensor `2.running_mean`, which it does not have"), "{unknown}");
    scene.app.assert_no_orphans().await;
}

#[sqlx::test]
async fn an_artifact_whose_candidate_has_lost_its_bytes_keeps_its_own(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (_, path) = published(&scene).await;
    let key: String = sqlx::query_scalar("select object_key from blobs where digest_blake3 = $1")
        .bind(&scene.set.members[1].digest_blake3)
        .fetch_one(&scene.app.state.pool)
        .await
        .unwrap();
    scene.app.state.store.delete(&barycenter::storage::ObjectKey::from_stored(&key)).await.unwrap();
    let problem = post(&scene.app, &format!("{path}/drop")).await.problem(409, "not_rebuildable");
    let called = format!("the bytes of the candidate {} at step 20 are gone", scene.set.members[1].checkpoint_id);
    assert!(problem.detail.ends_with(&called), "{problem:?}");
    let later = json!({ "drops_at": "2026-02-01T00:00:00Z" });
    scene.app.patch(&path, later).await.problem(409, "not_rebuildable");
}

#[sqlx::test]
async fn what_a_dropped_artifact_is_made_from_outlives_retention_and_collection(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (artifact, path) = published(&scene).await;
    post(&scene.app, &format!("{path}/drop")).await.json::<DroppedArtifact>(200);
    let app = &scene.app;
    app.push("demo", 90, "", checkpoint(90.0)).await;
    app.put_json("/v1/runs/demo/retention", json!({ "last": 1 })).await.json::<Value>(200);
    for things in [
        format!("/v1/jobs/{}", artifact.job_id),
        format!("/v1/candidate_sets/{}", scene.set.candidate_set_id),
        format!("/v1/checkpoints/{}", scene.set.members[0].checkpoint_id),
    ] {
        app.delete(&things).await.problem(409, "in_use");
    }
    for _ in 0..2 {
        gc::collect(&app.state).await.unwrap();
        app.clock.advance(Duration::from_hours(2));
    }
    let manifest: Manifest = app.get(&format!("{path}/manifest")).await.json(200);
    for candidate in manifest.candidates {
        let content = app.get(&format!("/v1/checkpoints/{}/content", candidate.checkpoint_id)).await;
        assert_eq!(digest(&content.body), candidate.digest_blake3);
    }

    // Deleted and within the grace, it can come back, so it is still protected; collected, it lets go.
    app.delete(&path).await.json::<Deleted>(200);
    app.put(&format!("{path}/content"), model()).await.problem(404, "artifact_not_found");
    gc::collect(&app.state).await.unwrap();
    let back: Artifact = post(app, &format!("{path}/undelete")).await.json(200);
    assert!(back.dropped_at.is_some());
    assert_eq!(app.get(&format!("{path}/kept")).await.status, 200);
    app.delete(&path).await.json::<Deleted>(200);
    app.clock.advance(Duration::from_hours(2));
    let collected = gc::collect(&app.state).await.unwrap();
    assert_eq!((collected.artifacts, collected.objects), (1, 1), "what was kept goes with the artifact");
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn an_artifact_drops_its_bytes_when_its_time_comes_unless_an_alias_names_it(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (artifact, path) = published(&scene).await;
    let (app, at) = (&scene.app, "2026-01-02T04:00:00Z");
    app.patch(&path, json!({ "drops_at": "2026-01-02T03:00:00Z" })).await.problem(422, "invalid_field");
    app.patch(&path, json!({ "drops_at": at })).await.json::<Artifact>(200);
    let kept: Artifact = app.patch(&path, json!({ "expires_at": null })).await.json(200);
    assert_eq!(kept.drops_at, Some(at.parse().unwrap()), "what is absent stays");
    app.put_json("/v1/runs/demo/aliases/prod", json!({ "artifact_id": artifact.artifact_id })).await.json::<Value>(200);
    let problem = post(app, &format!("{path}/drop")).await.problem(409, "in_use");
    assert!(problem.detail.ends_with("the alias `prod`"), "{problem:?}");
    app.clock.advance(Duration::from_hours(2));
    gc::collect(&app.state).await.unwrap();
    assert_eq!(app.get(&format!("{path}/content")).await.body, model());
    assert_eq!(app.delete("/v1/runs/demo/aliases/prod").await.status, 204);
    gc::collect(&app.state).await.unwrap();
    app.get(&format!("{path}/content")).await.problem(410, "artifact_dropped");
    let dropped: Artifact = app.get(&path).await.json(200);
    assert_eq!(dropped.drops_at, None);
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn deleted_artifacts_are_listed_while_they_can_come_back(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (first, path) = published(&scene).await;
    let (second, _) = published(&scene).await;
    let ids = async |query: &str| -> Vec<_> {
        let page: Page<Artifact> = scene.app.get(&format!("/v1/artifacts{query}")).await.json(200);
        page.items.into_iter().map(|artifact| (artifact.artifact_id, artifact.deleted_at.is_some())).collect()
    };
    assert_eq!(ids("").await, [(second.artifact_id, false), (first.artifact_id, false)]);
    scene.app.delete(&path).await.json::<Deleted>(200);
    assert_eq!(ids("?run=demo").await, [(second.artifact_id, false)]);
    assert_eq!(ids("?run=demo&deleted=true").await, [(first.artifact_id, true)]);
    scene.app.clock.advance(Duration::from_hours(2));
    gc::collect(&scene.app.state).await.unwrap();
    assert_eq!(ids("?deleted=true").await, []);
    scene.app.get("/v1/artifacts?run=absent").await.problem(404, "run_not_found");
}

#[sqlx::test]
async fn an_artifact_of_a_candidate_that_others_may_delete_keeps_its_bytes(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (_, path) = published(&scene).await;
    sqlx::query("update blobs set object_key = 's3://theirs/' || object_key where digest_blake3 = $1")
        .bind(&scene.set.members[0].digest_blake3)
        .execute(&scene.app.state.pool)
        .await
        .unwrap();
    let problem = post(&scene.app, &format!("{path}/drop")).await.problem(409, "not_rebuildable");
    assert!(problem.detail.ends_with("was registered in place, where others may delete it"), "{problem:?}");
}
