//! Deletion, undoing it, and the collection of what was deleted.

use std::time::Duration;

use barycenter::app::gc;
use barycenter_api::{Alias, Artifact, CandidateSet, Checkpoint, Deleted, Job, Page, Run};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    harness::{TestApp, files::checkpoint},
    scene::{Scene, snapshots},
};

/// Longer than the grace of the tests.
const GRACE: Duration = Duration::from_secs(3601);

async fn run_of_three(pool: PgPool) -> (TestApp, Vec<Checkpoint>) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    let mut pushed = Vec::new();
    for step in [10, 20, 30] {
        pushed.push(app.push("r", step, "?metrics=loss:0.5", checkpoint(step as u32)).await);
    }
    (app, pushed)
}

fn path(checkpoint: &Checkpoint) -> String {
    format!("/v1/checkpoints/{}", checkpoint.checkpoint_id)
}

async fn bytes_in_store(app: &TestApp) -> u64 {
    let sizes: Vec<i64> = sqlx::query_scalar("select size_bytes from blobs").fetch_all(&app.state.pool).await.unwrap();
    app.assert_no_orphans().await;
    sizes.iter().map(|size| size.unsigned_abs()).sum()
}

#[sqlx::test]
async fn a_deleted_checkpoint_is_hidden_everywhere_and_comes_back_as_it_was(pool: PgPool) {
    let (app, pushed) = run_of_three(pool).await;
    let deleted: Deleted = app.delete(&path(&pushed[2])).await.json(200);
    assert_eq!(deleted.kept_until - deleted.deleted_at, chrono::TimeDelta::hours(1));
    app.get(&path(&pushed[2])).await.problem(404, "checkpoint_not_found");
    app.get(&format!("{}/content", path(&pushed[2]))).await.problem(404, "checkpoint_not_found");
    app.get("/v1/runs/r/checkpoints/30").await.problem(404, "checkpoint_not_found");
    app.patch(&path(&pushed[2]), json!({})).await.problem(404, "checkpoint_not_found");
    app.delete(&path(&pushed[2])).await.problem(404, "checkpoint_not_found");
    assert_eq!(app.get("/v1/runs/r/checkpoints/latest").await.json::<Checkpoint>(200).step, 20);
    for query in ["", "?sort=step", "?sort=loss"] {
        let page: Page<Checkpoint> = app.get(&format!("/v1/runs/r/checkpoints{query}")).await.json(200);
        assert_eq!(page.items.len(), 2, "{query}");
    }
    assert_eq!(app.get("/v1/runs/r").await.json::<Run>(200).checkpoint_count, 2);
    let back: Checkpoint = app.post(&format!("{}/undelete", path(&pushed[2])), json!({})).await.json(200);
    assert_eq!(json!(back), json!(pushed[2]));
    app.post(&format!("{}/undelete", path(&pushed[2])), json!({})).await.json::<Checkpoint>(200);
    assert_eq!(app.get("/v1/runs/r").await.json::<Run>(200).checkpoint_count, 3);
}

#[sqlx::test]
async fn a_step_is_free_again_once_its_checkpoint_is_deleted(pool: PgPool) {
    let (app, pushed) = run_of_three(pool).await;
    app.delete(&path(&pushed[0])).await.json::<Deleted>(200);
    let other = app.push("r", 10, "", checkpoint(77)).await;
    app.post(&format!("{}/undelete", path(&pushed[0])), json!({})).await.problem(409, "step_taken");
    app.delete(&path(&other)).await.json::<Deleted>(200);
    app.post(&format!("{}/undelete", path(&pushed[0])), json!({})).await.json::<Checkpoint>(200);
}

