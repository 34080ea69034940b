//! Candidate sets.

use barycenter_api::{CandidateSet, Page};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::harness::{TestApp, files::checkpoint};

/// A run with checkpoints at steps 10, 20, … 60, pushed out of order; step 40 has no metric.
async fn run_of_six(pool: PgPool) -> (TestApp, Vec<Uuid>) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let mut ids = vec![Uuid::nil(); 6];
    for (step, loss) in [(30, "0.3"), (10, "0.1"), (20, "0.2"), (60, "0.2"), (40, ""), (50, "0.9")] {
        let query = if loss.is_empty() { String::new() } else { format!("?metrics=val_loss:{loss}") };
        let pushed = app.push("run", step, &query, checkpoint(step as u32)).await;
        ids[step as usize / 10 - 1] = pushed.checkpoint_id;
    }
    (app, ids)
}

async fn steps(app: &TestApp, rule: Value) -> Vec<i64> {
    let set: CandidateSet = app.post("/v1/runs/run/candidate_sets", json!({ "rule": rule })).await.json(201);
    let again: CandidateSet = app.get(&format!("/v1/candidate_sets/{}", set.candidate_set_id)).await.json(200);
    assert_eq!(again.members, set.members);
    assert_eq!(json!(again.rule)["kind"], rule["kind"]);
    set.members.iter().map(|member| member.step).collect()
}

#[sqlx::test]
async fn rules_choose_members_in_order_of_step(pool: PgPool) {
    let (app, _) = run_of_six(pool).await;
    assert_eq!(steps(&app, json!({ "kind": "last", "count": 3 })).await, [40, 50, 60]);
    let best = |count: u32, direction: &str| json!({ "kind": "best", "count": count, "metric": "val_loss", "direction": direction });
    assert_eq!(steps(&app, best(3, "min")).await, [10, 20, 60]);
    assert_eq!(steps(&app, best(2, "min")).await, [10, 60], "of equals the later is taken");
    assert_eq!(steps(&app, best(2, "max")).await, [30, 50]);
    assert_eq!(steps(&app, json!({ "kind": "steps", "from": 20, "to": 59 })).await, [20, 30, 40, 50]);
    assert_eq!(steps(&app, json!({ "kind": "steps", "from": 20, "to": 60, "every": 2 })).await, [20, 40, 60]);
}

#[sqlx::test]
async fn an_explicit_set_keeps_its_order(pool: PgPool) {
    let (app, ids) = run_of_six(pool).await;
    let rule = json!({ "kind": "explicit", "checkpoint_ids": [ids[4], ids[0], ids[2]] });
    assert_eq!(steps(&app, rule).await, [50, 10, 30]);
}

#[sqlx::test]
async fn a_set_is_frozen(pool: PgPool) {
    let (app, _) = run_of_six(pool).await;
    let body = json!({ "name": "tail", "rule": { "kind": "last", "count": 2 } });
    let set: CandidateSet = app.post("/v1/runs/run/candidate_sets", body).await.json(201);
    app.push("run", 70, "", checkpoint(70)).await;
    let page: Page<CandidateSet> = app.get("/v1/runs/run/candidate_sets").await.json(200);
    assert_eq!(page.items.len(), 1);
    assert_eq!(json!(page.items[0]), json!(set));
    assert_eq!(page.items[0].members.iter().map(|member| member.step).collect::<Vec<_>>(), [50, 60]);
}

#[sqlx::test]
async fn a_rule_that_chooses_no_usable_set_is_refused_by_field(pool: PgPool) {
    let (app, ids) = run_of_six(pool).await;
    app.create_run("other").await;
    let foreign = app.push("other", 1, "", checkpoint(99)).await.checkpoint_id;
    let best =
        |count: u32, metric: &str| json!({ "kind": "best", "count": count, "metric": metric, "direction": "min" });
    for (rule, code, field) in [
        (json!({ "kind": "last", "count": 1 }), "invalid_field", "rule.count"),
        (json!({ "kind": "last", "count": 1025 }), "invalid_field", "rule.count"),
        (json!({ "kind": "last", "count": 7 }), "invalid_candidates", "rule"),
        (best(6, "val_loss"), "invalid_candidates", "rule"),
        (best(2, "absent"), "invalid_candidates", "rule"),
        (best(2, "a b"), "invalid_field", "rule.metric"),
        (json!({ "kind": "steps", "from": 9, "to": 1 }), "invalid_field", "rule.to"),
        (json!({ "kind": "steps", "from": 1, "to": 9, "every": 0 }), "invalid_field", "rule.every"),
        (json!({ "kind": "steps", "from": 1, "to": 10 }), "invalid_candidates", "rule"),
        (json!({ "kind": "explicit", "checkpoint_ids": [ids[0]] }), "invalid_field", "rule.checkpoint_ids"),
        (
            json!({ "kind": "explicit", "checkpoint_ids": [ids[0], ids[0]] }),
            "invalid_candidates",
            "rule.checkpoint_ids[1]",
        ),
        (
            json!({ "kind": "explicit", "checkpoint_ids": [ids[0], foreign] }),
            "invalid_candidates",
            "rule.checkpoint_ids[1]",
        ),
    ] {
        let problem = app.post("/v1/runs/run/candidate_sets", json!({ "rule": rule })).await.problem(422, code);
        assert_eq!(problem.errors[0].field, field, "{problem:?}");
    }
    for rule in
        [json!({ "kind": "newest" }), json!({ "kind": "last", "count": 2, "extra": 1 }), json!({ "kind": "last" })]
    {
        app.post("/v1/runs/run/candidate_sets", json!({ "rule": rule })).await.problem(422, "invalid_field");
    }
    assert_eq!(app.count("candidate_sets").await, 0);
}

#[sqlx::test]
async fn members_of_two_layouts_are_refused_by_tensor(pool: PgPool) {
    let (app, ids) = run_of_six(pool).await;
    // Uploads refuse a second layout; a run written by an older version could still hold one.
    let other = json!([{ "name": "0.bias", "dtype": "F16", "shape": [3] }, { "name": "0.weight", "dtype": "F32", "shape": [3, 2] }]);
    sqlx::query("insert into layouts values ('other', $1, now())").bind(other).execute(&app.state.pool).await.unwrap();
    sqlx::query("update checkpoints set layout_blake3 = 'other' where checkpoint_id = $1")
        .bind(ids[5])
        .execute(&app.state.pool)
        .await
        .unwrap();
    let body = json!({ "rule": { "kind": "last", "count": 2 } });
    let problem = app.post("/v1/runs/run/candidate_sets", body).await.problem(422, "layout_differs");
    assert_eq!(problem.errors[0].field, "0.bias");
    assert!(problem.detail.contains("F16") && problem.detail.contains("step 60"), "{problem:?}");
}
