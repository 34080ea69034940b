//! The worker protocol: who may speak for a job.

use barycenter::app::sweeper;
use barycenter_api::{AttemptState, Bytes64, Directive, Heartbeat, HeartbeatReply, History, Job, JobState, Lease};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    harness::{
        TestApp,
        faulty::{Fault, Faulty, Point},
    },
    scene::{STEPS, Scene, checkpoint, claim, coefficients, finish_body, snapshots},
};

#[sqlx::test]
async fn an_empty_queue_has_nothing_to_lease(pool: PgPool) {
    let scene = Scene::new(pool).await;
    assert_eq!(scene.try_claim().await.status, 204);
}

#[sqlx::test]
async fn a_lease_holds_everything_a_worker_needs(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let lease = scene.claim().await;
    assert_eq!((lease.job_id, lease.attempt), (job.job_id, 1));
    assert_eq!(lease.spec, job.spec);
    assert_eq!(lease.candidates.iter().map(|candidate| candidate.step).collect::<Vec<_>>(), STEPS);
    for (candidate, member) in lease.candidates.iter().zip(&scene.set.members) {
        assert_eq!(candidate.digest_blake3, member.digest_blake3);
        let content = scene.app.get(&format!("/v1/checkpoints/{}/content", candidate.checkpoint_id)).await;
        assert_eq!(blake3::hash(&content.body).to_hex().to_string(), candidate.digest_blake3);
    }
    assert_eq!(lease.datasets.iter().map(|dataset| dataset.named.as_str()).collect::<Vec<_>>(), ["validation"]);
    assert!(lease.fit_state.is_none());
    let job = scene.job(&job).await;
    assert_eq!((job.state, job.attempts[0].state), (JobState::Running, AttemptState::Running));
}

#[sqlx::test]
async fn jobs_are_leased_oldest_first(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let mut submitted = Vec::new();
    for _ in 0..3 {
        submitted.push(scene.submit().await.job_id);
        scene.app.clock.advance(std::time::Duration::from_secs(1));
    }
    let mut leased = Vec::new();
    for _ in 0..3 {
        leased.push(scene.claim().await.job_id);
    }
    assert_eq!(leased, submitted);
}

#[sqlx::test]
async fn concurrent_claims_never_lease_one_job_twice(pool: PgPool) {
    let scene = Scene::new(pool).await;
    for _ in 0..4 {
        scene.submit().await;
    }
    let answers = futures::future::join_all((0..8).map(|_| scene.try_claim())).await;
    let mut leased: Vec<_> =
        answers.iter().filter(|answer| answer.status == 201).map(|answer| answer.json::<Lease>(201).job_id).collect();
    assert_eq!(leased.len(), 4, "four jobs, eight claims");
    leased.sort();
    leased.dedup();
    assert_eq!(leased.len(), 4, "every lease has a job of its own");
}

#[sqlx::test]
async fn a_waiting_claim_is_woken_by_a_new_job(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.listen();
    let waiting = async { scene.app.post("/v1/leases", claim(&scene.worker, 25)).await };
    let (answer, job) = tokio::join!(waiting, scene.submit());
    assert_eq!(answer.json::<Lease>(201).job_id, job.job_id);
}

#[sqlx::test]
async fn a_claim_that_would_wait_too_long_is_refused(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let problem = scene.app.post("/v1/leases", claim(&scene.worker, 26)).await.problem(422, "invalid_field");
    assert_eq!(problem.errors[0].field, "wait_seconds");
}

#[sqlx::test]
async fn heartbeats_keep_a_lease(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let lease = scene.claim().await;
    let heartbeat_every = std::time::Duration::from_secs_f64(lease.heartbeat_seconds);
    for _ in 0..20 {
        scene.app.clock.advance(heartbeat_every);
        assert_eq!(scene.beat(&lease).await.directive, Directive::Continue);
        assert_eq!(scene.try_claim().await.status, 204);
    }
}

#[sqlx::test]
async fn heartbeats_keep_a_lease_while_the_store_is_away(pool: PgPool) {
    let faulty = Faulty::default();
    let scene = Scene::on(TestApp::with(pool, faulty.store(), |_| {})).await;
    let job = scene.submit().await;
    let lease = scene.claim().await;
    let heartbeat_every = std::time::Duration::from_secs_f64(lease.heartbeat_seconds);
    for _ in 0..20 {
        scene.app.clock.advance(heartbeat_every);
        faulty.plan(Point::BeforeCreate, Fault::Fail);
        scene.heartbeat(&lease, snapshots(0..3)).await.problem(503, "unavailable");
        assert_eq!(scene.try_claim().await.status, 204, "it is still held");
    }
    assert_eq!(
        scene.heartbeat(&lease, snapshots(0..3)).await.json::<HeartbeatReply>(200).directive,
        Directive::Continue
    );
    let history: History = scene.app.get(&format!("/v1/jobs/{}/history", job.job_id)).await.json(200);
    assert_eq!(history.snapshots.len(), 3);
}