#[sqlx::test]
async fn what_is_pinned_or_needed_cannot_be_deleted(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let app = &scene.app;
    let step = |step: i64| format!("/v1/runs/demo/checkpoints/{step}");
    let unneeded = app.push("demo", 40, "", checkpoint(40)).await;
    app.put(&format!("{}/pin", path(&unneeded)), "").await.json::<Checkpoint>(200);
    app.delete(&path(&unneeded)).await.problem(409, "pinned");
    app.delete(&format!("{}/pin", path(&unneeded))).await.json::<Checkpoint>(200);
    app.put_json("/v1/runs/demo/aliases/best", json!({ "checkpoint": "40" })).await.json::<Alias>(200);
    let problem = app.delete(&path(&unneeded)).await.problem(409, "in_use");
    assert!(problem.detail.ends_with("the alias `best`"), "{problem:?}");
    let member: Checkpoint = app.get(&step(10)).await.json(200);
    let problem = app.delete(&path(&member)).await.problem(409, "in_use");
    assert!(problem.detail.contains(&format!("candidate set {}", scene.set.candidate_set_id)), "{problem:?}");

    let job = scene.submit().await;
    let (set_path, job_path) =
        (format!("/v1/candidate_sets/{}", scene.set.candidate_set_id), format!("/v1/jobs/{}", job.job_id));
    app.delete(&set_path).await.problem(409, "in_use");
    let problem = app.delete(&job_path).await.problem(409, "in_use");
    assert!(problem.detail.contains("queued"), "{problem:?}");
    app.delete("/v1/runs/demo").await.problem(409, "in_use");
    let artifact = scene.succeed(&scene.claim().await).await.artifact_id.unwrap();
    app.delete(&job_path).await.problem(409, "in_use");
    let artifact_path = format!("/v1/artifacts/{artifact}");
    app.put_json("/v1/runs/demo/aliases/prod", json!({ "artifact_id": artifact })).await.json::<Alias>(200);
    app.delete(&artifact_path).await.problem(409, "in_use");
    assert_eq!(app.delete("/v1/runs/demo/aliases/prod").await.status, 204);
    // In the order of what needs what, everything can go, and in the other order come back.
    for gone in [&artifact_path, &job_path, &set_path, &path(&member)] {
        app.delete(gone).await.json::<Deleted>(200);
    }
    for (early, code) in [(&artifact_path, "needs_deleted"), (&job_path, "needs_deleted"), (&set_path, "needs_deleted")]
    {
        app.post(&format!("{early}/undelete"), json!({})).await.problem(409, code);
    }
    for back in [&path(&member), &set_path, &job_path, &artifact_path] {
        app.post(&format!("{back}/undelete"), json!({})).await.json::<Value>(200);
    }
    assert_eq!(app.get(&artifact_path).await.json::<Artifact>(200).artifact_id, artifact);
    assert_eq!(app.get(&job_path).await.json::<Job>(200).artifact_id, Some(artifact));
}

#[sqlx::test]
async fn a_deleted_run_takes_everything_with_it_and_brings_that_back(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let app = &scene.app;
    scene.submit().await;
    let artifact = scene.succeed(&scene.claim().await).await.artifact_id.unwrap();
    let early = app.push("demo", 40, "", checkpoint(40)).await;
    app.delete(&path(&early)).await.json::<Deleted>(200);
    app.clock.advance(Duration::from_secs(1));
    let run: Run = app.get("/v1/runs/demo").await.json(200);
    app.delete("/v1/runs/demo").await.json::<Deleted>(200);
    app.get("/v1/runs/demo").await.problem(404, "run_not_found");
    app.get(&format!("/v1/artifacts/{artifact}")).await.problem(404, "artifact_not_found");
    app.get(&format!("/v1/candidate_sets/{}", scene.set.candidate_set_id))
        .await
        .problem(404, "candidate_set_not_found");
    assert!(app.get("/v1/jobs").await.json::<Page<Value>>(200).items.is_empty());
    assert!(app.get("/v1/runs").await.json::<Page<Run>>(200).items.is_empty());
    app.post(&format!("{}/undelete", path(&early)), json!({})).await.problem(409, "needs_deleted");

    let other = app.create_run("demo").await;
    let undelete = format!("/v1/runs/{}/undelete", run.run_id);
    app.post(&undelete, json!({})).await.problem(409, "name_taken");
    app.delete(&format!("/v1/runs/{}", other.run_id)).await.json::<Deleted>(200);
    let back: Run = app.post(&undelete, json!({})).await.json(200);
    assert_eq!(json!(back), json!(run));
    app.get(&format!("/v1/artifacts/{artifact}/manifest")).await.json::<Value>(200);
    app.get(&path(&early)).await.problem(404, "checkpoint_not_found");
}

