//! Early refusals over a real connection: a client that first sends all it has and only then listens must see them.

use sqlx::PgPool;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::harness::{TestApp, files::checkpoint};

const MEBIBYTE: usize = 1 << 20;
/// More than the buffers of both ends of a connection hold.
const MEBIBYTES: usize = 32;

/// Sends zeros without looking at the answer, then reads the answer.
async fn push_zeros(app: &TestApp, path: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(axum::serve(listener, barycenter::http::router(app.state.clone())).into_future());
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = MEBIBYTES * MEBIBYTE;
    let head = format!("PUT {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..MEBIBYTES {
        stream.write_all(&[0; MEBIBYTE]).await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    server.abort();
    answer
}

#[sqlx::test]
async fn a_client_that_sends_before_it_listens_sees_why_it_was_refused(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    let answer = push_zeros(&app, "/v1/runs/run/checkpoints/1").await;
    assert!(answer.starts_with("HTTP/1.1 422 "), "{answer}");
    assert!(answer.contains("the header claims 0 bytes"), "{answer}");
    let answer = push_zeros(&app, "/v1/runs/absent/checkpoints/1").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    app.assert_nothing_stored().await;
}

#[sqlx::test]
async fn a_taken_step_is_told_to_a_client_that_sends_before_it_listens(pool: PgPool) {
    let app = TestApp::new(pool);
    app.create_run("run").await;
    app.push("run", 1, "", checkpoint(1)).await;
    let answer = push_zeros(&app, "/v1/runs/run/checkpoints/1").await;
    assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
}
