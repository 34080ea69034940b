//! Every error has one shape.

use axum::http::{Method, Request};
use barycenter::http;
use serde_json::json;
use sqlx::PgPool;
use tower::ServiceExt;

use crate::harness::{TestApp, TestResponse, files::checkpoint, json_request};

#[sqlx::test]
async fn an_unknown_path_is_a_problem(pool: PgPool) {
    let problem = TestApp::new(pool).get("/v1/nothing").await.problem(404, "route_not_found");
    assert_eq!(problem.instance, "/v1/nothing");
}

#[sqlx::test]
async fn a_wrong_method_is_a_problem_that_says_which_are_right(pool: PgPool) {
    let app = TestApp::new(pool);
    let response = app.send(Request::builder().method(Method::PATCH).uri("/v1/runs").body("".into()).unwrap()).await;
    response.problem(405, "method_not_allowed");
    assert!(response.header("allow").contains("POST"), "{:?}", response.headers);
}

#[sqlx::test]
async fn bad_json_is_a_problem_that_says_where(pool: PgPool) {
    let app = TestApp::new(pool);
    let send = async |content_type: &str, body: &'static str| {
        let request = Request::post("/v1/runs").header("content-type", content_type);
        app.send(request.body(body.into()).unwrap()).await
    };
    let torn = send("application/json", "{\"name\": ").await.problem(400, "invalid_json");
    assert!(torn.detail.contains("line 1"), "{torn:?}");
    let unknown = send("application/json", r#"{"name":"a","nmae":"b"}"#).await.problem(422, "invalid_field");
    assert!(unknown.detail.contains("`nmae`"), "{unknown:?}");
    let missing = send("application/json", "{}").await.problem(422, "invalid_field");
    assert!(missing.detail.contains("`name`"), "{missing:?}");
    let wrong = send("application/json", r#"{"name":1}"#).await.problem(422, "invalid_field");
    assert!(wrong.detail.contains("name"), "{wrong:?}");
    send("text/plain", "{}").await.problem(415, "unsupported_media_type");
    assert_eq!(app.count("runs").await, 0);
}

#[sqlx::test]
async fn a_json_body_without_end_is_too_large(pool: PgPool) {
    let app = TestApp::new(pool);
    let chunk = vec![b' '; 1 << 20];
    let endless = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
    let request = Request::post("/v1/runs").header("content-type", "application/json");
    let body = axum::body::Body::from_stream(endless);
    app.send(request.body(body).unwrap()).await.problem(413, "too_large");
}

/// The API has no handler that panics, so this one is put behind the same middleware.
async fn panics() {
    panic!("a secret of the server");
}

#[sqlx::test]
async fn a_panic_is_a_problem(pool: PgPool) {
    let app = TestApp::new(pool);
    let router = axum::Router::new().route("/panics", axum::routing::get(panics));
    let router = http::wrap(router, app.state.clock.clone());
    let response = router.oneshot(Request::get("/panics").body(axum::body::Body::empty()).unwrap()).await.unwrap();
    let problem = TestResponse::read(response).await.problem(500, "internal");
    assert!(!problem.detail.contains("secret"), "{problem:?}");
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
    let responses =
        [app.get("/readyz").await, app.get("/v1/runs").await, app.put("/v1/runs/r/checkpoints/1", checkpoint(1)).await];
    for response in responses {
        response.problem(503, "unavailable");
        assert!(response.header("retry-after").parse::<u64>().unwrap() > 0);
    }
}

#[sqlx::test]
async fn a_configured_token_guards_the_api_alone(pool: PgPool) {
    let store = TestApp::new(pool.clone()).state.store;
    let app = TestApp::with(pool, store, |config| config.auth.api_token = Some("s3cret".into()));
    for authorization in [None, Some("Bearer wrong"), Some("s3cret"), Some("Basic s3cret")] {
        let mut request = json_request(Method::POST, "/v1/runs", &json!({ "name": "a" }));
        if let Some(value) = authorization {
            request.headers_mut().insert("authorization", value.parse().unwrap());
        }
        let response = app.send(request).await;
        response.problem(401, "unauthorized");
        assert_eq!(response.header("www-authenticate"), "Bearer");
    }
    assert_eq!(app.count("runs").await, 0);
    let mut request = json_request(Method::POST, "/v1/runs", &json!({ "name": "a" }));
    request.headers_mut().insert("authorization", "Bearer s3cret".parse().unwrap());
    assert_eq!(app.send(request).await.status, 201);
    for open in ["/livez", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(app.get(open).await.status, 200, "{open}");
    }
}