#[sqlx::test]
async fn collecting_frees_what_it_says_after_the_grace_and_not_before(pool: PgPool) {
    let (app, pushed) = run_of_three(pool).await;
    // The same bytes as step 20, which stays.
    let twin = app.push("r", 21, "", checkpoint(20)).await;
    let before = bytes_in_store(&app).await;
    for gone in [&pushed[0], &twin] {
        app.delete(&path(gone)).await.json::<Deleted>(200);
    }
    assert_eq!(gc::collect(&app.state).await.unwrap().bytes, 0);
    app.clock.advance(GRACE);
    let said = gc::preview(&app.state).await.unwrap();
    assert_eq!(bytes_in_store(&app).await, before, "a preview removes nothing");
    let collected = gc::collect(&app.state).await.unwrap();
    assert_eq!((said, collected.checkpoints), (collected, 2));
    assert_eq!((collected.objects, collected.bytes), (1, pushed[0].size_bytes));
    assert_eq!(bytes_in_store(&app).await, before - collected.bytes);
    assert_eq!(app.get(&format!("{}/content", path(&pushed[1]))).await.body, checkpoint(20));
    app.post(&format!("{}/undelete", path(&pushed[0])), json!({})).await.problem(404, "checkpoint_not_found");
    assert_eq!(gc::collect(&app.state).await.unwrap().bytes, 0);
}

#[sqlx::test]
async fn a_missing_object_does_not_stop_a_collection(pool: PgPool) {
    let (app, pushed) = run_of_three(pool).await;
    let key: String = sqlx::query_scalar("select object_key from blobs where digest_blake3 = $1")
        .bind(&pushed[0].digest_blake3)
        .fetch_one(&app.state.pool)
        .await
        .unwrap();
    app.state.store.delete(&barycenter::storage::ObjectKey::from_stored(&key)).await.unwrap();
    for gone in &pushed[..2] {
        app.delete(&path(gone)).await.json::<Deleted>(200);
    }
    app.clock.advance(GRACE);
    assert_eq!(gc::collect(&app.state).await.unwrap().checkpoints, 2);
    assert_eq!(bytes_in_store(&app).await, pushed[2].size_bytes);
    assert_eq!(app.count("freed_objects").await, 0);
}

#[sqlx::test]
async fn a_collection_that_died_before_the_store_is_taken_up_by_the_next(pool: PgPool) {
    let (app, pushed) = run_of_three(pool).await;
    app.delete(&path(&pushed[0])).await.json::<Deleted>(200);
    app.clock.advance(GRACE);
    let now = barycenter::domain::clock::Clock::now(app.clock.as_ref());
    let mut transaction = app.state.pool.begin().await.unwrap();
    let before = barycenter::db::gc::Before { deleted: now, staged: now };
    let removed = barycenter::db::gc::purge(&mut transaction, before, 10, now).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(app.state.store.list_keys().await.unwrap().len(), 3, "the object is still there");
    let collected = gc::collect(&app.state).await.unwrap();
    assert_eq!((collected.objects, collected.bytes), (removed.objects, removed.bytes));
    assert_eq!(bytes_in_store(&app).await, pushed[1].size_bytes + pushed[2].size_bytes);
}

#[sqlx::test]
async fn a_job_goes_with_its_history_and_a_run_with_all_of_it(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let app = &scene.app;
    let submitted = scene.submit().await;
    let lease = scene.claim().await;
    scene.heartbeat(&lease, snapshots(0..4)).await.json::<Value>(200);
    let job = scene.succeed(&lease).await;
    app.delete(&format!("/v1/artifacts/{}", job.artifact_id.unwrap())).await.json::<Deleted>(200);
    app.delete(&format!("/v1/jobs/{}", submitted.job_id)).await.json::<Deleted>(200);
    app.clock.advance(GRACE);
    let collected = gc::collect(&app.state).await.unwrap();
    assert_eq!((collected.artifacts, collected.jobs, collected.objects), (1, 1, 2), "the model and a chunk of history");
    for table in ["jobs", "attempts", "history_chunks", "history_snapshots", "coefficients", "artifacts"] {
        assert_eq!(app.count(table).await, 0, "{table}");
    }
    bytes_in_store(app).await;
    app.put_json("/v1/runs/demo/aliases/best", json!({ "checkpoint": "10" })).await.json::<Alias>(200);
    app.delete("/v1/runs/demo").await.json::<Deleted>(200);
    app.clock.advance(GRACE);
    let collected = gc::collect(&app.state).await.unwrap();
    assert_eq!((collected.runs, collected.candidate_sets, collected.checkpoints), (1, 1, 3));
    for table in ["runs", "checkpoints", "candidate_sets", "candidate_set_members", "run_aliases", "checkpoint_metrics"]
    {
        assert_eq!(app.count(table).await, 0, "{table}");
    }
    // The dataset is nobody's.
    assert_eq!(app.count("blobs").await, 1);
    bytes_in_store(app).await;
}

