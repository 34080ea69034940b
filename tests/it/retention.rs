//! Retention rules of runs.

use std::time::Duration;

use barycenter::app::gc;
use barycenter_api::{CandidateSet, Checkpoint, Page, Retention, RetentionPreview};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{TestApp, files::checkpoint};

const RULES: &str = "/v1/runs/r/retention";

/// Steps 10, 20, … 100; the loss falls to step 50 and rises again. Step 30 has the bytes of step 20.
async fn run_of_ten(pool: PgPool) -> TestApp {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    for step in (10..=100_i64).step_by(10) {
        let bytes = checkpoint(if step == 30 { 20 } else { step as u32 });
        app.push("r", step, &format!("?metrics=loss:{}", (step - 50).abs()), bytes).await;
    }
    app
}

async fn steps(app: &TestApp) -> Vec<i64> {
    let page: Page<Checkpoint> = app.get("/v1/runs/r/checkpoints?sort=step&order=asc").await.json(200);
    page.items.iter().map(|checkpoint| checkpoint.step).collect()
}

fn doomed(preview: &RetentionPreview) -> Vec<i64> {
    preview.checkpoints.iter().map(|checkpoint| checkpoint.step).collect()
}

#[sqlx::test]
async fn a_run_keeps_what_its_rules_say_and_what_is_needed(pool: PgPool) {
    let app = run_of_ten(pool).await;
    assert_eq!(app.get(RULES).await.json::<Option<Retention>>(200), None);
    let rules = json!({ "last": 2, "best": [{ "count": 2, "metric": "loss", "direction": "min" }], "every_steps": 70 });
    app.put_json(RULES, rules.clone()).await.json::<Retention>(200);
    assert_eq!(json!(app.get(RULES).await.json::<Option<Retention>>(200)), rules);
    let pinned: Checkpoint = app.get("/v1/runs/r/checkpoints/10").await.json(200);
    app.put(&format!("/v1/checkpoints/{}/pin", pinned.checkpoint_id), "").await.json::<Checkpoint>(200);
    app.put_json("/v1/runs/r/aliases/best", json!({ "checkpoint": "80" })).await.json::<Value>(200);
    let set = json!({ "rule": { "kind": "explicit", "checkpoints": ["30", "100"] } });
    let set: CandidateSet = app.post("/v1/runs/r/candidate_sets", set).await.json(201);
    // 90 and 100 are last, 50 and 60 best, 70 a multiple, 10 pinned, 80 an alias, 30 in a set.
    let preview: RetentionPreview = app.get(&format!("{RULES}/preview")).await.json(200);
    assert_eq!(doomed(&preview), [20, 40]);
    assert_eq!(preview.freed_bytes, preview.checkpoints[1].size_bytes, "step 30 still needs the bytes of step 20");
    assert_eq!(steps(&app).await.len(), 10, "a preview deletes nothing");
    gc::collect(&app.state).await.unwrap();
    assert_eq!(steps(&app).await, [10, 30, 50, 60, 70, 80, 90, 100]);
    app.clock.advance(Duration::from_secs(3601));
    let collected = gc::collect(&app.state).await.unwrap();
    assert_eq!((collected.checkpoints, collected.bytes), (2, preview.freed_bytes));
    app.assert_no_orphans().await;

    app.delete(&format!("/v1/candidate_sets/{}", set.candidate_set_id)).await.json::<Value>(200);
    let preview: RetentionPreview = app.get(&format!("{RULES}/preview")).await.json(200);
    assert_eq!(doomed(&preview), [30]);
    assert_eq!(preview.freed_bytes, preview.checkpoints[0].size_bytes);
    assert_eq!(app.delete(RULES).await.status, 204);
    gc::collect(&app.state).await.unwrap();
    assert_eq!(steps(&app).await.len(), 8, "without rules everything is kept");
}

#[sqlx::test]
async fn shared_bytes_are_counted_once(pool: PgPool) {
    let app = run_of_ten(pool).await;
    let tried = json!({ "last": 7 });
    let preview: RetentionPreview = app.post(&format!("{RULES}/preview"), tried).await.json(200);
    assert_eq!(doomed(&preview), [10, 20, 30]);
    assert_eq!(preview.freed_bytes, 2 * preview.checkpoints[0].size_bytes);
    assert_eq!(app.get(RULES).await.json::<Option<Retention>>(200), None, "rules that are tried are not set");
    let none: RetentionPreview = app.get(&format!("{RULES}/preview")).await.json(200);
    assert_eq!((none.checkpoints.len(), none.freed_bytes), (0, 0));
}

#[sqlx::test]
async fn what_a_rule_deleted_can_be_undeleted_and_pinned(pool: PgPool) {
    let app = run_of_ten(pool).await;
    let lost: Checkpoint = app.get("/v1/runs/r/checkpoints/10").await.json(200);
    app.put_json(RULES, json!({ "last": 9 })).await.json::<Retention>(200);
    gc::collect(&app.state).await.unwrap();
    let path = format!("/v1/checkpoints/{}", lost.checkpoint_id);
    app.post(&format!("{path}/undelete"), json!({})).await.json::<Checkpoint>(200);
    app.put(&format!("{path}/pin"), "").await.json::<Checkpoint>(200);
    gc::collect(&app.state).await.unwrap();
    assert_eq!(steps(&app).await.len(), 10);
}

#[sqlx::test]
async fn rules_that_make_no_sense_are_refused_by_field(pool: PgPool) {
    let app = run_of_ten(pool).await;
    let best = |count: u32, metric: &str| json!({ "best": [{ "count": count, "metric": metric, "direction": "max" }] });
    for (rules, field) in [
        (json!({}), "last"),
        (json!({ "every_steps": 0 }), "every_steps"),
        (best(0, "loss"), "best[0].count"),
        (best(1, "a b"), "best[0].metric"),
    ] {
        let problem = app.put_json(RULES, rules.clone()).await.problem(422, "invalid_field");
        assert_eq!(problem.errors[0].field, field, "{problem:?}");
        app.post(&format!("{RULES}/preview"), rules).await.problem(422, "invalid_field");
    }
    app.put_json(RULES, json!({ "first": 1 })).await.problem(422, "invalid_field");
    app.put_json("/v1/runs/absent/retention", json!({ "last": 1 })).await.problem(404, "run_not_found");
    app.get("/v1/runs/absent/retention/preview").await.problem(404, "run_not_found");
    assert_eq!(app.get(RULES).await.json::<Option<Retention>>(200), None);
}
