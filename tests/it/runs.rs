//! Runs.

use barycenter_api::{Page, Run};
use serde_json::json;
use sqlx::PgPool;

use crate::harness::{TestApp, files};

#[sqlx::test]
async fn a_run_is_found_by_id_and_by_name(pool: PgPool) {
    let app = TestApp::new(pool);
    let body = json!({ "name": "resnet20", "description": "a test", "metadata": { "lr": 0.1 } });
    let created = app.post("/v1/runs", body).await;
    let run: Run = created.json(201);
    assert_eq!(created.header("location"), format!("/v1/runs/{}", run.run_id));
    assert_eq!((run.name.as_str(), run.checkpoint_count), ("resnet20", 0));
    app.push("resnet20", 1, "", files::checkpoint(1)).await;
    for path in [format!("/v1/runs/{}", run.run_id), "/v1/runs/resnet20".to_owned()] {
        let found: Run = app.get(&path).await.json(200);
        assert_eq!((found.run_id, found.checkpoint_count), (run.run_id, 1));
        assert_eq!(found.metadata["lr"], 0.1);
    }
}

#[sqlx::test]
async fn a_bad_run_is_refused_by_its_field(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("taken").await;
    let long = "x".repeat(70_000);
    for (body, code, field) in [
        (json!({ "name": "a/b" }), "invalid_field", "name"),
        (json!({ "name": "" }), "invalid_field", "name"),
        (json!({ "name": "0190f3a8-0000-7000-8000-000000000001" }), "invalid_field", "name"),
        (json!({ "name": "a", "description": "nul\0" }), "invalid_field", "description"),
        (json!({ "name": "a", "metadata": { "x": [{ "y\0": 1 }] } }), "invalid_field", "metadata"),
        (json!({ "name": "a", "metadata": { "x": long } }), "invalid_field", "metadata"),
    ] {
        let problem = app.post("/v1/runs", body).await.problem(422, code);
        assert_eq!(problem.errors[0].field, field, "{problem:?}");
    }
    let problem = app.post("/v1/runs", json!({ "name": "taken" })).await.problem(409, "name_taken");
    assert!(problem.detail.contains("taken"));
    assert_eq!(app.count("runs").await, 1);
}

#[sqlx::test]
async fn pages_follow_each_other_to_the_end(pool: PgPool) {
    let app = TestApp::new(pool);
    for index in 0..5 {
        app.create_run(&format!("run-{index}")).await;
    }
    let mut names = Vec::new();
    let mut path = "/v1/runs?page_size=2".to_owned();
    loop {
        let page: Page<Run> = app.get(&path).await.json(200);
        names.extend(page.items.into_iter().map(|run| run.name));
        let Some(token) = page.next_page_token else { break };
        path = format!("/v1/runs?page_size=2&page_token={token}");
    }
    assert_eq!(names, ["run-4", "run-3", "run-2", "run-1", "run-0"]);
}

#[sqlx::test]
async fn bad_references_and_queries_are_problems(pool: PgPool) {
    let app = TestApp::new(pool);
    for path in ["/v1/runs/absent", "/v1/runs/0190f3a8-0000-7000-8000-000000000001", "/v1/runs/a%00b"] {
        app.get(path).await.problem(404, "run_not_found");
    }
    app.get("/v1/runs/%ff").await.problem(400, "invalid_id");
    for path in ["/v1/runs?page_size=0", "/v1/runs?page_size=x", "/v1/runs?page_token=x", "/v1/runs?page=2"] {
        app.get(path).await.problem(400, "invalid_query");
    }
    for path in ["/v1/checkpoints/nine", "/v1/candidate_sets/nine", "/v1/checkpoints/nine/content"] {
        let problem = app.get(path).await.problem(400, "invalid_id");
        assert!(problem.detail.contains("`nine`"), "{problem:?}");
    }
    let absent = "0190f3a8-0000-7000-8000-000000000001";
    app.get(&format!("/v1/checkpoints/{absent}")).await.problem(404, "checkpoint_not_found");
    app.get(&format!("/v1/candidate_sets/{absent}")).await.problem(404, "candidate_set_not_found");
    app.get("/v1/datasets/absent").await.problem(404, "dataset_not_found");
}
