//! Policies: runs that average by themselves.

use axum::http::Method;
use barycenter::app::policies;
use barycenter_api::{
    Alias, CandidateSet, Extends, Job, Lease, MethodSpec, Page, Policy, PolicyRefresh, RefreshState, Start,
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    harness::{TestResponse, json_request},
    scene::{Scene, checkpoint, finish_body},
};

const POLICY: &str = "/v1/runs/demo/policy";

/// A policy that averages the last three after every two.
fn rules() -> Value {
    json!({
        "every": 2,
        "window": {"last": 3},
        "job": {"network": {"kind": "mlp", "features": [2, 3]}, "data": {"fit": "validation"}},
    })
}

fn rules_with(change: &Value) -> Value {
    let mut rules = rules();
    rules.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    rules
}

async fn set(scene: &Scene, change: Value) -> Policy {
    scene.app.put_json(POLICY, rules_with(&change)).await.json(200)
}

async fn conditional(scene: &Scene, method: Method, name: &'static str, value: &str) -> TestResponse {
    let mut request = json_request(method, POLICY, &rules());
    request.headers_mut().insert(name, value.parse().unwrap());
    scene.app.send(request).await
}

async fn policy(scene: &Scene) -> Policy {
    scene.app.get(POLICY).await.json(200)
}

async fn push(scene: &Scene, steps: impl IntoIterator<Item = i64>) {
    for step in steps {
        scene.app.put(&format!("/v1/runs/demo/checkpoints/{step}"), checkpoint(step as f32)).await.json::<Value>(201);
    }
}

async fn round(scene: &Scene) {
    policies::round(&scene.app.state).await.unwrap();
}

/// The refreshes of the run, oldest first.
async fn refreshes(scene: &Scene) -> Vec<PolicyRefresh> {
    let page: Page<PolicyRefresh> = scene.app.get(&format!("{POLICY}/refreshes")).await.json(200);
    page.items.into_iter().rev().collect()
}

/// What a worker sends at the end: these losses of the two samples that are selected on, or only their mean.
fn found(digest: &str, candidates: usize, losses: &[f64], told: bool) -> Value {
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    let mut body = finish_body(digest);
    let share = 1.0 / candidates as f64;
    body["coefficients"] = json!(barycenter_api::Floats(vec![share; 2 * candidates]));
    body["report"]["evaluations"][0]["select"]["loss"] = json!(mean);
    body["report"]["evaluations"][0]["test"] = json!({"loss": mean + 1.0, "accuracy": 0.5});
    if told {
        body["select_losses"] = json!({"losses": barycenter_api::Floats(losses.to_vec())});
    }
    body
}

/// A worker takes the job that waits and ends it with these losses.
async fn compute(scene: &Scene, losses: &[f64], told: bool) -> Job {
    let lease: Lease = scene.claim().await;
    let digest = scene.upload(&lease, checkpoint(1000.0 + losses[0] as f32)).await.digest_blake3;
    scene.finish(&lease, found(&digest, lease.candidates.len(), losses, told)).await.json(200)
}

/// Two checkpoints, the refresh that they are due for, and its end with this loss.
async fn refresh(scene: &Scene, step: i64, loss: f64) -> PolicyRefresh {
    push(scene, [step, step + 1]).await;
    round(scene).await;
    compute(scene, &[loss], false).await;
    round(scene).await;
    refreshes(scene).await.pop().unwrap()
}

async fn alias(scene: &Scene) -> Option<uuid::Uuid> {
    let answer = scene.app.get("/v1/runs/demo/aliases/best").await;
    (answer.status == 200).then(|| answer.json::<Alias>(200).artifact_id.unwrap())
}

/// The events of policies: kind, number of the refresh.
async fn events(scene: &Scene) -> Vec<(String, i64)> {
    sqlx::query_as("select kind, (detail ->> 'refresh')::bigint from events where kind like 'policy.%' order by entry")
        .fetch_all(&scene.app.state.pool)
        .await
        .unwrap()
}

