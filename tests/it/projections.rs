//! The cache of projections that workers share, and projections that extend others.

use std::time::Duration;

use barycenter::{app::projections, storage::Store};
use barycenter_api::{CandidateSet, Deleted, Job, Lease, LeasedProjection, Page, Projection, Worker};
use barycenter_core::projection::CODEC_VERSION;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    harness::{TestApp, TestResponse, files::digest},
    scene::{Scene, checkpoint, finish_body},
};

/// What begins as a projection does; the server looks no further.
pub fn file(content: &str) -> Vec<u8> {
    [b"BARYPROJ".as_slice(), &CODEC_VERSION.to_le_bytes(), content.as_bytes()].concat()
}

pub fn pushed_to(lease: &Lease, key: &str) -> String {
    format!("/v1/leases/{}/projections/{key}", lease.lease_id)
}

fn of(lease: &Lease) -> &LeasedProjection {
    lease.projection.as_ref().unwrap()
}

async fn push(scene: &Scene, lease: &Lease, bytes: Vec<u8>) -> TestResponse {
    scene.app.put(&pushed_to(lease, &of(lease).projection_key), bytes).await
}

async fn list(scene: &Scene) -> Vec<Projection> {
    scene.app.get("/v1/projections").await.json::<Page<Projection>>(200).items
}

async fn submit(scene: &Scene, spec: Value) -> Job {
    scene.app.post("/v1/jobs", spec).await.json(202)
}

async fn worker(scene: &Scene) -> Worker {
    scene.app.get(&format!("/v1/workers/{}", scene.worker.worker_id)).await.json(200)
}

/// Ends a job of three candidates whose worker tells this of its projection.
async fn succeed_with(scene: &Scene, lease: &Lease, projection: Value) -> Job {
    let stored = scene.upload(lease, checkpoint(21.0)).await;
    let mut finish = finish_body(&stored.digest_blake3);
    finish["report"]["projection"] = projection;
    scene.finish(lease, finish).await.json(200)
}

#[sqlx::test]
async fn a_projection_that_a_worker_shared_is_told_of_by_the_next_lease(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let first = scene.claim().await;
    assert!(of(&first).shared && of(&first).whole && of(&first).stored.is_none() && of(&first).fresh.is_none());
    let bytes = file("one");
    let path =
        format!("{}?revisions=2&digest_blake3={}", pushed_to(&first, &of(&first).projection_key), digest(&bytes));
    let stored: Projection = scene.app.put(&path, bytes.clone()).await.json(201);
    assert_eq!((stored.candidates, stored.revisions, stored.hits), (3, 2, 0));
    assert_eq!((stored.size_bytes, &stored.digest_blake3), (bytes.len() as u64, &digest(&bytes)));
    let again: Projection = push(&scene, &first, file("other bytes of the same key")).await.json(200);
    assert_eq!(again, stored, "what is there stays");
    assert_eq!(list(&scene).await, std::slice::from_ref(&stored));
    let shown: Projection = scene.app.get(&format!("/v1/projections/{}", stored.projection_key)).await.json(200);
    assert_eq!(shown, stored);
    scene.succeed(&first).await;

    scene.app.clock.advance(Duration::from_mins(1));
    scene.submit().await;
    let second = scene.claim().await;
    let shared = of(&second).stored.clone().unwrap();
    assert_eq!((shared.size_bytes, &shared.digest_blake3), (stored.size_bytes, &stored.digest_blake3));
    assert_eq!(scene.app.get(&shared.url_path).await.body, bytes);
    assert!(list(&scene).await[0].used_at > stored.used_at, "it is about to be used");
    scene.succeed(&second).await;
    scene.app.assert_no_orphans().await;
}

#[sqlx::test]
async fn what_is_no_projection_of_the_leased_job_is_refused_and_leaves_nothing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let lease = scene.claim().await;
    let key = of(&lease).projection_key.clone();
    let problem = scene.app.put(&pushed_to(&lease, "another"), file("x")).await.problem(422, "invalid_field");
    assert_eq!(problem.errors[0].field, "projection_key");
    push(&scene, &lease, b"a file of another kind".to_vec()).await.problem(422, "invalid_file");
    let mut of_another_version = file("x");
    of_another_version[8] ^= 1;
    push(&scene, &lease, of_another_version).await.problem(422, "invalid_file");
    let announced = format!("{}?digest_blake3={}", pushed_to(&lease, &key), digest(b"other"));
    scene.app.put(&announced, file("x")).await.problem(422, "digest_differs");
    push(&scene, &lease, file(&"x".repeat(1 << 20))).await.problem(413, "too_large");
    scene.let_leases_lapse();
    scene.let_pauses_end();
    scene.claim().await;
    push(&scene, &lease, file("x")).await.problem(409, "lease_lost");
    scene.app.get(&format!("/v1/projections/{key}")).await.problem(404, "projection_not_found");
    scene.app.get(&format!("/v1/projections/{key}/content")).await.problem(404, "projection_not_found");
    scene.app.delete(&format!("/v1/projections/{key}")).await.problem(404, "projection_not_found");
    assert!(list(&scene).await.is_empty());
    scene.app.assert_no_orphans().await;
}

