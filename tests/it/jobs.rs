//! Jobs: submitting, reading, waiting, cancelling.

use axum::{body::Body, http::Request};
use barycenter::app::sweeper;
use barycenter_api::{
    AttemptState, Directive, Granularity, Job, JobState, JobSummary, MethodSpec, OptimiserSpec, Page, ValidatedJob,
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::scene::{Scene, floats, keyed_post, safetensors};

#[sqlx::test]
async fn a_submitted_job_is_queued_with_every_default_filled_in(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let answer = scene.app.post("/v1/jobs", scene.spec()).await;
    let job: Job = answer.json(202);
    assert_eq!(answer.header("location"), format!("/v1/jobs/{}", job.job_id));
    assert_eq!(job.state, JobState::Queued);
    let MethodSpec::Twa(twa) = &job.spec.method else { panic!("{:?}", job.spec.method) };
    assert!(matches!(twa.optimiser, OptimiserSpec::Adamw { learning_rate: None, .. }), "a worker finds the rate");
    assert_eq!((twa.granularity, twa.epochs), (Granularity::Tensor, Some(20)));
    assert_eq!(job.spec.data.select_fraction, Some(0.2));
    assert_eq!(job.spec.batch_norm.dataset, None, "an mlp has no running statistics");
    let estimate = job.estimate;
    // Four vectors of nine f32; two tensors of one tile each, three candidates.
    assert_eq!(estimate.vector_bytes, 4 * 9 * 4);
    assert_eq!(estimate.projection_bytes, 2 * 3 * (256 + 4) + 2 * 3 * 16);
    assert!(estimate.total_bytes > estimate.vector_bytes + estimate.projection_bytes);
    assert_eq!(scene.job(&job).await.spec, job.spec);
}

#[sqlx::test]
async fn training_data_is_fitted_on_beside_half_of_the_held_out_data(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let inputs: Vec<u8> = (0..200_000 * 2).map(|i| i as u8).collect();
    let labels: Vec<u8> = (0..200_000_i64).flat_map(|i| (i % 3).to_le_bytes()).collect();
    let train = safetensors(&[("inputs", "U8", &[200_000, 2], inputs), ("labels", "I64", &[200_000], labels)]);
    scene.app.put("/v1/datasets/train", train).await.json::<Value>(201);
    let mut spec = scene.spec();
    spec["data"] = json!({"fit": "validation", "train": "train"});
    let job: Job = scene.app.post("/v1/jobs", spec).await.json(202);
    assert_eq!(job.spec.data.select_fraction, Some(0.5));
    let MethodSpec::Twa(twa) = &job.spec.method else { panic!("{:?}", job.spec.method) };
    assert_eq!(twa.epochs, Some(1), "one pass makes many more than 200 steps");
    let lease = scene.claim().await;
    assert_eq!(lease.datasets.iter().map(|d| d.named.as_str()).collect::<Vec<_>>(), ["train", "validation"]);
}

#[sqlx::test]
async fn a_tensor_that_is_copied_takes_no_room_in_the_projection(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let mut spec = scene.spec();
    spec["tensors"] = json!([{"pattern": "*.bias", "policy": "copy"}]);
    spec["output"] = json!({"dtype": "BF16", "shard_size_bytes": 1_000_000});
    let job: Job = scene.app.post("/v1/jobs", spec).await.json(202);
    assert_eq!(job.estimate.projection_bytes, 3 * (256 + 4) + 3 * 16, "one tensor of one tile is left");
    assert_eq!(job.spec.output.dtype, Some(barycenter_api::FloatDtype::Bf16));
    assert_eq!(scene.job(&job).await.spec, job.spec);
}

#[sqlx::test]
async fn the_same_submission_again_queues_nothing_new(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let submit = || scene.app.send(keyed_post("/v1/jobs", "pipeline-7", &scene.spec()));
    let first: Job = submit().await.json(202);
    let second: Job = submit().await.json(202);
    assert_eq!(first.job_id, second.job_id);
    assert_eq!(scene.app.count("jobs").await, 1);
}

#[sqlx::test]
async fn validating_queues_nothing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let validated: ValidatedJob = scene.app.post("/v1/jobs?validate_only=true", scene.spec()).await.json(200);
    assert!(validated.estimate.total_bytes > 0);
    assert_eq!(validated.spec.data.select_fraction, Some(0.2));
    assert_eq!(scene.app.count("jobs").await, 0);
    let mut spec = scene.spec();
    spec["method"] = json!({"kind": "twa", "bits": 3});
    scene.app.post("/v1/jobs?validate_only=true", spec).await.problem(422, "invalid_field");
}