#[sqlx::test]
async fn a_policy_is_set_shown_changed_and_removed(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.app.get(POLICY).await.problem(404, "policy_not_found");
    let first = set(&scene, json!({})).await;
    assert_eq!((first.alias.as_str(), first.enabled, first.new_checkpoints), ("best", true, 0));
    let MethodSpec::Twa(twa) = &first.job.method else { panic!("{first:?}") };
    assert!(twa.epochs.is_some(), "defaults are filled in");
    assert_eq!(set(&scene, json!({})).await, first, "the same again changes nothing");
    assert_eq!(policy(&scene).await, first);

    let tag = |policy: &Policy| format!("\"{}\"", policy.revision_id);
    let second = set(&scene, json!({"enabled": false, "patience": 3})).await;
    assert_ne!(second.revision_id, first.revision_id);
    assert_eq!(scene.app.get(POLICY).await.header("etag"), tag(&second));
    conditional(&scene, Method::PUT, "if-match", &tag(&first)).await.problem(412, "precondition_failed");
    conditional(&scene, Method::DELETE, "if-match", &tag(&first)).await.problem(412, "precondition_failed");
    conditional(&scene, Method::PUT, "if-none-match", "*").await.problem(412, "precondition_failed");
    conditional(&scene, Method::PUT, "if-match", &tag(&second)).await.json::<Policy>(200);
    assert_eq!(scene.app.delete(POLICY).await.status, 204);
    scene.app.delete(POLICY).await.problem(404, "policy_not_found");
    scene.app.get("/v1/runs/nobody/policy").await.problem(404, "run_not_found");
}

#[sqlx::test]
async fn a_policy_is_checked_as_a_submission_is(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let data = json!({"fit": "validation"});
    let network = json!({"kind": "mlp", "features": [2, 3]});
    for (change, field) in [
        (json!({"every": 0}), "every"),
        (json!({"window": {"last": 1}}), "window.last"),
        (json!({"improvement": -1.0}), "improvement"),
        (json!({"alias": "latest"}), "alias"),
        (json!({"patience": 0}), "patience"),
        (json!({"target": {"metric": "test_loss", "below": 0.5}}), "target.metric"),
        (json!({"job": {"network": {"kind": "mlp", "features": [2, 4]}, "data": data}}), "job.network"),
        (json!({"job": {"network": network, "data": {"fit": "nothing"}}}), "job.data.fit"),
        (json!({"job": {"network": network, "data": data, "method": {"kind": "twa", "bits": 3}}}), "job.method.bits"),
        (
            json!({"job": {"network": network, "data": data,
                "method": {"kind": "twa", "start": {"job": "0190f3a8-0000-7000-8000-000000000001"}}}}),
            "job.method.start.job",
        ),
    ] {
        let problem = scene.app.put_json(POLICY, rules_with(&change)).await.problem(422, "invalid_field");
        assert_eq!(problem.errors[0].field, field, "{change}");
    }
    let candidates = json!({"job": {"network": network, "data": data, "candidate_set_id": scene.set.candidate_set_id}});
    scene.app.put_json(POLICY, rules_with(&candidates)).await.problem(422, "invalid_field");
    assert_eq!(scene.app.count("policies").await, 0);
}

