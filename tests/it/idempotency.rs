//! `Idempotency-Key` on creating requests.

use axum::{
    body::Body,
    http::{HeaderValue, Method, Request},
};
use serde_json::json;
use sqlx::PgPool;

use crate::harness::{TestApp, json_request};

fn keyed(key: &str, name: &str) -> Request<Body> {
    let mut request = json_request(Method::POST, "/v1/runs", &json!({ "name": name }));
    request.headers_mut().insert("idempotency-key", HeaderValue::from_str(key).unwrap());
    request
}

#[sqlx::test]
async fn the_same_request_again_gets_the_same_reply_and_creates_nothing(pool: PgPool) {
    let app = TestApp::new(pool);
    let first = app.send(keyed("k1", "a")).await;
    let second = app.send(keyed("k1", "a")).await;
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (201, 201));
    assert_eq!(first.body, second.body);
    assert_eq!(first.header("location"), second.header("location"));
    assert_eq!(app.count("runs").await, 1);
}

#[sqlx::test]
async fn two_at_once_create_one(pool: PgPool) {
    let app = TestApp::new(pool);
    let (first, second) = tokio::join!(app.send(keyed("k1", "a")), app.send(keyed("k1", "a")));
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (201, 201));
    assert_eq!(first.body, second.body);
    assert_eq!(app.count("runs").await, 1);
}

#[sqlx::test]
async fn a_key_used_with_another_body_is_refused(pool: PgPool) {
    let app = TestApp::new(pool);
    app.send(keyed("k1", "a")).await;
    let problem = app.send(keyed("k1", "b")).await.problem(422, "idempotency_key_reused");
    assert!(problem.detail.contains("k1"), "{problem:?}");
    assert_eq!(app.count("runs").await, 1);
}

#[sqlx::test]
async fn a_refused_request_does_not_use_its_key_up(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("a").await;
    app.send(keyed("k1", "a")).await.problem(409, "name_taken");
    assert_eq!(app.count("idempotency_keys").await, 0);
    assert_eq!(app.send(keyed("k1", "b")).await.status, 201);
}

#[sqlx::test]
async fn an_empty_key_is_refused(pool: PgPool) {
    let problem = TestApp::new(pool).send(keyed("", "a")).await.problem(400, "bad_request");
    assert_eq!(problem.errors[0].field, "idempotency-key");
}
