//! Which job is next: back-off, priorities, fair share, caps, deadlines, cached projections; and what a waiting job is told.

use barycenter::app::sweeper;
use barycenter_api::{AttemptState, Directive, Job, JobState, Lease, Project, WaitReason, Worker};
use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::scene::{Scene, checkpoint};

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

async fn waits(scene: &Scene, job: &Job) -> (u64, WaitReason) {
    let waiting = scene.job(job).await.waiting.unwrap();
    (waiting.position, waiting.reason)
}

/// Takes jobs until there are none; each stays running.
async fn claim_all(scene: &Scene) -> Vec<Uuid> {
    let mut claimed = Vec::new();
    loop {
        let answer = scene.try_claim().await;
        if answer.status == 204 {
            return claimed;
        }
        claimed.push(answer.json::<Lease>(201).job_id);
    }
}

/// A spec for the candidates of another run, in a project of its own.
async fn spec_of_project(scene: &Scene, project: &str) -> Value {
    scene.app.post("/v1/runs", json!({"name": project, "project": project})).await.json::<Value>(201);
    for step in [10, 20] {
        let path = format!("/v1/runs/{project}/checkpoints/{step}");
        scene.app.put(&path, checkpoint(step as f32)).await.json::<Value>(201);
    }
    let rule = json!({"rule": {"kind": "last", "count": 2}});
    let set: Value = scene.app.post(&format!("/v1/runs/{project}/candidate_sets"), rule).await.json(201);
    let mut spec = scene.spec();
    spec["candidate_set_id"] = set["candidate_set_id"].clone();
    spec
}

async fn submit(scene: &Scene, spec: &Value) -> Job {
    scene.app.post("/v1/jobs", spec.clone()).await.json(202)
}

#[sqlx::test]
async fn each_failure_doubles_the_pause_before_the_next_attempt(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    for pause in [5, 10, 20, 40] {
        let lease = scene.claim().await;
        scene.fail(&lease, "disk_full", true).await.json::<Job>(200);
        let waiting = scene.job(&job).await.waiting.unwrap();
        assert_eq!(waiting.reason, WaitReason::BackOff);
        assert_eq!(waiting.until.unwrap(), scene.app.state.clock.now() + TimeDelta::seconds(pause));
        scene.app.clock.advance(SECOND * (pause - 1) as u32);
        assert_eq!(scene.try_claim().await.status, 204, "{pause} s are not over");
        scene.app.clock.advance(SECOND);
    }
    let lease = scene.claim().await;
    let failed: Job = scene.fail(&lease, "disk_full", true).await.json(200);
    assert_eq!((failed.state, failed.error.unwrap().code.as_str()), (JobState::Failed, "too_many_attempts"));
    assert_eq!(failed.attempts.len(), 5);
    assert!(failed.attempts.iter().all(|attempt| attempt.error.as_ref().unwrap().code == "disk_full"));
}

#[sqlx::test]
async fn a_job_whose_workers_die_one_after_the_other_is_tried_at_growing_distances(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    for attempt in 1..=3 {
        assert_eq!(scene.claim().await.attempt, attempt, "the silence of 30 s is longer than the pause");
        scene.let_leases_lapse();
    }
    scene.claim().await;
    scene.let_leases_lapse();
    assert_eq!(scene.try_claim().await.status, 204, "40 s after the fourth, of which 30 are over");
    scene.app.clock.advance(SECOND * 10);
    assert_eq!(scene.claim().await.attempt, 5);
}

#[sqlx::test]
async fn what_cannot_pass_fails_at_once_whatever_the_worker_believes(pool: PgPool) {
    let scene = Scene::new(pool).await;
    for code in ["invalid_input", "corrupt_file", "missing_tensor", "not_finite"] {
        scene.submit().await;
        let failed: Job = scene.fail(&scene.claim().await, code, true).await.json(200);
        assert_eq!((failed.state, failed.error.unwrap().code.as_str()), (JobState::Failed, code));
    }
}

#[sqlx::test]
async fn a_job_that_is_handed_back_is_free_at_once_and_loses_no_attempt(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    for _ in 0..7 {
        let handed_back: Job = scene.fail(&scene.claim().await, "worker_stopped", true).await.json(200);
        assert_eq!(handed_back.state, JobState::Queued);
    }
    assert_eq!(scene.claim().await.attempt, 8);
    assert_eq!(scene.job(&job).await.state, JobState::Running);
}