#[sqlx::test]
async fn equal_projections_of_two_keys_are_one_object_that_goes_with_the_last_of_them(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let mut keys = Vec::new();
    for bits in [4, 8] {
        let mut spec = scene.spec();
        spec["method"] = json!({"kind": "twa", "bits": bits});
        submit(&scene, spec).await;
        let lease = scene.claim().await;
        push(&scene, &lease, file("the same")).await.json::<Projection>(201);
        scene.succeed(&lease).await;
        keys.push(of(&lease).projection_key.clone());
    }
    assert_ne!(keys[0], keys[1]);
    let held = async || scene.app.state.store.list_keys().await.unwrap().len();
    let before = held().await;
    assert_eq!(scene.app.delete(&format!("/v1/projections/{}", keys[0])).await.status, 204);
    assert_eq!(held().await, before, "the other one still needs it");
    assert_eq!(scene.app.get(&format!("/v1/projections/{}/content", keys[1])).await.body, file("the same"));
    assert_eq!(scene.app.delete(&format!("/v1/projections/{}", keys[1])).await.status, 204);
    assert_eq!(held().await, before - 1);
    scene.app.assert_no_orphans().await;
}

#[sqlx::test]
async fn projections_are_evicted_by_age_and_those_used_longest_ago_by_size(pool: PgPool) {
    let store = Store::open(&"memory:///".parse().unwrap(), []).unwrap();
    let app = TestApp::with(pool, store, |config| config.projections.projections_bytes = 100);
    let scene = Scene::on(app).await;
    let mut keys = Vec::new();
    for bits in [1, 2, 4, 8] {
        let mut spec = scene.spec();
        spec["method"] = json!({"kind": "twa", "bits": bits});
        submit(&scene, spec).await;
        let lease = scene.claim().await;
        push(&scene, &lease, file(&format!("{bits} {}", "x".repeat(26)))).await.json::<Projection>(201);
        scene.succeed(&lease).await;
        keys.push(of(&lease).projection_key.clone());
        scene.app.clock.advance(Duration::from_mins(1));
    }
    // The second one is used again, so the first and the third go.
    let mut spec = scene.spec();
    spec["method"] = json!({"kind": "twa", "bits": 2});
    submit(&scene, spec).await;
    scene.claim().await;
    assert_eq!(projections::evict(&scene.app.state).await.unwrap(), 2);
    let left: Vec<String> = list(&scene).await.into_iter().map(|projection| projection.projection_key).collect();
    assert_eq!(left, [keys[3].clone(), keys[1].clone()]);
    scene.app.assert_no_orphans().await;
    assert_eq!(projections::evict(&scene.app.state).await.unwrap(), 0);
    scene.app.clock.advance(Duration::from_hours(25));
    assert_eq!(projections::evict(&scene.app.state).await.unwrap(), 2, "nobody used them for a day");
    scene.app.assert_no_orphans().await;
}

#[sqlx::test]
async fn jobs_are_counted_by_where_their_projection_came_from(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let first = scene.claim().await;
    let key = of(&first).projection_key.clone();
    push(&scene, &first, file("one")).await.json::<Projection>(201);
    let told = |source: &str, fetched: bool| json!({"projection_key": key, "source": source, "fetched": fetched, "revisions": 0, "seconds": 0.5});
    let done = succeed_with(&scene, &first, told("built", false)).await;
    assert_eq!(done.report.unwrap().projection.unwrap().projection_key, key);
    for (source, fetched) in [("cached", false), ("fetched", true), ("extended", true)] {
        scene.submit().await;
        succeed_with(&scene, &scene.claim().await, told(source, fetched)).await;
    }
    let counts = worker(&scene).await.projection_counts;
    assert_eq!((counts.built, counts.extended, counts.cached, counts.fetched), (1, 1, 1, 1));
    assert_eq!(counts.hit_rate, Some(0.75));
    assert_eq!(list(&scene).await[0].hits, 2);
}

