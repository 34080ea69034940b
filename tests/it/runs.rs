//! Runs.

use axum::{
    body::Body,
    http::{Method, Request},
};
use barycenter_api::{Page, Run};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{TestApp, files, json_request};

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

/// A change with a condition.
fn conditional(method: Method, path: &str, (name, value): (&'static str, &str), body: &Value) -> Request<Body> {
    let mut request = json_request(method, path, body);
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

#[sqlx::test]
async fn an_edit_merges_metadata_and_replaces_the_description(pool: PgPool) {
    let app = TestApp::new(pool);
    let body = json!({ "name": "r", "description": "first", "metadata": { "lr": 0.1, "data": { "a": 1, "b": 2 } } });
    app.post("/v1/runs", body).await.json::<Run>(201);
    let edited = app.patch("/v1/runs/r", json!({ "metadata": { "lr": null, "data": { "b": 3 } } })).await;
    let run: Run = edited.json(200);
    assert_eq!(json!(run.metadata), json!({ "data": { "a": 1, "b": 3 } }));
    assert_eq!((run.description.as_deref(), run.revision), (Some("first"), 2));
    assert_eq!(edited.header("etag"), "\"2\"");
    let run: Run = app.patch("/v1/runs/r", json!({ "description": null })).await.json(200);
    assert_eq!((run.description, run.revision), (None, 3));
    let found = app.get("/v1/runs/r").await;
    assert_eq!(found.header("etag"), "\"3\"");
    assert_eq!(json!(found.json::<Run>(200).metadata), json!({ "data": { "a": 1, "b": 3 } }));
}

#[sqlx::test]
async fn an_edit_of_a_version_that_is_gone_changes_nothing(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    let edit = |tag: &str, text: &str| {
        conditional(Method::PATCH, "/v1/runs/r", ("if-match", tag), &json!({ "description": text }))
    };
    app.send(edit("\"1\"", "first")).await.json::<Run>(200);
    app.send(edit("\"1\"", "second")).await.problem(412, "precondition_failed");
    app.send(edit("W/\"2\"", "weak")).await.problem(412, "precondition_failed");
    app.send(edit("2", "bare")).await.problem(400, "bad_request");
    assert_eq!(app.get("/v1/runs/r").await.json::<Run>(200).description.unwrap(), "first");
    app.send(edit("*", "third")).await.json::<Run>(200);
}

#[sqlx::test]
async fn a_bad_edit_is_refused_by_its_field(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    let long = "x".repeat(70_000);
    for (body, field) in [
        (json!({ "description": "nul\0" }), "description"),
        (json!({ "metadata": { "x": "nul\0" } }), "metadata"),
        (json!({ "metadata": { "x": long } }), "metadata"),
    ] {
        let problem = app.patch("/v1/runs/r", body).await.problem(422, "invalid_field");
        assert_eq!(problem.errors[0].field, field, "{problem:?}");
    }
    app.patch("/v1/runs/r", json!({ "name": "s" })).await.problem(422, "invalid_field");
    app.patch("/v1/runs/absent", json!({})).await.problem(404, "run_not_found");
    assert_eq!(app.get("/v1/runs/r").await.json::<Run>(200).revision, 1);
}

#[sqlx::test]
async fn two_edits_at_once_both_count(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    let edits = (0..8).map(|i| app.patch("/v1/runs/r", json!({ "metadata": { format!("k{i}"): i } })));
    for edited in futures::future::join_all(edits).await {
        edited.json::<Run>(200);
    }
    let run: Run = app.get("/v1/runs/r").await.json(200);
    assert_eq!((run.metadata.len(), run.revision), (8, 9));
}