#[sqlx::test]
async fn enough_new_checkpoints_begin_a_refresh_and_the_next_one_starts_where_it_ended(pool: PgPool) {
    let scene = Scene::new(pool).await;
    set(&scene, json!({})).await;
    round(&scene).await;
    assert!(refreshes(&scene).await.is_empty(), "what was there before is not new");
    push(&scene, [40]).await;
    round(&scene).await;
    assert!(refreshes(&scene).await.is_empty());
    assert_eq!(policy(&scene).await.new_checkpoints, 1);
    push(&scene, [50]).await;
    round(&scene).await;
    round(&scene).await;
    let [first] = refreshes(&scene).await.try_into().unwrap();
    assert_eq!((first.number, first.state, first.new_checkpoints), (1, RefreshState::Running, 2));
    let set: CandidateSet =
        scene.app.get(&format!("/v1/candidate_sets/{}", first.candidate_set_id.unwrap())).await.json(200);
    assert_eq!((set.name.as_deref(), set.version), (Some("policy"), 1));
    assert_eq!(set.members.iter().map(|member| member.step).collect::<Vec<_>>(), [30, 40, 50]);

    // What comes while the job runs counts for the next.
    push(&scene, [60, 70]).await;
    round(&scene).await;
    assert_eq!(refreshes(&scene).await.len(), 1);
    let job = compute(&scene, &[0.5], false).await;
    round(&scene).await;
    let [first, second] = refreshes(&scene).await.try_into().unwrap();
    assert_eq!((first.state, first.job_id), (RefreshState::Improved, Some(job.job_id)));
    assert_eq!((first.select_loss, first.test_loss, first.chosen.as_deref()), (Some(0.5), Some(1.5), Some("twa")));
    assert_eq!((second.number, second.new_checkpoints, second.started_from), (2, 2, Some(job.job_id)));
    assert_eq!(first.started_from, None);
    let next: Job = scene.app.get(&format!("/v1/jobs/{}", second.job_id.unwrap())).await.json(200);
    let MethodSpec::Twa(twa) = &next.spec.method else { panic!("{next:?}") };
    assert_eq!(twa.start, Start::Job(job.job_id));
    assert_eq!(policy(&scene).await.new_checkpoints, 0);

    // A window that shares nothing with the last starts from the uniform average.
    push(&scene, [80, 90, 100]).await;
    compute(&scene, &[0.5], false).await;
    round(&scene).await;
    let third = refreshes(&scene).await.pop().unwrap();
    assert_eq!((third.number, third.new_checkpoints, third.started_from), (3, 3, None));
}

#[sqlx::test]
async fn the_alias_moves_to_what_improved_by_enough_and_events_tell_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let target = json!({"metric": "select_loss", "below": 0.7});
    set(&scene, json!({"improvement": 0.1, "patience": 2, "target": target})).await;
    let first = refresh(&scene, 40, 1.0).await;
    assert_eq!((first.state, first.moved_alias.as_deref()), (RefreshState::Improved, Some("best")));
    assert_eq!(alias(&scene).await, first.artifact_id);

    let second = refresh(&scene, 50, 0.95).await;
    assert_eq!((second.state, second.compared_with), (RefreshState::NotImproved, Some(1)));
    assert!((second.difference.unwrap() + 0.05).abs() < 1e-9, "{second:?}");
    assert_eq!(alias(&scene).await, first.artifact_id, "0.05 is not enough");
    let third = refresh(&scene, 60, 0.92).await;
    assert_eq!((third.state, third.compared_with), (RefreshState::NotImproved, Some(1)), "it is the best that counts");
    assert_eq!(policy(&scene).await.without_improvement, 2);
    let fourth = refresh(&scene, 70, 0.6).await;
    assert_eq!(alias(&scene).await, fourth.artifact_id);
    let told = policy(&scene).await;
    assert_eq!((told.best_refresh, told.without_improvement), (Some(4), 0));
    assert!(told.target_reached_at.is_some());
    refresh(&scene, 80, 0.3).await;
    round(&scene).await;

    let expected = [
        ("policy.refreshed", 1),
        ("policy.improved", 1),
        ("policy.refreshed", 2),
        ("policy.refreshed", 3),
        ("policy.stalled", 3),
        ("policy.refreshed", 4),
        ("policy.improved", 4),
        ("policy.target_reached", 4),
        ("policy.refreshed", 5),
        ("policy.improved", 5),
    ];
    let events = events(&scene).await;
    assert_eq!(events.iter().map(|(kind, number)| (kind.as_str(), *number)).collect::<Vec<_>>(), expected);
    let stalled: Value = sqlx::query_scalar("select detail from events where kind = 'policy.stalled'")
        .fetch_one(&scene.app.state.pool)
        .await
        .unwrap();
    assert_eq!((&stalled["select_loss"], &stalled["without_improvement"]), (&json!(0.92), &json!(2)));
}

