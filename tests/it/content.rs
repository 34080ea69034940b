//! Files on their way out.

use axum::http::{Method, Request};
use sqlx::PgPool;

use crate::harness::{TestApp, TestResponse, files::checkpoint};

struct Stored {
    app: TestApp,
    path: String,
    bytes: Vec<u8>,
    etag: String,
}

async fn stored(pool: PgPool) -> Stored {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let bytes = checkpoint(1);
    let pushed = app.push("run", 1, "", bytes.clone()).await;
    let path = format!("/v1/checkpoints/{}/content", pushed.checkpoint_id);
    Stored { app, path, bytes, etag: format!("\"{}\"", pushed.digest_blake3) }
}

impl Stored {
    async fn ask(&self, method: Method, headers: &[(&str, &str)]) -> TestResponse {
        let mut request = Request::builder().method(method).uri(&self.path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.app.send(request.body("".into()).unwrap()).await
    }
}

#[sqlx::test]
async fn a_file_comes_back_as_it_went_in(pool: PgPool) {
    let stored = stored(pool).await;
    let response = stored.ask(Method::GET, &[]).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.body, stored.bytes);
    assert_eq!(response.header("etag"), stored.etag);
    assert_eq!(response.header("content-length"), stored.bytes.len().to_string());
    assert_eq!(response.header("accept-ranges"), "bytes");
}

#[sqlx::test]
async fn head_tells_everything_but_the_bytes(pool: PgPool) {
    let stored = stored(pool).await;
    let response = stored.ask(Method::HEAD, &[]).await;
    assert_eq!((response.status.as_u16(), response.body.len()), (200, 0));
    assert_eq!(response.header("content-length"), stored.bytes.len().to_string());
    assert_eq!(response.header("etag"), stored.etag);
}

#[sqlx::test]
async fn a_caller_that_has_the_file_is_told_so(pool: PgPool) {
    let stored = stored(pool).await;
    let response = stored.ask(Method::GET, &[("if-none-match", &stored.etag)]).await;
    assert_eq!((response.status.as_u16(), response.body.len()), (304, 0));
    assert_eq!(response.header("etag"), stored.etag);
    assert_eq!(stored.ask(Method::GET, &[("if-none-match", "\"other\"")]).await.status, 200);
}

#[sqlx::test]
async fn a_range_gives_its_bytes(pool: PgPool) {
    let stored = stored(pool).await;
    let n = stored.bytes.len();
    for (range, expected) in [
        ("bytes=0-7".to_owned(), 0..8),
        ("bytes=5-".to_owned(), 5..n),
        ("bytes=-4".to_owned(), n - 4..n),
        (format!("bytes=3-{}", n + 100), 3..n),
        (format!("bytes={}-{}", n - 1, n - 1), n - 1..n),
        (format!("bytes=-{}", n + 100), 0..n),
    ] {
        let response = stored.ask(Method::GET, &[("range", &range)]).await;
        assert_eq!(response.status, 206, "{range}");
        assert_eq!(response.body, stored.bytes[expected.clone()], "{range}");
        let content_range = format!("bytes {}-{}/{n}", expected.start, expected.end - 1);
        assert_eq!(response.header("content-range"), content_range);
    }
}

#[sqlx::test]
async fn a_range_outside_the_file_is_refused_with_its_size(pool: PgPool) {
    let stored = stored(pool).await;
    let n = stored.bytes.len();
    for range in [format!("bytes={n}-"), "bytes=-0".to_owned()] {
        let response = stored.ask(Method::GET, &[("range", &range)]).await;
        response.problem(416, "range_not_satisfiable");
        assert_eq!(response.header("content-range"), format!("bytes */{n}"));
    }
}

#[sqlx::test]
async fn a_range_of_another_file_gives_the_whole_one(pool: PgPool) {
    let stored = stored(pool).await;
    let other = stored.ask(Method::GET, &[("range", "bytes=0-7"), ("if-range", "\"other\"")]).await;
    assert_eq!((other.status.as_u16(), other.body.len()), (200, stored.bytes.len()));
    let same = stored.ask(Method::GET, &[("range", "bytes=0-7"), ("if-range", &stored.etag)]).await;
    assert_eq!((same.status.as_u16(), same.body.len()), (206, 8));
}

#[sqlx::test]
async fn several_and_malformed_ranges_give_the_whole_file(pool: PgPool) {
    let stored = stored(pool).await;
    for range in ["bytes=0-1,4-5", "bytes=5-2", "lines=1-2", "bytes=x"] {
        let response = stored.ask(Method::GET, &[("range", range)]).await;
        assert_eq!((response.status.as_u16(), response.body.len()), (200, stored.bytes.len()), "{range}");
    }
}