#[sqlx::test]
async fn higher_priorities_go_first_and_a_queued_job_can_be_moved(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let usual = scene.submit().await;
    let later = scene.submit_with(json!({"priority": -5})).await;
    let urgent = scene.submit_with(json!({"priority": 7})).await;
    let raised = scene.submit().await;
    let path = format!("/v1/jobs/{}", raised.job_id);
    let raised: Job = scene.app.patch(&path, json!({"priority": 7})).await.json(200);
    assert_eq!((raised.priority, raised.waiting.as_ref().unwrap().position), (7, 2));
    assert_eq!(claim_all(&scene).await, [urgent, raised, usual, later].map(|job| job.job_id));
    scene.app.patch(&path, json!({"priority": 0})).await.problem(409, "job_not_queued");
    scene.app.patch(&path, json!({"priority": 1001})).await.problem(422, "invalid_field");
    let mut spec = scene.spec();
    spec["scheduling"] = json!({"priority": 1001, "deadline_seconds": 0});
    let problem = scene.app.post("/v1/jobs", spec).await.problem(422, "invalid_field");
    let fields: Vec<&str> = problem.errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(fields, ["scheduling.priority", "scheduling.deadline_seconds"]);
}

#[sqlx::test]
async fn projects_take_turns_however_many_jobs_each_submits(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (many, few) = (spec_of_project(&scene, "many").await, spec_of_project(&scene, "few").await);
    let mut of_many = Vec::new();
    for _ in 0..6 {
        of_many.push(submit(&scene, &many).await.job_id);
    }
    assert_eq!(scene.claim().await.job_id, of_many[0]);
    let mut of_few = Vec::new();
    for _ in 0..2 {
        of_few.push(submit(&scene, &few).await.job_id);
    }
    // Who comes late takes turns from now on, and does not catch up on what the other had before.
    let order = claim_all(&scene).await;
    assert_eq!(order, [of_few[0], of_many[1], of_few[1], of_many[2], of_many[3], of_many[4], of_many[5]]);
}

#[sqlx::test]
async fn a_project_never_runs_more_jobs_than_it_may(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let spec = spec_of_project(&scene, "capped").await;
    let bounds = json!({"max_running_jobs": 2});
    let project: Project = scene.app.put_json("/v1/projects/capped", bounds).await.json(200);
    assert_eq!((project.max_running_jobs, project.running_jobs), (Some(2), 0));
    let mut capped = Vec::new();
    for _ in 0..4 {
        capped.push(submit(&scene, &spec).await);
    }
    let other = scene.submit().await;
    let answers = futures::future::join_all((0..5).map(|_| scene.try_claim())).await;
    let leases: Vec<Lease> =
        answers.iter().filter(|answer| answer.status == 201).map(|answer| answer.json(201)).collect();
    let of_capped: Vec<&Lease> = leases.iter().filter(|lease| lease.job_id != other.job_id).collect();
    assert_eq!(of_capped.len(), 2, "claims at the same moment never both get the last place");
    assert_eq!(claim_all(&scene).await, if leases.len() == 3 { vec![] } else { vec![other.job_id] });
    let third = capped.iter().find(|job| leases.iter().all(|lease| lease.job_id != job.job_id)).unwrap();
    scene.register("idle", json!({})).await;
    assert_eq!(waits(&scene, third).await, (1, WaitReason::ProjectAtCap));
    scene.fail(of_capped[0], "invalid_input", false).await.json::<Job>(200);
    assert_eq!(scene.claim().await.job_id, third.job_id);
    let listed: Value = scene.app.get("/v1/projects?page_size=1").await.json(200);
    assert_eq!(listed["items"][0]["project"], "capped");
    let next = listed["next_page_token"].as_str().unwrap();
    let listed: Value = scene.app.get(&format!("/v1/projects?page_size=1&page_token={next}")).await.json(200);
    assert_eq!(listed["items"][0]["project"], "default");
    scene.app.put_json("/v1/projects/-x", json!({})).await.problem(422, "invalid_field");
}

#[sqlx::test]
async fn a_job_that_has_not_ended_by_its_deadline_fails(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let running = scene.submit_with(json!({"deadline_seconds": 60})).await;
    assert_eq!(running.deadline_at.unwrap(), running.created_at + TimeDelta::seconds(60));
    let queued = scene.submit_with(json!({"deadline_seconds": 60})).await;
    let in_time = scene.submit_with(json!({"deadline_seconds": 61})).await;
    let lease = scene.claim().await;
    scene.app.clock.advance(SECOND * 60);
    let lease_of_third = scene.claim().await;
    assert_eq!(lease_of_third.job_id, in_time.job_id, "nobody takes a job whose time is over");
    assert_eq!(sweeper::sweep(&scene.app.state).await.unwrap().failed.len(), 2);
    for job in [&running, &queued] {
        let job = scene.job(job).await;
        assert_eq!((job.state, job.error.unwrap().code.as_str()), (JobState::Failed, "deadline_exceeded"));
    }
    let attempt = &scene.job(&running).await.attempts[0];
    assert_eq!(attempt.state, AttemptState::Failed);
    assert_eq!(attempt.error.as_ref().unwrap().code, "deadline_exceeded");
    assert_eq!(scene.beat(&lease).await.directive, Directive::Lost, "its worker publishes nothing");
    assert_eq!(scene.succeed(&lease_of_third).await.state, JobState::Succeeded);
}

