//! Large files on their way in parts: whoever is killed, the same command afterwards sends only what is missing.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use barycenter_api::{CreateRun, ListUploads, UploadState};
use sqlx::PgPool;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
};

use crate::{
    cluster::{Cluster, Process},
    inputs,
};

const PART: u64 = 16 << 20;
/// Two whole parts and some of the third.
const BUDGET: u64 = 2 * PART + (8 << 20);

/// A link to the server that carries so many bytes of the client's and then no more, and counts them.
struct Link {
    url: String,
    carried: Arc<AtomicU64>,
}

impl Link {
    async fn open(cluster: &Cluster, budget: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let carried = Arc::new(AtomicU64::new(0));
        let (server, counted) = (cluster.address, Arc::clone(&carried));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    let ((up_from, down_to), (down_from, up_to)) = (client.into_split(), server.into_split());
                    // Either side's end ends both.
                    tokio::select! {
                        () = carry(up_from, up_to, Some((&counted, budget))) => {}
                        () = carry(down_from, down_to, None) => {}
                    }
                });
            }
        });
        Self { url, carried }
    }

    fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, limit: Option<(&AtomicU64, u64)>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        if limit.is_some_and(|(carried, budget)| carried.load(Ordering::Relaxed) >= budget) {
            // Lost on the way; whether the sender lives is still seen.
            continue;
        }
        if let Some((carried, _)) = limit {
            carried.fetch_add(count as u64, Ordering::Relaxed);
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// A checkpoint of a little more than five parts.
fn large_file(folder: &Path) -> PathBuf {
    let path = folder.join("large.safetensors");
    let count = 5 * PART as usize / 4 + 1000;
    inputs::write(&path, vec![inputs::tensor("weight", &[count], &inputs::draw(3, count))]);
    path
}

fn push(url: &str, file: &Path) -> Process {
    let file = file.display().to_string();
    let words = ["checkpoint", "push", &file, "--run", "large", "--step", "1", "--parallel", "1"];
    Process::start(&words, &[("BARYCENTER_SERVER", url.to_owned())])
}

#[derive(Clone, Copy, PartialEq)]
enum Victim {
    Client,
    Server,
    Both,
}

async fn killed_in_the_third_part(pool: PgPool, victim: Victim) {
    let cluster = Cluster::new(&pool);
    let server = cluster.serve().await;
    let run = CreateRun { name: "large".into(), project: None, description: None, metadata: serde_json::Map::new() };
    cluster.client.create_run(&run).await.unwrap();
    let file = large_file(cluster.folder.path());
    let narrow = Link::open(&cluster, BUDGET).await;
    let client = push(&narrow.url, &file);
    two_parts_are_there(&cluster, &pool, &narrow).await;
    let server = match victim {
        Victim::Client => {
            client.kill();
            server
        }
        Victim::Server => {
            server.kill();
            assert!(!client.succeeds().await, "the client says so where it cannot go on");
            cluster.serve().await
        }
        Victim::Both => {
            client.kill();
            server.kill();
            cluster.serve().await
        }
    };
    assert!(cluster.client.list_checkpoints("large").await.unwrap().is_empty());
    let open = cluster.client.list_uploads(&ListUploads::default()).await.unwrap().items;
    assert_eq!((open.len(), open[0].state, open[0].received_parts), (1, UploadState::Open, 2));

    let wide = Link::open(&cluster, u64::MAX).await;
    assert!(push(&wide.url, &file).succeeds().await);
    let size = file.metadata().unwrap().len();
    let missing = size - 2 * PART;
    assert!(
        (missing..missing + PART / 16).contains(&wide.carried()),
        "{missing} were missing, {} sent",
        wide.carried()
    );
    let stored = cluster.client.list_checkpoints("large").await.unwrap();
    assert_eq!((stored.len(), stored[0].size_bytes), (1, size));

    // Once more: it is there, and next to nothing is sent.
    let idle = Link::open(&cluster, u64::MAX).await;
    assert!(push(&idle.url, &file).succeeds().await);
    assert!(idle.carried() < PART / 16, "{} bytes sent for what is there", idle.carried());
    assert_eq!(bytes_below(&cluster.folder.path().join("store")), size);
    server.kill();
}

async fn two_parts_are_there(cluster: &Cluster, pool: &PgPool, link: &Link) {
    cluster
        .until("two parts are there and the third is on its way", async || {
            let there: i64 = sqlx::query_scalar("select count(*) from upload_parts").fetch_one(pool).await.unwrap();
            (there == 2 && link.carried() >= BUDGET).then_some(())
        })
        .await;
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| if entry.path().is_dir() { bytes_below(&entry.path()) } else { entry.metadata().unwrap().len() })
        .sum()
}

#[sqlx::test]
async fn a_push_whose_client_was_killed_sends_only_what_is_missing(pool: PgPool) {
    killed_in_the_third_part(pool, Victim::Client).await;
}

#[sqlx::test]
async fn a_push_whose_server_was_killed_sends_only_what_is_missing(pool: PgPool) {
    killed_in_the_third_part(pool, Victim::Server).await;
}

#[sqlx::test]
async fn a_push_of_which_all_were_killed_sends_only_what_is_missing(pool: PgPool) {
    killed_in_the_third_part(pool, Victim::Both).await;
}

#[sqlx::test]
async fn a_push_of_a_large_dataset_that_was_killed_sends_only_what_is_missing(pool: PgPool) {
    let cluster = Cluster::new(&pool);
    let server = cluster.serve().await;
    let file = large_dataset(cluster.folder.path());
    let narrow = Link::open(&cluster, BUDGET).await;
    let client = push_dataset(&narrow.url, &file);
    two_parts_are_there(&cluster, &pool, &narrow).await;
    client.kill();
    let wide = Link::open(&cluster, u64::MAX).await;
    assert!(push_dataset(&wide.url, &file).succeeds().await);
    let missing = file.metadata().unwrap().len() - 2 * PART;
    assert!((missing..missing + PART / 16).contains(&wide.carried()), "{} sent", wide.carried());
    let stored = cluster.client.find_dataset("large").await.unwrap();
    assert_eq!(stored.normalisation.scale.to_string(), "0.5");
    assert!(push_dataset(&wide.url, &file).succeeds().await, "once more: it is there");
    server.kill();
}

/// A dataset of a little more than five parts.
fn large_dataset(folder: &Path) -> PathBuf {
    let path = folder.join("large.safetensors");
    let samples = 5 * PART as usize / 4 / 1024 + 10;
    let inputs = inputs::tensor("inputs", &[samples, 1024], &inputs::draw(3, samples * 1024));
    inputs::write(&path, vec![inputs, inputs::tensor("targets", &[samples, 1], &inputs::draw(4, samples))]);
    path
}

fn push_dataset(url: &str, file: &Path) -> Process {
    let file = file.display().to_string();
    let words = ["dataset", "push", "large", &file, "--scale", "0.5", "--parallel", "1"];
    Process::start(&words, &[("BARYCENTER_SERVER", url.to_owned())])
}
