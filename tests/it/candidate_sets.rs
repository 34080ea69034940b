//! Candidate sets.

use barycenter_api::{CandidateSet, Page};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::harness::{
    TestApp,
    files::{checkpoint, large_checkpoint},
};

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
        (json!({ "kind": "last", "count": 2, "among": { "from": 3, "to": 2 } }), "invalid_field", "rule.among.to"),
        (json!({ "kind": "last", "count": 2, "among": { "every": 0 } }), "invalid_field", "rule.among.every"),
        (
            json!({ "kind": "last", "count": 2, "among": { "tags": ["x", "a b"] } }),
            "invalid_field",
            "rule.among.tags[1]",
        ),
        (json!({ "kind": "last", "count": 2, "among": { "where": "loss" } }), "invalid_field", "rule.among.where"),
        (
            json!({ "kind": "last", "count": 2, "among": { "exclude": ["10", "11"] } }),
            "invalid_candidates",
            "rule.among.exclude[1]",
        ),
        (json!({ "kind": "last", "count": 4, "among": { "from": 40 } }), "invalid_candidates", "rule"),
        (json!({ "kind": "explicit", "checkpoints": ["10", "11"] }), "invalid_candidates", "rule.checkpoints[1]"),
        (
            json!({ "kind": "explicit", "checkpoints": ["10", "60", "latest"] }),
            "invalid_candidates",
            "rule.checkpoints[2]",
        ),
        (json!({ "kind": "explicit", "checkpoints": ["10", "absent:1"] }), "invalid_candidates", "rule.checkpoints[1]"),
        (
            json!({ "kind": "explicit", "checkpoint_ids": [ids[0], ids[1]], "checkpoints": ["10", "20"] }),
            "invalid_field",
            "rule.checkpoints",
        ),
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

async fn create(app: &TestApp, body: Value) -> CandidateSet {
    app.post("/v1/runs/run/candidate_sets", body).await.json(201)
}

fn steps_of(set: &CandidateSet) -> Vec<i64> {
    set.members.iter().map(|member| member.step).collect()
}

#[sqlx::test]
async fn a_rule_chooses_among_what_passes_its_filters(pool: PgPool) {
    let (app, ids) = run_of_six(pool).await;
    app.patch(&format!("/v1/checkpoints/{}", ids[1]), json!({ "tags": ["warm"] })).await.json::<Value>(200);
    app.patch(&format!("/v1/checkpoints/{}", ids[4]), json!({ "tags": ["warm"] })).await.json::<Value>(200);
    app.put_json("/v1/runs/run/aliases/bad", json!({ "checkpoint": "60" })).await.json::<Value>(200);
    let last = |among: Value| json!({ "kind": "last", "count": 2, "among": among });
    for (rule, expected) in [
        (last(json!({ "to": 50 })), vec![40, 50]),
        (last(json!({ "from": 20, "to": 50, "exclude": ["40"] })), vec![30, 50]),
        (last(json!({ "tags": ["warm"] })), vec![20, 50]),
        (last(json!({ "where": "val_loss<0.3" })), vec![20, 60]),
        (last(json!({ "every": 2 })), vec![30, 50]),
        (last(json!({ "exclude": ["bad", ids[4], "40"] })), vec![20, 30]),
        (json!({ "kind": "steps" }), vec![10, 20, 30, 40, 50, 60]),
        (json!({ "kind": "steps", "every": 2, "among": { "exclude": ["10"] } }), vec![20, 40, 60]),
        (
            json!({ "kind": "best", "count": 2, "metric": "val_loss", "direction": "max", "among": { "to": 40 } }),
            vec![20, 30],
        ),
        (json!({ "kind": "explicit", "checkpoints": ["bad", "10", ids[2]] }), vec![60, 10, 30]),
    ] {
        assert_eq!(steps(&app, rule.clone()).await, expected, "{rule}");
    }
}

#[sqlx::test]
async fn the_rule_is_kept_as_it_was_given(pool: PgPool) {
    let (app, _) = run_of_six(pool).await;
    let rule = json!({ "kind": "best", "count": 2, "metric": "val_loss", "direction": "min",
        "among": { "from": 20, "every": 1, "where": "val_loss<1", "exclude": ["30"] } });
    let set = create(&app, json!({ "rule": rule })).await;
    assert_eq!(json!(set.rule), rule);
    let shown: Value = app.get(&format!("/v1/candidate_sets/{}", set.candidate_set_id)).await.json(200);
    assert_eq!(shown["rule"], rule);
}

#[sqlx::test]
async fn too_few_with_a_metric_are_refused_by_what_lacks_it(pool: PgPool) {
    let (app, _) = run_of_six(pool).await;
    let rule = json!({ "kind": "best", "count": 6, "metric": "val_loss", "direction": "min" });
    let problem =
        app.post("/v1/runs/run/candidate_sets", json!({ "rule": rule })).await.problem(422, "invalid_candidates");
    assert!(problem.detail.contains("5 such checkpoints report the metric `val_loss`"), "{problem:?}");
    assert!(problem.detail.contains("steps 40"), "{problem:?}");
    let rule = json!({ "kind": "best", "count": 2, "metric": "loss", "direction": "min" });
    let problem =
        app.post("/v1/runs/run/candidate_sets", json!({ "rule": rule })).await.problem(422, "invalid_candidates");
    assert!(problem.detail.ends_with("report `val_loss`"), "{problem:?}");
}