#[sqlx::test]
async fn every_field_at_fault_is_named(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let images = safetensors(&[
        ("inputs", "U8", &[2, 3, 4, 4], vec![0; 96]),
        ("labels", "I64", &[2], [0_i64, 1].iter().flat_map(|label| label.to_le_bytes()).collect()),
    ]);
    scene.app.put("/v1/datasets/images", images).await.json::<Value>(201);
    for (pointer, value, fields) in [
        ("/candidate_set_id", json!("0190f3a8-0000-7000-8000-000000000001"), vec!["candidate_set_id"]),
        ("/network", json!({"kind": "mlp", "features": [2]}), vec!["network"]),
        ("/network", json!({"kind": "mlp", "features": [2, 4]}), vec!["network"]),
        ("/network", json!({"kind": "resnet_cifar", "depth": 20, "classes": 3}), vec!["network", "data.fit"]),
        ("/method", json!({"kind": "twa", "bits": 5, "epochs": 0}), vec!["method.bits", "method.epochs"]),
        ("/objective", json!({"kind": "cross_entropy", "label_smoothing": 1.0}), vec!["objective.label_smoothing"]),
        ("/method", json!({"kind": "fixed", "weights": [1.0]}), vec!["method.weights"]),
        ("/method", json!({"kind": "ema", "decay": 1.5}), vec!["method.decay"]),
        ("/method", json!({"kind": "twa", "basis": "orthonormal", "constraint": "convex"}), vec!["method.basis"]),
        ("/data", json!({"fit": "validation", "train": "validation"}), vec!["data.train"]),
        ("/data", json!({"fit": "validation", "train": "images"}), vec!["data.train"; 2]),
        ("/data", json!({"fit": "nothing"}), vec!["data.fit"]),
        ("/data", json!({"fit": "images"}), vec!["data.fit"]),
        ("/data", json!({"fit": "validation", "select": "nothing", "test": "none"}), vec!["data.select", "data.test"]),
        (
            "/data",
            json!({"fit": "validation", "select": "validation", "select_fraction": 0.5}),
            vec!["data.select_fraction"],
        ),
        ("/data", json!({"fit": "validation", "select_fraction": 0.95}), vec!["data.select_fraction"]),
        ("/data", json!({"fit": "validation", "augmentation": {"flip": true}}), vec!["data.augmentation"]),
        ("/tensors", json!([{"pattern": "[", "policy": "copy"}]), vec!["tensors.0.pattern"]),
        ("/tensors", json!([{"pattern": "9.*", "policy": "copy"}]), vec!["tensors"]),
        ("/tensors", json!([{"pattern": "*.bias", "policy": "reject"}]), vec!["tensors"]),
        ("/tensors", json!([{"pattern": "*.bias", "policy": "recompute"}]), vec!["tensors"]),
        ("/output", json!({"shard_size_bytes": 0}), vec!["output.shard_size_bytes"]),
        ("/batch_norm", json!({"dataset": "nothing"}), vec!["batch_norm.dataset"]),
        ("/batch_norm", json!({"augment": true, "batches": 0}), vec!["batch_norm.batches", "batch_norm.augment"]),
    ] {
        let mut spec = scene.spec();
        spec[pointer.trim_start_matches('/')] = value;
        let problem = scene.app.post("/v1/jobs", spec.clone()).await.problem(422, "invalid_field");
        let named: Vec<&str> = problem.errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(named, fields, "{spec}: {}", problem.detail);
    }
    let mut spec = scene.spec();
    spec["method"] = json!({"kind": "twa", "bit": 4});
    let problem = scene.app.post("/v1/jobs", spec).await.problem(422, "invalid_field");
    assert!(problem.detail.contains("unknown field `bit`"), "{}", problem.detail);
    assert_eq!(scene.app.count("jobs").await, 0);
}