#[sqlx::test]
async fn progress_is_shown_while_a_job_runs(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let lease = scene.claim().await;
    let progress = json!({"phase": "fit", "done": 3, "total": 10, "fit_loss": 0.5});
    let heartbeat = Heartbeat { progress: serde_json::from_value(progress.clone()).unwrap(), ..Heartbeat::default() };
    scene.heartbeat(&lease, heartbeat).await.json::<HeartbeatReply>(200);
    scene.beat(&lease).await;
    assert_eq!(serde_json::to_value(scene.job(&job).await.progress).unwrap(), progress);
    scene.succeed(&lease).await;
    assert_eq!(scene.job(&job).await.progress, None, "it is through");
}

#[sqlx::test]
async fn a_lapsed_lease_is_taken_over_with_its_fit_state_and_the_dead_attempt_closed(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let dead = scene.claim().await;
    let saved = Bytes64(vec![1, 2, 3, 250]);
    let heartbeat = Heartbeat { fit_state: Some(saved.clone()), ..Heartbeat::default() };
    scene.heartbeat(&dead, heartbeat).await.json::<HeartbeatReply>(200);
    assert_eq!(scene.try_claim().await.status, 204, "the lease still holds");
    scene.let_leases_lapse();
    let lease = scene.claim().await;
    assert_eq!((lease.job_id, lease.attempt), (job.job_id, 2));
    assert_eq!(lease.fit_state, Some(saved));
    let states: Vec<_> = scene.job(&job).await.attempts.iter().map(|attempt| attempt.state).collect();
    assert_eq!(states, [AttemptState::Expired, AttemptState::Running]);
    scene.succeed(&lease).await;
    assert_eq!(scene.app.count("fit_states").await, 0, "nobody will resume it");
}

#[sqlx::test]
async fn a_worker_that_was_late_but_not_replaced_goes_on(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let lease = scene.claim().await;
    scene.let_leases_lapse();
    assert_eq!(scene.beat(&lease).await.directive, Directive::Continue);
    assert_eq!(scene.try_claim().await.status, 204);
}

#[sqlx::test]
async fn a_lost_lease_cannot_heartbeat_upload_finish_or_fail(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let lost = scene.claim().await;
    let stored = scene.upload(&lost, checkpoint(1.0)).await;
    scene.let_leases_lapse();
    let lease = scene.claim().await;

    let heartbeat = Heartbeat { fit_state: Some(Bytes64(vec![9])), ..snapshots(0..3) };
    let reply: HeartbeatReply = scene.heartbeat(&lost, heartbeat).await.json(200);
    assert_eq!(reply.directive, Directive::Lost);
    assert_eq!(scene.app.count("fit_states").await + scene.app.count("history_snapshots").await, 0);
    let path = format!("/v1/leases/{}/artifact", lost.lease_id);
    scene.app.put(&path, checkpoint(2.0)).await.problem(409, "lease_lost");
    scene.finish(&lost, finish_body(&stored.digest_blake3)).await.problem(409, "lease_lost");
    scene.fail(&lost, "io", false).await.problem(409, "lease_lost");

    assert_eq!(scene.job(&job).await.state, JobState::Running);
    let ended = scene.succeed(&lease).await;
    assert_eq!(ended.state, JobState::Succeeded);
    scene.finish(&lost, finish_body(&stored.digest_blake3)).await.problem(409, "lease_lost");
    assert_eq!(scene.app.count("artifacts").await, 1);
}

#[sqlx::test]
async fn what_a_dead_attempt_uploaded_is_removed(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let dead = scene.claim().await;
    scene.upload(&dead, checkpoint(1.0)).await;
    scene.let_leases_lapse();
    let lease = scene.claim().await;
    scene.succeed(&lease).await;
    assert_eq!(scene.app.reap_after(scene.app.state.config.uploads.grace()).await, 1);
    scene.app.assert_no_orphans().await;
}

#[sqlx::test]
async fn heartbeats_keep_an_uploaded_artifact_from_the_reaper(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let lease = scene.claim().await;
    let stored = scene.upload(&lease, checkpoint(1.0)).await;
    for _ in 0..3 {
        scene.app.clock.advance(scene.app.state.config.uploads.grace() / 2);
        scene.beat(&lease).await;
    }
    assert_eq!(scene.app.reap_after(std::time::Duration::from_secs(1)).await, 0);
    let job: Job = scene.finish(&lease, finish_body(&stored.digest_blake3)).await.json(200);
    assert_eq!(job.state, JobState::Succeeded);
}

