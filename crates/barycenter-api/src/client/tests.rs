use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{CreateRun, ListQuery, PushCheckpoint, UploadTarget, tree::FileTree};

/// Answers one request a connection, in the order of its script, and keeps what was asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
struct Answer {
    text: Vec<u8>,
    /// Answer as soon as the head is there, leaving the body unread.
    early: bool,
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Answer {
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    Answer { text: [head.as_bytes(), body].concat(), early: false }
}

impl Server {
    async fn start(script: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        tokio::spawn(async move {
            for answer in script {
                let (stream, _) = listener.accept().await.unwrap();
                serve(stream, &answer, &heard).await;
            }
        });
        Self { url, asked }
    }

    fn client(&self) -> Client {
        Client::new(&self.url, Some("secret")).unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, answer: &Answer, heard: &Mutex<Vec<String>>) {
    let mut bytes = Vec::new();
    let head_end = loop {
        stream.read_buf(&mut bytes).await.unwrap();
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_lowercase();
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |v| v.parse().unwrap());
    while !answer.early && bytes.len() < head_end + length {
        stream.read_buf(&mut bytes).await.unwrap();
    }
    let body = String::from_utf8_lossy(&bytes[head_end..]).into_owned();
    heard.lock().unwrap().push(if answer.early { head } else { head + &body });
    stream.write_all(&answer.text).await.unwrap();
    stream.shutdown().await.unwrap();
    // Read on, so that closing does not reset the connection while the client still writes.
    while stream.read(&mut [0; 8192]).await.is_ok_and(|n| n > 0) {}
}

const PROBLEM: &str = r#"{"type":"/problems/invalid_name","title":"The name cannot be used","status":422,
    "detail":"`a b` holds a space","instance":"/v1/runs","code":"invalid_name","request_id":"r-1",
    "errors":[{"field":"name","detail":"holds a space"}]}"#;
const RUN: &str = r#"{"run_id":"0190f3a8-0000-7000-8000-000000000001","name":"a","description":null,"metadata":{},
    "checkpoint_count":0,"created_at":"2026-01-01T00:00:00Z","a_field_of_tomorrow":1}"#;

fn problem() -> Answer {
    answer("422 Unprocessable Entity", "content-type: application/problem+json\r\n", PROBLEM.as_bytes())
}

#[tokio::test]
async fn a_problem_body_becomes_an_error_that_names_the_field() {
    let server = Server::start(vec![problem()]).await;
    let body = CreateRun { name: "a b".into(), project: None, description: None, metadata: serde_json::Map::new() };
    let error = server.client().create_run(&body).await.unwrap_err();
    assert_eq!(error.problem().unwrap().code, "invalid_name");
    assert!(error.to_string().contains("name: holds a space"), "{error}");
    let asked = server.asked();
    assert!(asked[0].starts_with("post /v1/runs http/1.1\r\n"), "{}", asked[0]);
    assert!(
        asked[0].contains("authorization: bearer secret\r\n") && asked[0].contains("idempotency-key: "),
        "{asked:?}"
    );
}

#[tokio::test]
async fn an_answer_that_is_no_problem_is_shown_as_it_came() {
    let server = Server::start(vec![answer("404 Not Found", "", b"<html>nginx</html>")]).await;
    let error = server.client().find_run("a").await.unwrap_err();
    assert_eq!(error.status().unwrap(), 404);
    assert!(error.to_string().contains("<html>nginx</html>"), "{error}");
}

#[tokio::test]
async fn an_unavailable_server_is_asked_again_with_the_same_key() {
    let busy = answer("503 Service Unavailable", "retry-after: 0\r\n", b"");
    let server = Server::start(vec![busy.clone(), busy, answer("201 Created", "", RUN.as_bytes())]).await;
    let body = CreateRun { name: "a".into(), project: None, description: None, metadata: serde_json::Map::new() };
    assert_eq!(server.client().create_run(&body).await.unwrap().name, "a");
    let asked = server.asked();
    let keys = asked.iter().map(|a| a.lines().find(|l| l.starts_with("idempotency-key")).unwrap());
    assert_eq!(keys.collect::<std::collections::BTreeSet<_>>().len(), 1);
    assert_eq!(asked.len(), 3);
}