/// A run with checkpoints at the steps 1 to 9 beside the scene's.
async fn longer(scene: &Scene) {
    for step in 1..10 {
        scene.app.put(&format!("/v1/runs/demo/checkpoints/{step}"), checkpoint(step as f32)).await.json::<Value>(201);
    }
}

async fn set(scene: &Scene, steps: &[i64]) -> CandidateSet {
    let named: Vec<String> = steps.iter().map(ToString::to_string).collect();
    let rule = json!({"rule": {"kind": "explicit", "checkpoints": named}});
    scene.app.post("/v1/runs/demo/candidate_sets", rule).await.json(201)
}

fn extending(scene: &Scene, set: &CandidateSet, extends: Option<&Job>) -> Value {
    let mut spec = scene.spec();
    spec["candidate_set_id"] = json!(set.candidate_set_id);
    spec["method"] = json!({"kind": "twa"});
    if let Some(job) = extends {
        spec["method"]["extends"] = json!(job.job_id);
    }
    spec
}

/// Queues a job of these candidates and takes it; the job before has ended.
async fn extend(scene: &Scene, steps: &[i64], extends: Option<&Job>) -> (Job, Lease) {
    let set = set(scene, steps).await;
    let job = submit(scene, extending(scene, &set, extends)).await;
    let lease = scene.claim().await;
    assert_eq!(lease.job_id, job.job_id);
    (job, lease)
}

fn keys(projection: &LeasedProjection) -> Vec<&str> {
    projection.links.iter().map(|link| link.projection_key.as_str()).collect()
}

#[sqlx::test]
async fn what_a_projection_extends_is_pinned_with_its_job(pool: PgPool) {
    let scene = Scene::new(pool).await;
    longer(&scene).await;
    let (first, built) = extend(&scene, &[1, 2, 3], None).await;
    push(&scene, &built, file("first")).await.json::<Projection>(201);
    scene.succeed(&built).await;
    let (second, revised) = extend(&scene, &[2, 3, 4], Some(&first)).await;
    let of_second = of(&revised);
    assert_eq!(keys(of_second), [of(&built).projection_key.as_str()]);
    assert!(of_second.links[0].stored.is_some(), "the server has what is to be extended");
    let steps: Vec<i64> = of_second.links[0].candidates.iter().map(|candidate| candidate.step).collect();
    assert_eq!(steps, [1, 2, 3]);
    let fresh = of_second.fresh.as_ref().unwrap();
    assert_ne!(fresh.projection_key, of_second.projection_key, "a revised projection is another than one built anew");
    scene.succeed(&revised).await;

    let (third, chained) = extend(&scene, &[3, 4, 5], Some(&second)).await;
    assert_eq!(keys(of(&chained)), [of(&built).projection_key.as_str(), &of_second.projection_key]);
    // That it had drifted too far and was built is told: nothing before it matters any more.
    let drifted = json!({"projection_key": of(&chained).projection_key, "source": "built", "revisions": 0, "seconds": 0.1,
        "drifted": [of(&chained).projection_key]});
    succeed_with(&scene, &chained, drifted).await;
    let (_, pruned) = extend(&scene, &[4, 5, 6], Some(&third)).await;
    assert_eq!(keys(of(&pruned)), [of(&chained).projection_key.as_str()]);
    scene.succeed(&pruned).await;

    // Equal candidates and an equal past are the same projection.
    let (_, same) = extend(&scene, &[2, 3, 4], Some(&first)).await;
    assert_eq!(of(&same).projection_key, of_second.projection_key);
    scene.succeed(&same).await;
    let (_, again) = extend(&scene, &[2, 3, 4], Some(&second)).await;
    assert_eq!(
        (of(&again).projection_key.as_str(), keys(of(&again))),
        (of_second.projection_key.as_str(), keys(of_second))
    );
}

#[sqlx::test]
async fn a_set_that_was_deleted_ends_what_can_be_followed(pool: PgPool) {
    let scene = Scene::new(pool).await;
    longer(&scene).await;
    let (first, built) = extend(&scene, &[1, 2, 3], None).await;
    scene.succeed(&built).await;
    let (_, revised) = extend(&scene, &[2, 3, 4], Some(&first)).await;
    assert!(of(&revised).whole);
    let finished: Job = scene.app.get(&format!("/v1/jobs/{}", first.job_id)).await.json(200);
    for path in [
        format!("/v1/artifacts/{}", finished.artifact_id.unwrap()),
        format!("/v1/jobs/{}", first.job_id),
        format!("/v1/candidate_sets/{}", first.spec.candidate_set_id),
    ] {
        scene.app.delete(&path).await.json::<Deleted>(200);
    }
    scene.let_leases_lapse();
    scene.let_pauses_end();
    let taken_over = scene.claim().await;
    assert_eq!(taken_over.job_id, revised.job_id);
    assert_eq!((of(&taken_over).whole, of(&taken_over).links.len()), (false, 0));
    assert_eq!(of(&taken_over).projection_key, of(&revised).projection_key);
    // The projection of the candidates alone may be shared too, by its own key.
    let fresh = of(&taken_over).fresh.as_ref().unwrap().projection_key.clone();
    scene.app.put(&pushed_to(&taken_over, &fresh), file("fresh")).await.json::<Projection>(201);
}