#[sqlx::test]
async fn an_artifact_deletes_itself_when_its_time_is_over_unless_an_alias_names_it(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let app = &scene.app;
    scene.submit().await;
    let artifact = scene.succeed(&scene.claim().await).await.artifact_id.unwrap();
    let artifact_path = format!("/v1/artifacts/{artifact}");
    let problem = app.patch(&artifact_path, json!({ "expires_at": "2026-01-02T03:04:05Z" })).await;
    assert_eq!(problem.problem(422, "invalid_field").errors[0].field, "expires_at");
    app.patch(&artifact_path, json!({})).await.problem(422, "invalid_field");
    let expires = json!({ "expires_at": "2026-01-02T03:30:00Z" });
    let edited: Artifact = app.patch(&artifact_path, expires).await.json(200);
    assert!(edited.expires_at.is_some());
    app.put_json("/v1/runs/demo/aliases/prod", json!({ "artifact_id": artifact })).await.json::<Alias>(200);
    app.clock.advance(GRACE);
    gc::collect(&app.state).await.unwrap();
    app.get(&artifact_path).await.json::<Artifact>(200);
    assert_eq!(app.delete("/v1/runs/demo/aliases/prod").await.status, 204);
    gc::collect(&app.state).await.unwrap();
    app.get(&artifact_path).await.problem(404, "artifact_not_found");
    let back: Artifact = app.post(&format!("{artifact_path}/undelete"), json!({})).await.json(200);
    assert_eq!(back.expires_at, None);
    app.clock.advance(GRACE);
    gc::collect(&app.state).await.unwrap();
    app.get(&artifact_path).await.json::<Artifact>(200);
}

#[sqlx::test]
async fn the_same_bytes_pushed_while_they_are_collected_are_never_lost(pool: PgPool) {
    let (app, pushed) = run_of_three(pool).await;
    app.delete(&path(&pushed[0])).await.json::<Deleted>(200);
    app.clock.advance(GRACE);
    let (collected, again) =
        tokio::join!(gc::collect(&app.state), app.put("/v1/runs/r/checkpoints/40", checkpoint(10)),);
    collected.unwrap();
    let again: Checkpoint = again.json(201);
    assert_eq!(app.get(&format!("{}/content", path(&again))).await.body, checkpoint(10));
    bytes_in_store(&app).await;
}

#[sqlx::test]
async fn what_is_not_there_cannot_be_deleted_or_brought_back(pool: PgPool) {
    let app = TestApp::new(pool);
    let absent = Uuid::nil();
    for (things, code) in [
        ("runs", "run_not_found"),
        ("checkpoints", "checkpoint_not_found"),
        ("candidate_sets", "candidate_set_not_found"),
        ("jobs", "job_not_found"),
        ("artifacts", "artifact_not_found"),
    ] {
        app.delete(&format!("/v1/{things}/{absent}")).await.problem(404, code);
        app.post(&format!("/v1/{things}/{absent}/undelete"), json!({})).await.problem(404, code);
        app.post(&format!("/v1/{things}/nine/undelete"), json!({})).await.problem(400, "invalid_id");
    }
    let run = app.create_run("r").await;
    app.push("r", 1, "", checkpoint(1)).await;
    app.push("r", 2, "", checkpoint(2)).await;
    let rule = json!({ "rule": { "kind": "last", "count": 2 } });
    let set: CandidateSet = app.post("/v1/runs/r/candidate_sets", rule.clone()).await.json(201);
    app.create_run("other").await;
    app.push("other", 1, "", checkpoint(3)).await;
    let across = json!({ "rule": { "kind": "last", "count": 3 }, "other_runs": ["r"] });
    app.post("/v1/runs/other/candidate_sets", across).await.json::<CandidateSet>(201);
    let problem = app.delete(&format!("/v1/runs/{}", run.run_id)).await.problem(409, "in_use");
    assert!(problem.detail.contains("of another run"), "{problem:?}");
    app.delete(&format!("/v1/candidate_sets/{}", set.candidate_set_id)).await.json::<Deleted>(200);
    let next: CandidateSet = app.post("/v1/runs/r/candidate_sets", rule).await.json(201);
    assert_ne!(next.candidate_set_id, set.candidate_set_id);
}