#[sqlx::test]
async fn where_losses_of_samples_are_told_the_luck_of_the_samples_improves_nothing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    set(&scene, json!({})).await;
    let mut told = Vec::new();
    // Lower on average by one lucky sample, then by every one of them.
    for (step, losses) in [(40, [1.0, 1.0, 1.0, 1.0]), (50, [0.2, 1.1, 1.1, 1.1]), (60, [0.9, 0.8, 0.9, 0.8])] {
        push(&scene, [step, step + 1]).await;
        round(&scene).await;
        compute(&scene, &losses, true).await;
        round(&scene).await;
        told.push(refreshes(&scene).await.pop().unwrap());
    }
    let states: Vec<_> = told.iter().map(|refresh| refresh.state).collect();
    assert_eq!(states, [RefreshState::Improved, RefreshState::NotImproved, RefreshState::Improved]);
    let [low, high] = told[1].interval.unwrap();
    assert!(told[1].difference.unwrap() < 0.0 && low < 0.0 && high > 0.0, "{:?}", told[1]);
    assert!(told[2].interval.unwrap()[1] < 0.0, "{:?}", told[2]);
    assert_eq!(scene.app.count("select_losses").await, 1, "those of the best are kept");

    // Losses of jobs that are no policy's are not kept; nonsense is refused.
    scene.submit().await;
    let lease = scene.claim().await;
    let digest = scene.upload(&lease, checkpoint(77.0)).await.digest_blake3;
    let mut body = found(&digest, 3, &[0.5, 0.5], true);
    body["select_losses"]["weights"] = json!([1]);
    let problem = scene.finish(&lease, body).await.problem(422, "invalid_field");
    assert_eq!(problem.errors[0].field, "select_losses.weights");
    scene.finish(&lease, found(&digest, 3, &[0.5, 0.5], true)).await.json::<Job>(200);
    assert_eq!(scene.app.count("select_losses").await, 1);
}

#[sqlx::test]
async fn what_was_selected_on_other_data_is_not_compared(pool: PgPool) {
    let scene = Scene::new(pool).await;
    set(&scene, json!({})).await;
    refresh(&scene, 40, 0.5).await;
    let mut job = rules()["job"].clone();
    job["seed"] = json!(7);
    set(&scene, json!({"job": job})).await;
    let second = refresh(&scene, 50, 0.9).await;
    assert_eq!((second.state, second.compared_with), (RefreshState::Improved, None), "another seed splits otherwise");
    let third = refresh(&scene, 60, 0.95).await;
    assert_eq!((third.state, third.compared_with), (RefreshState::NotImproved, Some(2)));
}

#[sqlx::test]
async fn a_refresh_that_fails_is_told_and_the_next_one_goes_on_from_the_last_result(pool: PgPool) {
    let scene = Scene::new(pool).await;
    set(&scene, json!({"patience": 1})).await;
    let first = refresh(&scene, 40, 0.5).await;
    push(&scene, [50, 51]).await;
    round(&scene).await;
    let lease = scene.claim().await;
    scene.fail(&lease, "invalid_input", false).await.json::<Job>(200);
    round(&scene).await;
    let failed = refreshes(&scene).await.pop().unwrap();
    let error = failed.error.as_ref().unwrap();
    assert_eq!((failed.state, error.code.as_str()), (RefreshState::Failed, "invalid_input"));

    // More weights than there are candidates: no set, no job, but a refresh that tells why.
    let mut job = rules()["job"].clone();
    job["method"] = json!({"kind": "fixed", "weights": vec![1.0; 16]});
    set(&scene, json!({"job": job, "window": {"last": 16}})).await;
    push(&scene, [60, 61]).await;
    let sets = scene.app.count("candidate_sets").await;
    round(&scene).await;
    round(&scene).await;
    let refused = refreshes(&scene).await.pop().unwrap();
    let error = refused.error.as_ref().unwrap();
    assert_eq!((refused.number, refused.state, refused.job_id), (3, RefreshState::Failed, None));
    assert_eq!(error.code, "invalid_field");
    assert!(error.message.contains("method.weights: 16 weights do not fit 9 candidates"), "{}", error.message);
    assert_eq!(scene.app.count("candidate_sets").await, sets);

    set(&scene, json!({})).await;
    let last = refresh(&scene, 71, 0.4).await;
    assert_eq!(
        (last.state, last.started_from),
        (RefreshState::Improved, None),
        "its window shares nothing with the first"
    );
    assert_eq!(last.compared_with, Some(first.number));
    let failures: Vec<_> =
        events(&scene).await.into_iter().filter(|(kind, _)| kind == "policy.refresh_failed").collect();
    assert_eq!(failures.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(policy(&scene).await.without_improvement, 0, "a failure is no refresh without improvement");
}

#[sqlx::test]
async fn a_policy_that_is_removed_moves_nothing_and_one_that_is_disabled_begins_nothing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    set(&scene, json!({"enabled": false})).await;
    push(&scene, [40, 50]).await;
    round(&scene).await;
    assert!(refreshes(&scene).await.is_empty());
    set(&scene, json!({})).await;
    round(&scene).await;
    assert_eq!(refreshes(&scene).await[0].new_checkpoints, 2, "they were counted");
    assert_eq!(scene.app.delete(POLICY).await.status, 204);
    compute(&scene, &[0.5], false).await;
    round(&scene).await;
    let [abandoned] = refreshes(&scene).await.try_into().unwrap();
    assert_eq!((abandoned.state, abandoned.select_loss), (RefreshState::Abandoned, None));
    assert_eq!((alias(&scene).await, events(&scene).await), (None, Vec::new()));
    set(&scene, json!({})).await;
    assert_eq!(refresh(&scene, 60, 0.5).await.number, 2, "numbers go on");
}