#[sqlx::test]
async fn a_waiting_job_knows_its_place_and_what_it_waits_for(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let first = scene.submit().await;
    let second = scene.submit().await;
    assert_eq!(waits(&scene, &first).await, (1, WaitReason::Starting));
    assert_eq!(waits(&scene, &second).await, (2, WaitReason::Starting));
    let lease = scene.claim().await;
    assert_eq!(scene.job(&first).await.waiting, None);
    assert_eq!(waits(&scene, &second).await, (1, WaitReason::WorkersBusy));

    let path = format!("/v1/workers/{}", scene.worker.worker_id);
    scene.app.patch(&path, json!({"paused": true})).await.json::<Worker>(200);
    assert_eq!(waits(&scene, &second).await, (1, WaitReason::WorkersPaused));
    scene.succeed(&lease).await;
    scene.app.clock.advance(SECOND * 60);
    assert_eq!(waits(&scene, &second).await, (1, WaitReason::NoWorker));

    scene.register("small", json!({"memory_bytes": 1000})).await;
    assert_eq!(waits(&scene, &second).await, (1, WaitReason::NoWorkerWithMemory));
    scene.register("narrow", json!({"networks": ["vit"]})).await;
    assert_eq!(waits(&scene, &second).await, (1, WaitReason::NoWorkerWithNetwork));
    let on_a_gpu = scene.submit_with(json!({"device": "cuda"})).await;
    assert_eq!(waits(&scene, &on_a_gpu).await, (2, WaitReason::NoWorkerWithDevice));
}

#[sqlx::test]
async fn a_worker_is_given_what_it_can_do(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let on_a_gpu = scene.submit_with(json!({"device": "cuda"})).await;
    let anywhere = scene.submit().await;
    let small = scene.register("small", json!({"memory_bytes": 1000})).await;
    let narrow = scene.register("narrow", json!({"networks": ["vit", "gpt2"]})).await;
    assert_eq!(scene.try_claim_for(&small).await.status, 204);
    assert_eq!(scene.try_claim_for(&narrow).await.status, 204);
    assert_eq!(scene.claim().await.job_id, anywhere.job_id);
    assert_eq!(scene.try_claim().await.status, 204);
    let gpu = json!({"device": {"kind": "cuda", "name": "H100"}, "memory_bytes": anywhere.estimate.total_bytes,
        "networks": ["mlp"]});
    let gpu = scene.register("gpu", gpu).await;
    assert_eq!(scene.try_claim_for(&gpu).await.json::<Lease>(201).job_id, on_a_gpu.job_id);
}

#[sqlx::test]
async fn a_worker_takes_first_what_its_cache_can_serve(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let with_bits = |bits: u8| {
        let mut spec = scene.spec();
        spec["method"] = json!({"kind": "twa", "bits": bits});
        spec
    };
    submit(&scene, &with_bits(8)).await;
    let first = scene.claim().await;
    let key = first.projection.as_ref().unwrap().projection_key.clone();
    scene.succeed(&first).await;
    let older = submit(&scene, &with_bits(4)).await;
    let at_hand = submit(&scene, &with_bits(8)).await;
    let holder = scene.register("holder", json!({"projections": [key]})).await;
    let lease: Lease = scene.try_claim_for(&holder).await.json(201);
    assert_eq!((lease.job_id, &lease.projection.as_ref().unwrap().projection_key), (at_hand.job_id, &key));
    scene.succeed(&lease).await;

    // What has waited for a minute is not passed over any more.
    let also_at_hand = submit(&scene, &with_bits(8)).await;
    scene.app.clock.advance(SECOND * 61);
    assert_eq!(scene.try_claim_for(&holder).await.json::<Lease>(201).job_id, older.job_id);
    assert_eq!(scene.try_claim_for(&holder).await.json::<Lease>(201).job_id, also_at_hand.job_id);
}

#[sqlx::test]
async fn a_new_job_is_left_for_a_moment_to_an_idle_worker_that_holds_its_projection(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let key = scene.claim().await.projection.unwrap().projection_key;
    let holder = scene.register("holder", json!({"projections": [key]})).await;
    let first = scene.submit().await;
    assert_eq!(scene.try_claim().await.status, 204, "the holder is idle and about to ask");
    assert_eq!(scene.try_claim_for(&holder).await.json::<Lease>(201).job_id, first.job_id);
    let second = scene.submit().await;
    assert_eq!(scene.claim().await.job_id, second.job_id, "the holder is at work: nobody waits for it");
    scene.register("another holder", json!({"projections": [key]})).await;
    let third = scene.submit().await;
    assert_eq!(scene.try_claim().await.status, 204);
    scene.app.clock.advance(SECOND * 2);
    assert_eq!(scene.claim().await.job_id, third.job_id, "a moment and no longer");
}