#[sqlx::test]
async fn a_run_comes_back_only_with_what_its_sets_need_of_other_runs(pool: PgPool) {
    let (app, pushed) = run_of_three(pool).await;
    let other = app.create_run("other").await;
    app.push("other", 5, "", checkpoint(5)).await;
    let across = json!({ "rule": { "kind": "last", "count": 4 }, "other_runs": ["r"] });
    let set: CandidateSet = app.post("/v1/runs/other/candidate_sets", across).await.json(201);
    app.delete(&path(&pushed[0])).await.problem(409, "in_use");
    app.delete(&format!("/v1/runs/{}", other.run_id)).await.json::<Deleted>(200);
    app.delete(&path(&pushed[0])).await.json::<Deleted>(200);
    let undelete = format!("/v1/runs/{}/undelete", other.run_id);
    let problem = app.post(&undelete, json!({})).await.problem(409, "needs_deleted");
    assert!(problem.detail.contains(&pushed[0].checkpoint_id.to_string()), "{problem:?}");
    app.post(&format!("{}/undelete", path(&pushed[0])), json!({})).await.json::<Checkpoint>(200);
    app.post(&undelete, json!({})).await.json::<Run>(200);
    app.get(&format!("/v1/candidate_sets/{}", set.candidate_set_id)).await.json::<CandidateSet>(200);
}

#[sqlx::test]
async fn what_is_deleted_is_listed_while_it_can_come_back(pool: PgPool) {
    let (app, pushed) = run_of_three(pool).await;
    let list = async |query: &str| -> (Vec<i64>, Option<String>) {
        let page: Page<Checkpoint> = app.get(&format!("/v1/runs/r/checkpoints{query}")).await.json(200);
        (page.items.iter().map(|checkpoint| checkpoint.step).collect(), page.next_page_token)
    };
    assert_eq!(list("?deleted=true").await.0, [0_i64; 0]);
    for checkpoint in &pushed {
        app.delete(&path(checkpoint)).await.json::<Deleted>(200);
        app.clock.advance(Duration::from_secs(1));
    }
    let other = app.push("r", 10, "", checkpoint(77)).await;
    assert_eq!(list("").await.0, [10]);
    assert_eq!(list("?deleted=true").await.0, [30, 20, 10]);
    assert_eq!(list("?deleted=true&order=asc&from_step=20").await.0, [20, 30]);
    let (first, token) = list("?deleted=true&page_size=2").await;
    let rest = list(&format!("?deleted=true&page_size=2&page_token={}", token.unwrap())).await;
    assert_eq!((first, rest), (vec![30, 20], (vec![10], None)));
    app.get("/v1/runs/r/checkpoints?deleted=true&sort=step").await.problem(400, "invalid_query");
    let page: Page<Checkpoint> = app.get("/v1/runs/r/checkpoints?deleted=true").await.json(200);
    assert_eq!(page.items[2].checkpoint_id, pushed[0].checkpoint_id);
    assert!(page.items[0].deleted_at > page.items[1].deleted_at);
    let shown: Checkpoint = app.get(&path(&other)).await.json(200);
    assert_eq!(shown.deleted_at, None);

    let runs = async |query: &str| -> Vec<(Uuid, bool)> {
        let page: Page<Run> = app.get(&format!("/v1/runs{query}")).await.json(200);
        page.items.iter().map(|run| (run.run_id, run.deleted_at.is_some())).collect()
    };
    let id = other.run_id;
    assert_eq!((runs("").await, runs("?deleted=true").await), (vec![(id, false)], vec![]));
    app.delete("/v1/runs/r").await.json::<Deleted>(200);
    assert_eq!((runs("?deleted=false").await, runs("?deleted=true").await), (vec![], vec![(id, true)]));
    app.clock.advance(GRACE);
    gc::collect(&app.state).await.unwrap();
    assert_eq!(runs("?deleted=true").await, []);
}
