//! Early refusals over a real connection: the client must see them though it is still sending.

use std::time::Duration;

use axum::http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::{Request, body::Frame, client::conn::http1};
use hyper_util::rt::TokioIo;
use sqlx::PgPool;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{TestApp, files::checkpoint};

/// Sends `chunks` mebibytes of zeros, whatever the server says meanwhile, and returns what it said.
async fn push_zeros(app: &TestApp, path: &str, chunks: usize) -> (StatusCode, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = axum::serve(listener, barycenter::http::router(app.state.clone()));
    let server = tokio::spawn(server.into_future());
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mebibyte = bytes::Bytes::from(vec![0; 1 << 20]);
    let frames = (0..chunks).map(move |_| Ok::<_, std::io::Error>(Frame::data(mebibyte.clone())));
    let body = StreamBody::new(futures::stream::iter(frames));
    let request = Request::put(path).header("host", "test").body(body).unwrap();
    let response = tokio::time::timeout(Duration::from_secs(60), sender.send_request(request)).await.unwrap().unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    connection.abort();
    server.abort();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[sqlx::test]
async fn a_client_that_is_still_sending_sees_why_it_was_refused(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let (status, body) = push_zeros(&app, "/v1/runs/run/checkpoints/1", 32).await;
    assert_eq!(status, 422, "{body}");
    assert!(body.contains("the header claims 0 bytes"), "{body}");
    let (status, body) = push_zeros(&app, "/v1/runs/absent/checkpoints/1", 32).await;
    assert_eq!(status, 404, "{body}");
    app.assert_nothing_stored().await;
}

#[sqlx::test]
async fn a_refused_step_is_answered_without_waiting_for_the_body(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    app.push("run", 1, "", checkpoint(1)).await;
    let path = format!("/v1/runs/run/checkpoints/1?digest_blake3={}", "0".repeat(64));
    let (status, body) = push_zeros(&app, &path, 32).await;
    assert_eq!(status, 409, "{body}");
}