#[sqlx::test]
async fn a_lease_that_never_was_is_unknown(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let path = "/v1/leases/0190f3a8-0000-7000-8000-000000000001";
    scene.app.post(&format!("{path}/heartbeat"), json!({})).await.problem(404, "lease_not_found");
    scene.app.post(&format!("{path}/finish"), finish_body("ab")).await.problem(404, "lease_not_found");
    scene.app.put(&format!("{path}/artifact"), checkpoint(1.0)).await.problem(404, "lease_not_found");
    scene.app.assert_no_orphans().await;
}

#[sqlx::test]
async fn finishing_twice_answers_the_same_and_publishes_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let lease = scene.claim().await;
    let first = scene.succeed(&lease).await;
    let digest = blake3::hash(&checkpoint(21.0)).to_hex().to_string();
    let second: Job = scene.finish(&lease, finish_body(&digest)).await.json(200);
    assert_eq!(serde_json::to_value(&first).unwrap(), serde_json::to_value(&second).unwrap());
    assert_eq!(scene.app.count("artifacts").await, 1);
    assert_eq!(scene.beat(&lease).await.directive, Directive::Lost);
}

#[sqlx::test]
async fn the_coefficients_of_a_linear_fit_need_not_sum_to_one(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let mut spec = scene.spec();
    spec["method"] = json!({"kind": "twa", "constraint": "linear"});
    scene.app.post("/v1/jobs", spec).await.json::<Job>(202);
    let lease = scene.claim().await;
    let stored = scene.upload(&lease, checkpoint(1.0)).await;
    let with = |last: f64| {
        let mut body = finish_body(&stored.digest_blake3);
        let mut values = coefficients().0;
        values[5] = last;
        body["coefficients"] = serde_json::to_value(barycenter_api::Floats(values)).unwrap();
        body
    };
    scene.finish(&lease, with(f64::INFINITY)).await.problem(422, "invalid_field");
    let job: Job = scene.finish(&lease, with(0.9)).await.json(200);
    assert_eq!(job.state, JobState::Succeeded);
}

#[sqlx::test]
async fn a_job_may_start_where_another_ended(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let from = |job: &str| {
        let mut spec = scene.spec();
        spec["method"] = json!({"kind": "twa", "start": {"job": job}});
        spec
    };
    let first = scene.submit().await;
    let first_id = first.job_id.to_string();
    let problem = scene.app.post("/v1/jobs", from(&first_id)).await.problem(422, "invalid_field");
    assert_eq!(problem.errors[0].field, "method.start.job");
    assert!(problem.detail.contains("has no coefficients"), "{}", problem.detail);
    let lease = scene.claim().await;
    assert!(lease.start_coefficients.is_none());
    scene.succeed(&lease).await;

    scene.app.post("/v1/jobs", from(&first_id)).await.json::<Job>(202);
    let lease = scene.claim().await;
    for (found, wanted) in lease.start_coefficients.unwrap().0.iter().zip(coefficients().0) {
        assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
    }
    let mut spec = from(&first_id);
    spec["method"]["granularity"] = json!("model");
    let problem = scene.app.post("/v1/jobs", spec).await.problem(422, "invalid_field");
    assert!(problem.detail.contains("has 2 blocks, which are not the 1"), "{}", problem.detail);
}

#[sqlx::test]
async fn a_finish_that_is_not_sound_is_refused_and_changes_nothing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let lease = scene.claim().await;
    scene.finish(&lease, finish_body("ab")).await.problem(409, "artifact_missing");
    let stored = scene.upload(&lease, checkpoint(1.0)).await;
    scene.finish(&lease, finish_body(&"0".repeat(64))).await.problem(422, "digest_differs");

    let sound = finish_body(&stored.digest_blake3);
    let with = |values: &[f64]| {
        let mut body = sound.clone();
        body["coefficients"] = serde_json::to_value(barycenter_api::Floats(values.to_vec())).unwrap();
        body
    };
    let mut values = coefficients().0;
    values[5] += 1e-3;
    let problem = scene.finish(&lease, with(&values)).await.problem(422, "invalid_field");
    assert!(problem.detail.contains("`0.bias`"), "{}", problem.detail);
    values[5] = f64::NAN;
    scene.finish(&lease, with(&values)).await.problem(422, "invalid_field");
    let problem = scene.finish(&lease, with(&values[..4])).await.problem(422, "invalid_field");
    assert!(problem.detail.contains("need 6"), "{}", problem.detail);

    assert_eq!(scene.job(&job).await.state, JobState::Running);
    assert_eq!(scene.app.count("artifacts").await + scene.app.count("coefficients").await, 0);
    let job: Job = scene.finish(&lease, sound).await.json(200);
    assert_eq!(job.state, JobState::Succeeded);
}