#[sqlx::test]
async fn what_a_policy_needs_is_not_deleted_and_its_run_takes_it_along(pool: PgPool) {
    let scene = Scene::new(pool).await;
    set(&scene, json!({})).await;
    let first = refresh(&scene, 40, 0.5).await;
    let second = refresh(&scene, 50, 0.6).await;
    let artifact = |refresh: &PolicyRefresh| format!("/v1/artifacts/{}", refresh.artifact_id.unwrap());
    let job = |refresh: &PolicyRefresh| format!("/v1/jobs/{}", refresh.job_id.unwrap());
    scene.app.delete(&artifact(&first)).await.problem(409, "in_use");
    scene.app.delete(&artifact(&second)).await.json::<Value>(200);
    let problem = scene.app.delete(&job(&second)).await.problem(409, "in_use");
    assert!(problem.detail.contains("policy"), "{}", problem.detail);
    refresh(&scene, 60, 0.7).await;
    scene.app.delete(&job(&second)).await.json::<Value>(200);

    scene.app.delete("/v1/runs/demo").await.json::<Value>(200);
    round(&scene).await;
    scene.app.clock.advance(std::time::Duration::from_secs(3601));
    barycenter::app::gc::collect(&scene.app.state).await.unwrap();
    for table in ["runs", "policies", "policy_refreshes", "select_losses"] {
        assert_eq!(scene.app.count(table).await, 0, "{table}");
    }
    scene.app.assert_no_orphans().await;
}