#[test]
fn a_server_that_asks_for_a_pause_gets_it() {
    let asks = |seconds| ClientError::Status {
        url: "/".into(),
        status: reqwest::StatusCode::SERVICE_UNAVAILABLE,
        excerpt: String::new(),
        retry_after: Some(Duration::from_secs(seconds)),
    };
    let proposed = Some(Duration::from_millis(200));
    assert_eq!(exchange::pause(&asks(7), proposed), Some(Duration::from_secs(7)));
    assert_eq!(exchange::pause(&asks(0), proposed), proposed);
    assert_eq!(exchange::pause(&asks(3600), proposed), None);
    assert_eq!(exchange::pause(&asks(7), None), None, "no tries are left");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Client::new(&url, None).unwrap().with_repeats(1).find_run("a").await.unwrap_err();
    assert!(error.to_string().contains("is the server running there?"), "{error}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_refused_field_is_not_sent_twice() {
    let server = Server::start(vec![problem(), answer("201 Created", "", RUN.as_bytes())]).await;
    server.client().find_run("a").await.unwrap_err();
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn every_page_of_a_list_is_read() {
    let first = answer("200 OK", "", br#"{"items":[],"next_page_token":"more"}"#);
    let server = Server::start(vec![first, answer("200 OK", "", br#"{"items":[]}"#)]).await;
    assert!(server.client().list_checkpoints("a/b").await.unwrap().is_empty());
    let asked = server.asked();
    assert!(asked[0].starts_with("get /v1/runs/a%2fb/checkpoints?page_size=1000 "), "{}", asked[0]);
    assert!(asked[1].contains("page_token=more"), "{}", asked[1]);
}

#[tokio::test]
async fn no_job_is_none() {
    let server = Server::start(vec![Answer { text: b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), early: false }]).await;
    let claim = crate::Claim { worker_id: uuid::Uuid::nil(), wait_seconds: 0 };
    assert!(server.client().claim(&claim).await.unwrap().is_none());
}

#[tokio::test]
async fn a_file_is_pushed_with_its_length_and_its_query() {
    let server = Server::start(vec![problem()]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.safetensors");
    std::fs::write(&file, b"0123456789").unwrap();
    let last = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&last);
    let counter = ByteCounter::new(move |n| *seen.lock().unwrap() = n);
    let beside = PushCheckpoint { metrics: Some("loss:0.5".into()), ..PushCheckpoint::default() };
    server.client().push_checkpoint("a", 40, &beside, &file, &counter).await.unwrap_err();
    let asked = server.asked();
    assert!(asked[0].starts_with("put /v1/runs/a/checkpoints/40?metrics=loss%3a0.5 http/1.1\r\n"), "{}", asked[0]);
    assert!(asked[0].contains("content-length: 10\r\n") && asked[0].ends_with("\r\n\r\n0123456789"), "{}", asked[0]);
    assert_eq!(*last.lock().unwrap(), 10);
}

#[tokio::test]
async fn a_refusal_before_the_end_of_an_upload_is_heard() {
    let server = Server::start(vec![Answer { early: true, ..problem() }]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.safetensors");
    std::fs::write(&file, vec![0; 32 << 20]).unwrap();
    let client = server.client();
    let pushed = client.push_checkpoint("a", 1, &PushCheckpoint::default(), &file, &ByteCounter::none()).await;
    assert_eq!(pushed.unwrap_err().problem().unwrap().code, "invalid_name");
}

/// An upload of this file in parts of 1 KiB, as the server shows it.
fn upload(size: usize, digest: &str, state: &str) -> Answer {
    let id = "0190f3a8-0000-7000-8000-000000000001";
    let body = format!(
        r#"{{"upload_id":"{id}","target":{{"kind":"dataset","name":"d"}},"state":"{state}","size_bytes":{size},
        "part_size_bytes":1024,"part_count":3,"digest_blake3":"{digest}","received_parts":1,"received_bytes":1024,
        "checkpoint_id":null,"dataset_id":null,"created_at":"2026-01-01T00:00:00Z","lapses_at":null}}"#
    );
    answer("200 OK", "", body.as_bytes())
}

fn part(number: usize, chaining_value: &str) -> String {
    format!(
        r#"{{"number":{number},"size_bytes":1024,"chaining_value_blake3":"{chaining_value}","stored_at":"2026-01-01T00:00:00Z"}}"#
    )
}

#[tokio::test]
async fn only_parts_that_are_missing_or_other_are_sent() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large");
    std::fs::write(&file, [vec![1; 1024], vec![2; 1024], vec![3; 100]].concat()).unwrap();
    let tree = FileTree::read(&file, 1024).unwrap();
    let (hex, digest) = (tree.chaining_values.iter().map(crate::tree::to_hex).collect::<Vec<_>>(), &tree.digest_blake3);
    let there = format!(r#"{{"items":[{},{}]}}"#, part(1, &hex[0]), part(2, &hex[0]));
    let script = vec![
        upload(2148, digest, "open"),
        answer("200 OK", "", there.as_bytes()),
        answer("200 OK", "", part(2, &hex[1]).as_bytes()),
        answer("200 OK", "", part(3, &hex[2]).as_bytes()),
        upload(2148, digest, "completed"),
    ];
    let server = Server::start(script).await;
    let target = UploadTarget::Dataset { name: "d".into(), scale: None, mean: None, std: None };
    let last = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&last);
    let counter = ByteCounter::new(move |n| *seen.lock().unwrap() = n);
    server.client().push_in_parts(target, &file, 1, &counter).await.unwrap();
    let asked: Vec<_> = server.asked().iter().map(|text| text.lines().next().unwrap().to_owned()).collect();
    let path = "/v1/uploads/0190f3a8-0000-7000-8000-000000000001";
    assert!(
        asked[0].starts_with("post /v1/uploads ") && asked[1].starts_with(&format!("get {path}/parts")),
        "{asked:?}"
    );
    assert!(asked[2].starts_with(&format!("put {path}/parts/2?chaining_value_blake3={}", hex[1])), "{asked:?}");
    assert!(asked[3].starts_with(&format!("put {path}/parts/3?")), "{asked:?}");
    assert!(asked[4].starts_with(&format!("post {path}/complete")), "{asked:?}");
    assert_eq!((asked.len(), *last.lock().unwrap()), (5, 2148));
}

fn expected<'a>(bytes: &[u8], digest: &'a str) -> Expected<'a> {
    Expected { size_bytes: bytes.len() as u64, digest_blake3: digest }
}

async fn download(server: &Server, to: &Path, bytes: &[u8]) -> Result<()> {
    let digest = blake3::hash(bytes).to_hex();
    server.client().download("/v1/x/content", to, expected(bytes, &digest), &ByteCounter::none()).await
}

#[tokio::test]
async fn a_resumed_download_asks_only_for_the_rest() {
    let server = Server::start(vec![answer("206 Partial Content", "content-range: bytes 4-9/10\r\n", b"456789")]).await;
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("model");
    std::fs::write(folder.path().join("model.part"), b"0123").unwrap();
    download(&server, &to, b"0123456789").await.unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), b"0123456789");
    assert!(server.asked()[0].contains("range: bytes=4-\r\n"), "{}", server.asked()[0]);
    assert!(!folder.path().join("model.part").exists());
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let mut broken = answer("200 OK", "", b"0123456789");
    broken.text.truncate(broken.text.len() - 7);
    let rest = answer("206 Partial Content", "content-range: bytes 3-9/10\r\n", b"3456789");
    let server = Server::start(vec![broken, rest]).await;
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("model");
    download(&server, &to, b"0123456789").await.unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), b"0123456789");
    assert!(server.asked()[1].contains("range: bytes=3-\r\n"), "{}", server.asked()[1]);
}

