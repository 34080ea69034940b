//! Workers: registering, being seen, pausing, draining.

use std::time::Duration;

use barycenter::app::sweeper;
use barycenter_api::{Job, JobState, Lease, Page, Worker, WorkerHeartbeatReply, WorkerState};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::scene::Scene;

async fn drain(scene: &Scene) -> Worker {
    let path = format!("/v1/workers/{}/drain", scene.worker.worker_id);
    scene.app.send(axum::http::Request::post(path).body(axum::body::Body::empty()).unwrap()).await.json(200)
}

async fn shown(scene: &Scene) -> Worker {
    scene.app.get(&format!("/v1/workers/{}", scene.worker.worker_id)).await.json(200)
}

#[sqlx::test]
async fn a_worker_is_listed_with_what_it_computes_and_when_it_was_seen(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    scene.app.clock.advance(Duration::from_secs(5));
    scene.claim().await;
    scene.register("other", json!({"memory_bytes": 1 << 30, "networks": ["mlp"], "projections": ["abc"]})).await;
    let page: Page<Worker> = scene.app.get("/v1/workers?page_size=1").await.json(200);
    let other = &page.items[0];
    assert_eq!((other.name.as_str(), other.memory_bytes, other.alive), ("other", Some(1 << 30), true));
    assert_eq!((&other.networks, &other.projections), (&vec!["mlp".to_owned()], &vec!["abc".to_owned()]));
    let path = format!("/v1/workers?page_size=1&page_token={}", page.next_page_token.unwrap());
    let page: Page<Worker> = scene.app.get(&path).await.json(200);
    let first = &page.items[0];
    assert_eq!((first.job_id, first.state), (Some(job.job_id), WorkerState::Active));
    assert_eq!(first.seen_at, scene.app.state.clock.now(), "a claim is a sign of life");
    assert!(page.next_page_token.is_none());
}

#[sqlx::test]
async fn a_worker_that_starts_anew_keeps_its_place(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let path = format!("/v1/workers/{}", scene.worker.worker_id);
    scene.app.patch(&path, json!({"paused": true})).await.json::<Worker>(200);
    let again = scene.register("node-1", json!({"version": "0.2.0"})).await;
    assert_eq!((again.worker_id, again.state), (scene.worker.worker_id, WorkerState::Paused));
    assert_eq!(again.version, "0.2.0");
    drain(&scene).await;
    let again = scene.register("node-1", json!({})).await;
    assert_eq!(again.state, WorkerState::Active, "a drain ends with the process");
    assert_eq!(scene.app.count("workers").await, 1);
}

#[sqlx::test]
async fn a_heartbeat_tells_what_the_cache_holds_and_hears_the_state(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let path = format!("/v1/workers/{}/heartbeat", scene.worker.worker_id);
    scene.app.clock.advance(Duration::from_mins(1));
    assert!(!shown(&scene).await.alive);
    let reply: WorkerHeartbeatReply = scene.app.post(&path, json!({"projections": ["a", "b"]})).await.json(200);
    assert_eq!(reply.state, WorkerState::Active);
    scene.app.post(&path, json!({})).await.json::<Value>(200);
    let worker = shown(&scene).await;
    assert!(worker.alive);
    assert_eq!(worker.projections, ["a", "b"], "what is not told stays");
}

#[sqlx::test]
async fn a_paused_worker_gets_no_job_and_keeps_the_one_that_it_has(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let second = scene.submit().await;
    let lease = scene.claim().await;
    let path = format!("/v1/workers/{}", scene.worker.worker_id);
    let paused: Worker = scene.app.patch(&path, json!({"paused": true})).await.json(200);
    assert_eq!((paused.state, paused.job_id), (WorkerState::Paused, Some(lease.job_id)));
    assert_eq!(scene.try_claim().await.status, 204);
    assert_eq!(scene.succeed(&lease).await.state, JobState::Succeeded);
    scene.app.patch(&path, json!({"paused": false})).await.json::<Worker>(200);
    assert_eq!(scene.claim().await.job_id, second.job_id);
}

#[sqlx::test]
async fn a_draining_worker_ends_after_its_job(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let waiting = scene.submit().await;
    let lease = scene.claim().await;
    assert_eq!(drain(&scene).await.state, WorkerState::Draining);
    assert_eq!(scene.succeed(&lease).await.state, JobState::Succeeded);
    assert_eq!(shown(&scene).await.state, WorkerState::Drained);
    scene.try_claim().await.problem(409, "worker_draining");
    let other = scene.register("other", json!({})).await;
    assert_eq!(scene.try_claim_for(&other).await.json::<Lease>(201).job_id, waiting.job_id);
}

#[sqlx::test]
async fn a_worker_that_is_silent_for_a_week_is_forgotten_and_registers_again(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let lease = scene.claim().await;
    scene.register("silent", json!({})).await;
    scene.app.clock.advance(Duration::from_hours(24 * 7 + 1));
    sweeper::sweep(&scene.app.state).await.unwrap();
    assert_eq!(scene.app.count("workers").await, 1, "the one with a job is kept");
    scene.succeed(&lease).await;
    scene.app.clock.advance(Duration::from_hours(1));
    sweeper::sweep(&scene.app.state).await.unwrap();
    scene.try_claim().await.problem(404, "worker_not_found");
    let ended: Job = scene.job(&job).await;
    assert_eq!(ended.attempts[0].worker, "node-1", "an attempt keeps the name of its worker");
}

#[sqlx::test]
async fn what_makes_no_sense_is_refused_by_its_field(pool: PgPool) {
    let scene = Scene::new(pool).await;
    for (change, field) in [
        (json!({"name": ""}), "name"),
        (json!({"version": "x".repeat(201)}), "version"),
        (json!({"device": {"kind": "cpu", "name": ""}}), "device.name"),
        (json!({"memory_bytes": 0}), "memory_bytes"),
        (json!({"networks": [""]}), "networks"),
        (json!({"projections": ["x".repeat(201)]}), "projections"),
    ] {
        let mut body = json!({"name": "w", "version": "1", "device": {"kind": "cpu", "name": "cpu"}});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let problem = scene.app.post("/v1/workers", body).await.problem(422, "invalid_field");
        assert_eq!(problem.errors[0].field, field);
    }
    let absent = "/v1/workers/0190f3a8-0000-7000-8000-000000000001";
    scene.app.get(absent).await.problem(404, "worker_not_found");
    scene.app.patch(absent, json!({"paused": true})).await.problem(404, "worker_not_found");
}