/// Checkpoints come and jobs end while two servers look at the policy, in an order that differs from round to round.
#[sqlx::test]
async fn two_servers_begin_every_refresh_once_and_every_checkpoint_counts_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    set(&scene, json!({"window": {"last": 4}})).await;
    let (first, second) = (scene.app.state.clone(), scene.app.state.clone());
    let mut pushed = 0;
    for turn in 0..12_i64 {
        let count = turn % 4;
        let steps = (0..count).map(|place| 100 + 10 * turn + place);
        let pushes = futures::future::join_all(steps.map(|step| push(&scene, [step])));
        let ends = async {
            let answer = scene.try_claim().await;
            if answer.status == 201 {
                let lease: Lease = answer.json(201);
                let digest = scene.upload(&lease, checkpoint(turn as f32)).await.digest_blake3;
                let loss = [1.0 - turn as f64 / 100.0];
                let body = found(&digest, lease.candidates.len(), &loss, false);
                scene.finish(&lease, body).await.json::<Job>(200);
            }
        };
        let (_, a, b, ()) = tokio::join!(pushes, policies::round(&first), policies::round(&second), ends);
        a.unwrap();
        b.unwrap();
        pushed += count as u64;
    }
    // What is on its way ends.
    for _ in 0..3 {
        round(&scene).await;
        if scene.try_claim().await.status == 201 {
            break;
        }
    }
    let refreshes = refreshes(&scene).await;
    assert!(refreshes.len() >= 4, "{refreshes:?}");
    let numbers: Vec<u32> = refreshes.iter().map(|refresh| refresh.number).collect();
    assert_eq!(numbers, (1..=refreshes.len() as u32).collect::<Vec<_>>());
    assert!(refreshes.iter().all(|refresh| refresh.new_checkpoints >= 2), "{refreshes:?}");
    let counted: u64 = refreshes.iter().map(|refresh| refresh.new_checkpoints).sum();
    assert_eq!(counted + policy(&scene).await.new_checkpoints, pushed);
    assert!(refreshes.iter().filter(|refresh| refresh.state == RefreshState::Running).count() <= 1);
    let sets: Vec<_> = refreshes.iter().map(|refresh| refresh.candidate_set_id.unwrap()).collect();
    assert_eq!(scene.app.count("candidate_sets").await as usize, sets.len() + 1, "and the one of the scene");
    assert_eq!(scene.app.count("jobs").await as usize, refreshes.len());
    let ended =
        refreshes.iter().filter(|refresh| refresh.finished_at.is_some()).map(|refresh| i64::from(refresh.number));
    let told =
        events(&scene).await.into_iter().filter(|(kind, _)| kind == "policy.refreshed").map(|(_, number)| number);
    assert_eq!(told.collect::<Vec<_>>(), ended.collect::<Vec<_>>());
}

/// What the jobs of these refreshes extend, oldest first.
async fn extended(scene: &Scene) -> Vec<Option<Extends>> {
    let mut all = Vec::new();
    for refresh in refreshes(scene).await {
        let job: Job = scene.app.get(&format!("/v1/jobs/{}", refresh.job_id.unwrap())).await.json(200);
        let MethodSpec::Twa(twa) = job.spec.method else { panic!("{job:?}") };
        all.push(twa.extends);
    }
    all
}

#[sqlx::test]
async fn each_refresh_extends_the_projection_of_the_last_one_that_has_a_result(pool: PgPool) {
    let scene = Scene::new(pool).await;
    set(&scene, json!({})).await;
    let first = refresh(&scene, 31, 0.5).await.job_id.unwrap();
    refresh(&scene, 33, 0.4).await;
    push(&scene, [35, 36]).await;
    round(&scene).await;
    let lease = scene.claim().await;
    scene.fail(&lease, "invalid_input", false).await.json::<Job>(200);
    round(&scene).await;
    let last = refreshes(&scene).await[1].job_id.unwrap();
    refresh(&scene, 37, 0.3).await;
    // All three candidates of the window are new since the last result: nothing is left to extend.
    let expected = [None, Some(Extends::Job(first)), Some(Extends::Job(last)), None];
    assert_eq!(extended(&scene).await, expected);
}

#[sqlx::test]
async fn a_policy_extends_nothing_where_it_says_so_or_its_projections_differ(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = |method: Value| {
        let mut job = rules()["job"].clone();
        job["method"] = method;
        json!({ "job": job })
    };
    set(&scene, job(json!({"kind": "twa", "extends": "nothing"}))).await;
    refresh(&scene, 31, 0.5).await;
    refresh(&scene, 33, 0.4).await;
    set(&scene, job(json!({"kind": "twa", "bits": 8}))).await;
    let built = refresh(&scene, 35, 0.3).await.job_id.unwrap();
    refresh(&scene, 37, 0.2).await;
    let nothing = Some(Extends::Nothing);
    assert_eq!(extended(&scene).await, [nothing, nothing, None, Some(Extends::Job(built))]);
    let own = job(json!({"kind": "twa", "extends": built}));
    let problem = scene.app.put_json(POLICY, rules_with(&own)).await.problem(422, "invalid_field");
    assert_eq!(problem.errors[0].field, "job.method.extends");
}