#[tokio::test]
async fn a_server_that_ignores_the_range_is_read_from_the_start() {
    let server = Server::start(vec![answer("200 OK", "", b"0123456789")]).await;
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("model");
    std::fs::write(folder.path().join("model.part"), b"xxxx").unwrap();
    download(&server, &to, b"0123456789").await.unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), b"0123456789");
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_leave_nothing() {
    let server = Server::start(vec![answer("200 OK", "", b"012345678X")]).await;
    let folder = tempfile::tempdir().unwrap();
    let error = download(&server, &folder.path().join("model"), b"0123456789").await.unwrap_err();
    assert!(matches!(error, ClientError::Digest { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn more_bytes_than_promised_are_refused() {
    let server = Server::start(vec![answer("200 OK", "", b"0123456789 and on")]).await;
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("model");
    let error = download(&server, &to, b"0123456789").await.unwrap_err();
    assert!(error.to_string().contains("10 bytes were promised, more came"), "{error}");
    assert!(!to.exists());
}

#[test]
fn what_is_no_url_is_refused_with_an_example() {
    for url in ["localhost:8700", "ftp://host", "", "http://"] {
        let error = Client::new(url, None).unwrap_err();
        assert!(error.to_string().contains("expected http://HOST:PORT"), "{url}: {error}");
    }
}

#[test]
fn a_server_below_a_path_is_reached_there() {
    let client = Client::new("https://host/barycenter/", None).unwrap();
    assert_eq!(client.url(&["runs"]).as_str(), "https://host/barycenter/v1/runs");
    assert_eq!(client.url_of_path("/v1/runs").unwrap().as_str(), "https://host/barycenter/v1/runs");
}

#[test]
fn calls_can_be_spawned() {
    fn sendable<T: Send>(_: T) {}
    let client = Client::new("http://127.0.0.1:1", None).unwrap();
    sendable(client.list_runs(&ListQuery::default()));
    sendable(client.find_run("a"));
    let expected = Expected { size_bytes: 0, digest_blake3: "" };
    sendable(client.download("/", Path::new("x"), expected, &ByteCounter::none()));
    sendable(client.upload_artifact(uuid::Uuid::nil(), Path::new("x"), &ByteCounter::none()));
    let target = UploadTarget::Dataset { name: "d".into(), scale: None, mean: None, std: None };
    sendable(client.push_in_parts(target, Path::new("x"), 2, &ByteCounter::none()));
}