#[sqlx::test]
async fn adapters_are_checked_against_their_base_model(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.app.post("/v1/runs", json!({"name": "adapters"})).await.json::<Value>(201);
    for step in [1, 2] {
        let name = |factor: &str| format!("base_model.model.0.{factor}.weight");
        let (a, b) = (name("lora_A"), name("lora_B"));
        let file = safetensors(&[
            (a.as_str(), "F32", &[1, 2], floats(&[step as f32; 2])),
            (b.as_str(), "F32", &[3, 1], floats(&[1.0; 3])),
        ]);
        scene.app.put(&format!("/v1/runs/adapters/checkpoints/{step}"), file).await.json::<Value>(201);
    }
    let rule = json!({"rule": {"kind": "last", "count": 2}});
    let set: Value = scene.app.post("/v1/runs/adapters/candidate_sets", rule).await.json(201);
    let spec = |lora: Value| {
        let mut spec = scene.spec();
        spec["candidate_set_id"] = set["candidate_set_id"].clone();
        spec["lora"] = lora;
        spec
    };
    let id = &json!(scene.set.members[0].checkpoint_id);
    let job: Job = scene.app.post("/v1/jobs", spec(json!({"base_checkpoint_id": id, "scale": 2.0}))).await.json(202);
    assert_eq!(job.estimate.vector_bytes, 4 * 9 * 4, "the model's tensors are averaged, not the factors");
    let lease = scene.claim().await;
    assert_eq!(json!(lease.base.map(|base| base.checkpoint_id)), *id);

    let absent = json!("0190f3a8-0000-7000-8000-000000000001");
    for (lora, fields) in [
        (json!({"base_checkpoint_id": absent, "scale": 1.0}), vec!["lora.base_checkpoint_id"]),
        (json!({"base_checkpoint_id": id, "scale": 0.0}), vec!["lora.scale"]),
        (json!({"base_checkpoint_id": id, "scale": 1.0, "transposed": true}), vec!["lora"]),
        (
            json!({"base_checkpoint_id": id, "scale": 1.0, "result": {"kind": "adapter", "rank": 0}}),
            vec!["lora.result.rank"],
        ),
    ] {
        let problem = scene.app.post("/v1/jobs", spec(lora)).await.problem(422, "invalid_field");
        let named: Vec<&str> = problem.errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(named, fields, "{}", problem.detail);
    }
    let delta = json!({"base_checkpoint_id": id, "scale": 1.0, "result": {"kind": "delta"}});
    for (field, value, named) in [
        ("tensors", json!([{"pattern": "0.weight", "policy": "copy"}]), "tensors"),
        ("materialise", json!("as_fitted"), "materialise"),
        ("method", json!({"kind": "twa", "constraint": "linear"}), "method.constraint"),
    ] {
        let mut spec = spec(delta.clone());
        spec[field] = value;
        let problem = scene.app.post("/v1/jobs", spec).await.problem(422, "invalid_field");
        assert_eq!(problem.errors[0].field, named, "{}", problem.detail);
    }
}

#[sqlx::test]
async fn tensors_that_differ_from_the_network_are_named(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let mut spec = scene.spec();
    spec["network"] = json!({"kind": "mlp", "features": [2, 3, 5]});
    let problem = scene.app.post("/v1/jobs", spec).await.problem(422, "invalid_field");
    assert!(problem.errors[0].detail.contains("`2.weight`"), "{}", problem.errors[0].detail);
}

#[sqlx::test]
async fn jobs_are_listed_newest_first_by_state_and_run(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let mut submitted = Vec::new();
    for _ in 0..5 {
        submitted.push(scene.submit().await.job_id);
    }
    scene.claim().await;
    submitted.reverse();
    let mut listed = Vec::new();
    let mut path = "/v1/jobs?page_size=2&run=demo".to_owned();
    loop {
        let page: Page<JobSummary> = scene.app.get(&path).await.json(200);
        assert!(page.items.len() <= 2);
        listed.extend(page.items.iter().map(|job| job.job_id));
        let Some(token) = page.next_page_token else { break };
        path = format!("/v1/jobs?page_size=2&run=demo&page_token={token}");
    }
    assert_eq!(listed, submitted);
    let running: Page<JobSummary> = scene.app.get("/v1/jobs?state=running").await.json(200);
    assert_eq!(running.items.iter().map(|job| job.job_id).collect::<Vec<_>>(), submitted[4..]);
    scene.app.get("/v1/jobs?run=nobody").await.problem(404, "run_not_found");
    scene.app.get("/v1/jobs?state=lost").await.problem(400, "invalid_query");
}

#[sqlx::test]
async fn a_queued_job_is_cancelled_at_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    assert_eq!(scene.cancel(&job).await.state, JobState::Cancelled);
    assert_eq!(scene.cancel(&job).await.state, JobState::Cancelled, "asking twice is no mistake");
    assert_eq!(scene.try_claim().await.status, 204);
}

#[sqlx::test]
async fn a_running_job_stops_at_its_next_heartbeat(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let lease = scene.claim().await;
    let cancelled = scene.cancel(&job).await;
    assert_eq!((cancelled.state, cancelled.cancel_requested), (JobState::Running, true));
    assert_eq!(scene.beat(&lease).await.directive, Directive::Stop);
    let job: Job = scene.fail(&lease, "cancelled", false).await.json(200);
    assert_eq!((job.state, job.attempts[0].state), (JobState::Cancelled, AttemptState::Cancelled));
    assert!(job.error.is_none() && job.finished_at.is_some());
}