#[sqlx::test]
async fn a_projection_that_cannot_be_extended_is_refused_by_name(pool: PgPool) {
    let scene = Scene::new(pool).await;
    longer(&scene).await;
    let (first, built) = extend(&scene, &[1, 2, 3], None).await;
    scene.succeed(&built).await;
    let next = set(&scene, &[2, 3, 4]).await;
    let sound = extending(&scene, &next, Some(&first));
    let refused = async |change: &dyn Fn(&mut Value)| -> String {
        let mut spec = sound.clone();
        change(&mut spec);
        let problem = scene.app.post("/v1/jobs", spec).await.problem(422, "invalid_field");
        assert_eq!(problem.errors[0].field, "method.extends", "{problem:?}");
        problem.errors[0].detail.clone()
    };
    assert!(refused(&|spec| spec["method"]["bits"] = json!(8)).await.contains("differs in `method.bits`"));
    assert!(refused(&|spec| spec["method"]["granularity"] = json!("model")).await.contains("`method.granularity`"));
    let copied = json!([{"pattern": "0.bias", "policy": "copy"}]);
    assert!(refused(&|spec| spec["tensors"] = copied.clone()).await.contains("`tensors`"));
    let unknown = "0190f3a8-0000-7000-8000-000000000001";
    assert!(refused(&|spec| spec["method"]["extends"] = json!(unknown)).await.contains("there is no job"));
    let apart = set(&scene, &[5, 6, 7]).await;
    let detail = refused(&|spec| spec["candidate_set_id"] = json!(apart.candidate_set_id)).await;
    assert!(detail.contains("has none of these candidates"), "{detail}");
    let mut wrong = sound.clone();
    wrong["method"]["extends"] = json!("the last one");
    scene.app.post("/v1/jobs", wrong).await.problem(422, "invalid_field");
    let mut nothing = sound.clone();
    nothing["method"]["extends"] = json!("nothing");
    submit(&scene, nothing).await;
    let lease = scene.claim().await;
    assert!(of(&lease).links.is_empty() && of(&lease).fresh.is_none());
}

#[sqlx::test]
async fn a_chain_of_projections_has_a_longest_length_and_begins_anew(pool: PgPool) {
    let scene = Scene::new(pool).await;
    longer(&scene).await;
    let sets = [set(&scene, &[1, 2, 3]).await, set(&scene, &[2, 3, 4]).await];
    let mut last = submit(&scene, extending(&scene, &sets[0], None)).await;
    let mut lengths: Vec<i64> = Vec::new();
    for turn in 1..=66 {
        last = submit(&scene, extending(&scene, &sets[turn % 2], Some(&last))).await;
        let id = last.job_id;
        let links = sqlx::query_scalar("select count(*) from projection_links where job_id = $1").bind(id);
        lengths.push(links.fetch_one(&scene.app.state.pool).await.unwrap());
    }
    let expected: Vec<i64> = (1..=64).chain([0, 1]).collect();
    assert_eq!(lengths, expected);
}

#[sqlx::test]
async fn a_job_that_extends_goes_to_the_worker_that_holds_what_it_extends(pool: PgPool) {
    let scene = Scene::new(pool).await;
    longer(&scene).await;
    let (first, built) = extend(&scene, &[1, 2, 3], None).await;
    scene.succeed(&built).await;
    let older = scene.submit().await;
    let next = set(&scene, &[2, 3, 4]).await;
    let extending = submit(&scene, extending(&scene, &next, Some(&first))).await;
    let holder = scene.register("holder", json!({"projections": [of(&built).projection_key]})).await;
    assert_eq!(scene.try_claim().await.json::<Lease>(201).job_id, older.job_id);
    assert_eq!(scene.try_claim().await.status, 204, "it is left to the holder for a moment");
    assert_eq!(scene.try_claim_for(&holder).await.json::<Lease>(201).job_id, extending.job_id);
}