#[sqlx::test]
async fn a_file_that_is_no_artifact_is_refused(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let lease = scene.claim().await;
    let path = format!("/v1/leases/{}/artifact", lease.lease_id);
    let whole = checkpoint(1.0);
    scene.app.put(&path, whole[..whole.len() - 1].to_vec()).await.problem(422, "invalid_file");
    scene.app.put(&path, b"no model".to_vec()).await.problem(422, "invalid_file");
    scene.app.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_second_upload_takes_the_place_of_the_first(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let lease = scene.claim().await;
    let first = scene.upload(&lease, checkpoint(1.0)).await;
    let second = scene.upload(&lease, checkpoint(2.0)).await;
    scene.finish(&lease, finish_body(&first.digest_blake3)).await.problem(422, "digest_differs");
    scene.finish(&lease, finish_body(&second.digest_blake3)).await.json::<Job>(200);
    scene.app.assert_no_orphans().await;
}

#[sqlx::test]
async fn an_artifact_equal_to_a_checkpoint_is_stored_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let lease = scene.claim().await;
    let stored = scene.upload(&lease, checkpoint(10.0)).await;
    assert_eq!(stored.digest_blake3, scene.set.members[0].digest_blake3);
    scene.finish(&lease, finish_body(&stored.digest_blake3)).await.json::<Job>(200);
    scene.app.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_failure_that_may_pass_is_retried_and_keeps_its_cause(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let lease = scene.claim().await;
    let failed: Job = scene.fail(&lease, "io", true).await.json(200);
    assert_eq!(failed.state, JobState::Queued);
    assert_eq!(failed.attempts[0].state, AttemptState::Failed);
    assert_eq!(failed.attempts[0].error.as_ref().unwrap().message, "the disk is full");
    assert_eq!(scene.try_claim().await.status, 204, "it backs off");
    scene.let_pauses_end();
    let lease = scene.claim().await;
    assert_eq!((lease.job_id, lease.attempt), (job.job_id, 2));
}

#[sqlx::test]
async fn a_failure_for_good_ends_the_job(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let lease = scene.claim().await;
    scene.upload(&lease, checkpoint(1.0)).await;
    let job: Job = scene.fail(&lease, "corrupt_file", false).await.json(200);
    assert_eq!((job.state, job.error.unwrap().code.as_str()), (JobState::Failed, "corrupt_file"));
    let again: Job = scene.fail(&lease, "corrupt_file", false).await.json(200);
    assert_eq!(again.state, JobState::Failed, "repeating the report changes nothing");
    assert_eq!(scene.try_claim().await.status, 204);
    scene.app.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_job_that_fails_at_every_attempt_fails_in_the_end(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let most = scene.app.state.config.leases.max_attempts;
    for attempt in 1..=most {
        let lease = scene.claim().await;
        assert_eq!(lease.attempt, attempt);
        scene.fail(&lease, "io", true).await.json::<Job>(200);
        scene.let_pauses_end();
    }
    let job = scene.job(&job).await;
    assert_eq!(job.state, JobState::Failed);
    let error = job.error.unwrap();
    assert_eq!(error.code, "too_many_attempts");
    assert!(error.message.contains("the disk is full"), "{}", error.message);
}

#[sqlx::test]
async fn a_job_whose_workers_all_die_fails_in_the_end(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    for _ in 0..scene.app.state.config.leases.max_attempts {
        scene.claim().await;
        scene.let_leases_lapse();
        scene.let_pauses_end();
    }
    assert_eq!(scene.try_claim().await.status, 204);
    assert_eq!(sweeper::sweep(&scene.app.state).await.unwrap().failed.len(), 1);
    let job = scene.job(&job).await;
    assert_eq!((job.state, job.error.unwrap().code.as_str()), (JobState::Failed, "too_many_attempts"));
    for attempt in &job.attempts {
        assert_eq!(
            (attempt.state, attempt.error.as_ref().unwrap().code.as_str()),
            (AttemptState::Expired, "worker_lost")
        );
    }
}

#[sqlx::test]
async fn a_sweep_leaves_jobs_that_may_be_taken_over(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    scene.claim().await;
    scene.let_leases_lapse();
    let swept = sweeper::sweep(&scene.app.state).await.unwrap();
    assert!(swept.failed.is_empty() && swept.cancelled.is_empty());
    assert_eq!(scene.claim().await.attempt, 2);
}

#[sqlx::test]
async fn a_lease_reads_as_agreed(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let lease: Value = scene.try_claim().await.json(201);
    insta::assert_json_snapshot!(lease, {
        ".lease_id" => "[id]",
        ".job_id" => "[id]",
        ".spec.candidate_set_id" => "[id]",
        ".candidates[].checkpoint_id" => "[id]",
        ".datasets[].dataset_id" => "[id]",
    });
}