#[sqlx::test]
async fn a_cancelled_job_whose_worker_died_ends_all_the_same(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    scene.claim().await;
    scene.cancel(&job).await;
    scene.let_leases_lapse();
    assert_eq!(scene.try_claim().await.status, 204, "nobody takes it over");
    assert_eq!(sweeper::sweep(&scene.app.state).await.unwrap().cancelled, [barycenter::domain::ids::JobId(job.job_id)]);
    let job = scene.job(&job).await;
    assert_eq!((job.state, job.attempts[0].state), (JobState::Cancelled, AttemptState::Expired));
}

#[sqlx::test]
async fn an_ended_job_is_not_changed_by_a_cancel(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let ended = scene.succeed(&scene.claim().await).await;
    let cancelled = scene.cancel(&job).await;
    assert_eq!(serde_json::to_value(cancelled).unwrap(), serde_json::to_value(ended).unwrap());
}

#[sqlx::test]
async fn a_wait_ends_when_the_job_does(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.listen();
    let job = scene.submit().await;
    let lease = scene.claim().await;
    let path = format!("/v1/jobs/{}?wait=25", job.job_id);
    let (waited, ended) = tokio::join!(scene.app.get(&path), scene.succeed(&lease));
    assert_eq!(waited.json::<Job>(200).state, JobState::Succeeded);
    assert_eq!(ended.state, JobState::Succeeded);
}

#[sqlx::test]
async fn a_wait_ends_without_notifications_too(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let path = format!("/v1/jobs/{}?wait=25", job.job_id);
    let (waited, _) = tokio::join!(scene.app.get(&path), scene.cancel(&job));
    assert_eq!(waited.json::<Job>(200).state, JobState::Cancelled);
    let problem = scene.app.get(&format!("/v1/jobs/{}?wait=26", job.job_id)).await.problem(400, "invalid_query");
    assert_eq!(problem.errors[0].field, "wait");
}

#[sqlx::test]
async fn waiting_holds_no_connection(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let path = format!("/v1/jobs/{}?wait=25", job.job_id);
    // More waiters than the pool has connections.
    let waiters = futures::future::join_all((0..40).map(|_| scene.app.get(&path)));
    let (waited, _) = tokio::join!(waiters, scene.cancel(&job));
    assert!(waited.iter().all(|answer| answer.json::<Job>(200).state == JobState::Cancelled));
}

#[sqlx::test]
async fn a_job_that_has_not_changed_is_not_sent_again(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let path = format!("/v1/jobs/{}", job.job_id);
    let etag = scene.app.get(&path).await.header("etag").to_owned();
    let conditional = || Request::get(&path).header("if-none-match", &etag).body(Body::empty()).unwrap();
    let unchanged = scene.app.send(conditional()).await;
    assert_eq!((unchanged.status.as_u16(), unchanged.body.len()), (304, 0));
    scene.cancel(&job).await;
    assert_eq!(scene.app.send(conditional()).await.json::<Job>(200).state, JobState::Cancelled);
}

#[sqlx::test]
async fn a_job_that_is_not_there_is_a_problem(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.app.get("/v1/jobs/0190f3a8-0000-7000-8000-000000000001").await.problem(404, "job_not_found");
    scene.app.get("/v1/jobs/last").await.problem(400, "invalid_id");
}

#[sqlx::test]
async fn a_job_reads_as_agreed(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let job = scene.succeed(&scene.claim().await).await;
    insta::assert_json_snapshot!(job, {
        ".job_id" => "[id]",
        ".run_id" => "[id]",
        ".artifact_id" => "[id]",
        ".spec.candidate_set_id" => "[id]",
    });
}

#[sqlx::test]
async fn whoever_polls_with_a_tag_hears_of_every_change(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let path = format!("/v1/jobs/{}", job.job_id);
    let poll = async |tag: &str| {
        let answer =
            scene.app.send(Request::get(&path).header("if-none-match", tag).body(Body::empty()).unwrap()).await;
        (answer.status.as_u16(), answer.header("etag").to_owned())
    };
    let (status, queued) = poll("\"none\"").await;
    assert_eq!(status, 200);
    assert_eq!(poll(&queued).await, (304, queued.clone()));
    let lease = scene.claim().await;
    let (status, running) = poll(&queued).await;
    assert_eq!(status, 200, "it runs");
    assert_eq!(poll(&running).await.0, 304);
    let progress = serde_json::from_value(json!({"phase": "fit", "done": 1, "total": 2})).unwrap();
    let heartbeat = barycenter_api::Heartbeat { progress, ..Default::default() };
    scene.heartbeat(&lease, heartbeat).await.json::<Value>(200);
    let (status, fitting) = poll(&running).await;
    assert_eq!(status, 200, "it makes progress");
    scene.cancel(&job).await;
    assert_eq!(poll(&fitting).await.0, 200, "a cancel was requested");
    scene.fail(&lease, "cancelled", false).await.json::<Job>(200);
    assert_eq!(poll(&fitting).await.0, 200, "it has ended");
}
