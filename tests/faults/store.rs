//! An S3 server as a process of its own: this test binary, started once more with a folder to serve.

use std::{
    io::Read as _,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use barycenter::storage::{ObjectKey, Store};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};

use crate::{cluster::Process, link::free_address};

const FOLDER: &str = "FAULTS_STORE_FOLDER";
const ADDRESS: &str = "FAULTS_STORE_ADDRESS";
const THIS_TEST: &str = "store::objects_outlive_a_store_that_is_killed";

/// Where a server finds the store that listens at `address`.
pub fn settings(address: SocketAddr) -> [(&'static str, String); 5] {
    [
        ("AWS_ENDPOINT", format!("http://{address}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
    ]
}

/// The URL of the store's one bucket.
pub const URL: &str = "s3://bucket/prefix";

/// The store at this address, as a server opens it.
pub fn open(address: SocketAddr) -> Store {
    let settings = settings(address).map(|(name, value)| (name.to_ascii_lowercase(), value));
    Store::open(&URL.parse().unwrap(), settings).unwrap()
}

/// Starts the process and waits until it listens.
pub async fn start(folder: &Path, address: SocketAddr) -> Process {
    std::fs::create_dir_all(folder.join("bucket")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", THIS_TEST, "--nocapture"]);
    command.env(FOLDER, folder).env(ADDRESS, address.to_string()).stdout(Stdio::null());
    // It ends with the process that holds the other end of this pipe.
    let process = Process::spawn(command.stdin(Stdio::piped()));
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    process
}

#[tokio::test]
async fn objects_outlive_a_store_that_is_killed() {
    if let Ok(folder) = std::env::var(FOLDER) {
        return serve(Path::new(&folder), std::env::var(ADDRESS).unwrap().parse().unwrap()).await;
    }
    let (folder, address) = (tempfile::tempdir().unwrap(), free_address());
    let key = ObjectKey::from_stored("one");
    let first = start(folder.path(), address).await;
    open(address).put_bytes(&key, "bytes".into()).await.unwrap();
    first.kill();
    let _second = start(folder.path(), address).await;
    assert_eq!(open(address).list_keys().await.unwrap(), ["one"]);
}

async fn serve(folder: &Path, address: SocketAddr) {
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).unwrap());
    service.set_auth(SimpleAuth::from_single("key", "secret"));
    let service = service.build();
    let listener = TcpListener::bind(address).await.unwrap();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let service = service.clone();
        tokio::spawn(async move {
            // A connection that the client closes is no failure.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
        });
    }
}
