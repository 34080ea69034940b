//! Every error has one shape.

use axum::http::{Method, Request};
use sqlx::PgPool;

use crate::harness::TestApp;

#[sqlx::test]
async fn an_unknown_path_is_a_problem(pool: PgPool) {
    let problem = TestApp::new(pool).get("/v1/nothing").await.problem(404, "route_not_found");
    assert_eq!(problem.instance, "/v1/nothing");
}

#[sqlx::test]
async fn a_wrong_method_is_a_problem_that_says_which_are_right(pool: PgPool) {
    let app = TestApp::new(pool);
    let response = app.send(Request::builder().method(Method::PATCH).uri("/livez").body("".into()).unwrap()).await;
    response.problem(405, "method_not_allowed");
    assert!(response.header("allow").contains("GET"));
}

#[sqlx::test]
async fn the_callers_request_id_is_returned(pool: PgPool) {
    let request = Request::get("/v1/nothing").header("x-request-id", "from-the-caller").body("".into()).unwrap();
    let problem = TestApp::new(pool).send(request).await.problem(404, "route_not_found");
    assert_eq!(problem.request_id, "from-the-caller");
}

#[sqlx::test]
async fn a_ready_server_says_so(pool: PgPool) {
    let app = TestApp::new(pool);
    assert_eq!(app.get("/livez").await.status, 200);
    assert_eq!(app.get("/readyz").await.status, 200);
}

#[sqlx::test]
async fn without_its_database_the_server_lives_but_is_not_ready(pool: PgPool) {
    let app = TestApp::new(pool.clone());
    pool.close().await;
    assert_eq!(app.get("/livez").await.status, 200);
    let response = app.get("/readyz").await;
    response.problem(503, "unavailable");
    assert!(response.header("retry-after").parse::<u64>().unwrap() > 0);
}