#[sqlx::test]
async fn the_same_name_again_is_the_next_version(pool: PgPool) {
    let (app, _) = run_of_six(pool).await;
    let body = |name: &str, count: u32| json!({ "name": name, "rule": { "kind": "last", "count": count } });
    let first = create(&app, body("tail", 2)).await;
    let other = create(&app, body("head", 2)).await;
    app.push("run", 70, "", checkpoint(70)).await;
    let second = create(&app, body("tail", 2)).await;
    let unnamed = create(&app, json!({ "rule": { "kind": "last", "count": 2 } })).await;
    assert_eq!([first.version, other.version, second.version, unnamed.version], [1, 1, 2, 1]);
    assert_eq!((steps_of(&first), steps_of(&second)), (vec![50, 60], vec![60, 70]));
    let page: Page<CandidateSet> = app.get("/v1/runs/run/candidate_sets?name=tail").await.json(200);
    assert_eq!(page.items.iter().map(|set| set.version).collect::<Vec<_>>(), [2, 1]);
    let together = (0..6).map(|_| app.post("/v1/runs/run/candidate_sets", body("tail", 3)));
    let mut versions: Vec<u32> = futures::future::join_all(together)
        .await
        .iter()
        .map(|response| response.json::<CandidateSet>(201).version)
        .collect();
    versions.sort_unstable();
    assert_eq!(versions, [3, 4, 5, 6, 7, 8]);
    let long = "x".repeat(101);
    for name in ["", &long, "nul\0"] {
        let problem = app.post("/v1/runs/run/candidate_sets", body(name, 2)).await.problem(422, "invalid_field");
        assert_eq!(problem.errors[0].field, "name");
    }
}

#[sqlx::test]
async fn a_set_spans_runs_of_one_layout(pool: PgPool) {
    let (app, _) = run_of_six(pool).await;
    let other = app.create_run("other").await;
    for (step, loss) in [(30, "0.05"), (65, "0.8")] {
        app.push("other", step, &format!("?metrics=val_loss:{loss}"), checkpoint(100 + step as u32)).await;
    }
    let best = json!({ "kind": "best", "count": 3, "metric": "val_loss", "direction": "min" });
    let set = create(&app, json!({ "rule": best, "other_runs": ["other"] })).await;
    assert_eq!(steps_of(&set), [10, 30, 60]);
    assert_eq!(set.members[1].run_id, other.run_id);
    assert_eq!(set.other_run_ids, [other.run_id]);
    let last = json!({ "kind": "last", "count": 3, "among": { "exclude": ["other:65", "60"] } });
    assert_eq!(steps_of(&create(&app, json!({ "rule": last, "other_runs": ["other"] })).await), [30, 40, 50]);
    let named = json!({ "kind": "explicit", "checkpoints": ["other:latest", "10", "other:30"] });
    assert_eq!(steps_of(&create(&app, json!({ "rule": named, "other_runs": ["other"] })).await), [65, 10, 30]);
    app.create_run("empty").await;
    for (runs, field) in [(json!(["absent"]), "other_runs[0]"), (json!(["empty", "run"]), "other_runs[1]")] {
        let body = json!({ "rule": best, "other_runs": runs });
        let problem = app.post("/v1/runs/run/candidate_sets", body).await.problem(422, "invalid_field");
        assert_eq!(problem.errors[0].field, field);
    }
}

#[sqlx::test]
async fn runs_of_two_layouts_make_no_set(pool: PgPool) {
    let (app, _) = run_of_six(pool).await;
    app.create_run("other").await;
    app.push("other", 70, "", large_checkpoint(64)).await;
    let body = json!({ "rule": { "kind": "last", "count": 2 }, "other_runs": ["other"] });
    let problem = app.post("/v1/runs/run/candidate_sets", body).await.problem(422, "layout_differs");
    assert!(problem.detail.contains("step 60"), "{problem:?}");
    assert_eq!(app.count("candidate_sets").await, 0);
}

#[sqlx::test]
async fn a_diff_tells_what_changed(pool: PgPool) {
    let (app, ids) = run_of_six(pool).await;
    let explicit = |order: &[usize]| {
        let ids: Vec<Uuid> = order.iter().map(|index| ids[*index]).collect();
        json!({ "rule": { "kind": "explicit", "checkpoint_ids": ids } })
    };
    let first = create(&app, explicit(&[0, 1, 2, 3, 4])).await.candidate_set_id;
    let second = create(&app, explicit(&[1, 4, 2, 3, 5])).await.candidate_set_id;
    let diff: Value = app.get(&format!("/v1/candidate_sets/{first}/diff/{second}")).await.json(200);
    insta::assert_json_snapshot!(diff, {
        ".from" => "[first]", ".to" => "[second]", ".**.checkpoint_id" => "[id]", ".**.run_id" => "[run]"
    });
    let absent = "0190f3a8-0000-7000-8000-000000000001";
    app.get(&format!("/v1/candidate_sets/{first}/diff/{absent}")).await.problem(404, "candidate_set_not_found");
    app.get(&format!("/v1/candidate_sets/nine/diff/{absent}")).await.problem(400, "invalid_id");
}

#[sqlx::test]
async fn a_set_reads_as_agreed(pool: PgPool) {
    let (app, _) = run_of_six(pool).await;
    let set =
        create(&app, json!({ "name": "tail", "rule": { "kind": "last", "count": 2, "among": { "to": 50 } } })).await;
    insta::assert_json_snapshot!(set, {
        ".candidate_set_id" => "[id]", ".run_id" => "[run]", ".members[].checkpoint_id" => "[id]",
        ".members[].run_id" => "[run]", ".members[].digest_blake3" => "[digest]", ".layout_blake3" => "[digest]"
    });
}
