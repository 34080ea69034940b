//! Aliases of runs.

use axum::{body::Body, http::Method};
use barycenter_api::{Alias, Checkpoint};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    harness::{TestApp, files::checkpoint, json_request},
    scene::Scene,
};

const BEST: &str = "/v1/runs/r/aliases/best";

async fn run_of_three(pool: PgPool) -> (TestApp, Vec<Checkpoint>) {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    let mut pushed = Vec::new();
    for step in [20, 10, 15] {
        pushed.push(app.push("r", step, "", checkpoint(step as u32)).await);
    }
    pushed.sort_by_key(|checkpoint| checkpoint.step);
    (app, pushed)
}

async fn named(app: &TestApp, name: &str) -> Checkpoint {
    app.get(&format!("/v1/runs/r/checkpoints/{name}")).await.json(200)
}

fn conditional(method: Method, (name, value): (&'static str, &str), body: &Value) -> axum::http::Request<Body> {
    let mut request = json_request(method, BEST, body);
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

#[sqlx::test]
async fn latest_is_the_highest_step_and_moves_by_itself(pool: PgPool) {
    let (app, pushed) = run_of_three(pool).await;
    assert_eq!(named(&app, "latest").await.step, 20);
    app.push("r", 12, "", checkpoint(12)).await;
    assert_eq!(named(&app, "latest").await.step, 20, "a checkpoint that arrives late is not the latest");
    let newest = app.push("r", 30, "", checkpoint(30)).await;
    let alias = app.get("/v1/runs/r/aliases/latest").await;
    assert_eq!(alias.header("etag"), format!("\"{}\"", newest.checkpoint_id));
    assert_eq!(alias.json::<Alias>(200).checkpoint_id, Some(newest.checkpoint_id));
    app.create_run("empty").await;
    app.get("/v1/runs/empty/aliases/latest").await.problem(404, "alias_not_found");
    app.get("/v1/runs/empty/checkpoints/latest").await.problem(404, "checkpoint_not_found");
    let refused = app.put_json("/v1/runs/r/aliases/latest", json!({ "checkpoint": "10" })).await;
    assert_eq!(refused.problem(422, "invalid_field").errors[0].field, "alias");
    app.delete("/v1/runs/r/aliases/latest").await.problem(422, "invalid_field");
    assert_eq!(pushed.len(), 3);
}

#[sqlx::test]
async fn an_alias_names_a_checkpoint_by_step_id_or_alias(pool: PgPool) {
    let (app, pushed) = run_of_three(pool).await;
    let id = pushed[1].checkpoint_id.to_string();
    for (name, step) in [("10", 10), (id.as_str(), 15), ("latest", 20)] {
        let alias: Alias = app.put_json(BEST, json!({ "checkpoint": name })).await.json(200);
        assert_eq!(alias.alias, "best");
        assert_eq!(named(&app, "best").await.step, step);
    }
    app.put_json("/v1/runs/r/aliases/prod-1", json!({ "checkpoint": "best" })).await.json::<Alias>(200);
    let all: Vec<Alias> = app.get("/v1/runs/r/aliases").await.json(200);
    assert_eq!(all.iter().map(|alias| alias.alias.as_str()).collect::<Vec<_>>(), ["latest", "best", "prod-1"]);
    app.delete(BEST).await;
    app.get(BEST).await.problem(404, "alias_not_found");
    assert_eq!(named(&app, "prod-1").await.step, 20, "an alias names a checkpoint, not another alias");
    assert_eq!(app.count("checkpoints").await, 3);
}

#[sqlx::test]
async fn an_alias_moves_only_from_the_version_that_was_seen(pool: PgPool) {
    let (app, _) = run_of_three(pool).await;
    let to = |name: &str| json!({ "checkpoint": name });
    let set = app.send(conditional(Method::PUT, ("if-none-match", "*"), &to("10"))).await;
    let first = set.header("etag").to_owned();
    set.json::<Alias>(200);
    app.send(conditional(Method::PUT, ("if-none-match", "*"), &to("15"))).await.problem(412, "precondition_failed");
    let moved = app.send(conditional(Method::PUT, ("if-match", &first), &to("15"))).await;
    let second = moved.header("etag").to_owned();
    assert_ne!(first, second);
    app.send(conditional(Method::PUT, ("if-match", &first), &to("20"))).await.problem(412, "precondition_failed");
    app.send(conditional(Method::DELETE, ("if-match", &first), &json!({}))).await.problem(412, "precondition_failed");
    assert_eq!(named(&app, "best").await.step, 15);
    let unmoved = app.put_json(BEST, to("15")).await;
    assert_eq!(unmoved.header("etag"), second, "setting it to what it names is no move");
    assert_eq!(app.send(conditional(Method::DELETE, ("if-match", &second), &json!({}))).await.status, 204);
    app.send(conditional(Method::PUT, ("if-match", &second), &to("20"))).await.problem(412, "precondition_failed");
    app.delete(BEST).await.problem(404, "alias_not_found");
}

#[sqlx::test]
async fn a_bad_alias_is_refused_by_its_field(pool: PgPool) {
    let (app, _) = run_of_three(pool).await;
    app.create_run("other").await;
    let foreign = app.push("other", 1, "", checkpoint(99)).await.checkpoint_id;
    let absent = "0190f3a8-0000-7000-8000-000000000001";
    for (alias, body, field) in [
        ("12", json!({ "checkpoint": "10" }), "alias"),
        (absent, json!({ "checkpoint": "10" }), "alias"),
        ("a%20b", json!({ "checkpoint": "10" }), "alias"),
        ("best", json!({ "checkpoint": "11" }), "checkpoint"),
        ("best", json!({ "checkpoint": "a b" }), "checkpoint"),
        ("best", json!({ "checkpoint": "absent" }), "checkpoint"),
        ("best", json!({ "checkpoint": foreign }), "checkpoint"),
        ("best", json!({ "artifact_id": absent }), "artifact_id"),
        ("best", json!({}), "checkpoint"),
        ("best", json!({ "checkpoint": "10", "artifact_id": absent }), "checkpoint"),
    ] {
        let problem = app.put_json(&format!("/v1/runs/r/aliases/{alias}"), body).await.problem(422, "invalid_field");
        assert_eq!(problem.errors[0].field, field, "{problem:?}");
    }
    app.put_json(BEST, json!({ "step": 10 })).await.problem(422, "invalid_field");
    app.put_json("/v1/runs/absent/aliases/best", json!({ "checkpoint": "10" })).await.problem(404, "run_not_found");
    assert_eq!(app.count("run_aliases").await, 0);
    for (name, code, status) in [
        ("11", "checkpoint_not_found", 404),
        ("best", "alias_not_found", 404),
        (absent, "checkpoint_not_found", 404),
        ("a%20b", "invalid_field", 422),
        ("-1", "invalid_field", 422),
    ] {
        app.get(&format!("/v1/runs/r/checkpoints/{name}")).await.problem(status, code);
    }
}

#[sqlx::test]
async fn an_alias_may_name_an_artifact(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let artifact = scene.succeed(&scene.claim().await).await.artifact_id.unwrap();
    let path = "/v1/runs/demo/aliases/prod";
    let alias: Alias = scene.app.put_json(path, json!({ "artifact_id": artifact })).await.json(200);
    assert_eq!((alias.artifact_id, alias.checkpoint_id), (Some(artifact), None));
    assert_eq!(scene.app.get(path).await.json::<Alias>(200), alias);
    scene.app.get("/v1/runs/demo/checkpoints/prod").await.problem(404, "alias_not_found");
}
