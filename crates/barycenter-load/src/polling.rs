//! A thousand clients that poll the status of jobs with `If-None-Match`, beside as many that poll an `MLflow` run.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use hdrhistogram::Histogram;

use crate::{
    connection::Connection,
    figures::Figures,
    jobs::{Jobs, claim, register},
};

/// Jobs that are polled, all of them running.
const JOBS: u32 = 100;
/// How long is polled.
const FOR: Duration = Duration::from_secs(10);
/// How much faster than `MLflow`.
const FACTOR: f64 = 50.0;
/// Requests a second of `MLflow` where it is not there to be measured beside.
const MLFLOW_RATE: f64 = 145.0;

/// Polls a second and their 99th percentile, ours and `MLflow`'s in the same run.
pub async fn measure(jobs: &Jobs<'_>, pollers: u32, peer: Option<&Path>, figures: &mut Figures) -> Result<()> {
    jobs.fill(JOBS).await?;
    let client = jobs.service.client()?;
    let worker_id = register(&client, "polled").await?;
    let address = jobs.service.url.trim_start_matches("http://").to_owned();
    let mut requests = Vec::new();
    for _ in 0..JOBS {
        let lease = claim(&client, worker_id, 0).await?;
        requests.push(conditional(&address, lease.job_id).await?);
    }
    let ours = poll(&address, &requests, pollers, 304).await?;
    let theirs = match peer {
        Some(python) => Some(of_mlflow(python, jobs.folder, pollers).await?),
        None => None,
    };
    let rate = theirs.as_ref().map_or(MLFLOW_RATE, |theirs| theirs.rate);
    figures.at_least_of(&format!("status polls with ETag, {pollers} pollers, a second"), ours.rate, rate, FACTOR);
    if let Some(theirs) = theirs {
        figures.at_most(&format!("status polls with ETag, {pollers} pollers, p99, ms"), ours.p99_ms, theirs.p99_ms);
    }
    jobs.clear().await
}

/// The request of someone who has the job as it is.
async fn conditional(address: &str, job_id: uuid::Uuid) -> Result<Vec<u8>> {
    let path = format!("GET /v1/jobs/{job_id} HTTP/1.1\r\nhost: {address}\r\n");
    let mut connection = Connection::open(address).await?;
    let answer = connection.ask(format!("{path}\r\n").as_bytes()).await?;
    let tag = answer.header("etag").context("an ETag")?;
    Ok(format!("{path}if-none-match: {tag}\r\n\r\n").into_bytes())
}

struct Polled {
    rate: f64,
    p99_ms: f64,
}

/// So many connections, each of which asks again as soon as it is answered.
async fn poll(address: &str, requests: &[Vec<u8>], pollers: u32, status: u16) -> Result<Polled> {
    let connections = try_join_all((0..pollers).map(|_| Connection::open(address))).await?;
    let requests: Arc<[Vec<u8>]> = requests.into();
    let began = Instant::now();
    let pollers = connections.into_iter().enumerate().map(|(number, mut connection)| {
        let requests = Arc::clone(&requests);
        tokio::spawn(async move {
            let request = &requests[number % requests.len()];
            let mut times = Histogram::<u64>::new(3)?;
            while began.elapsed() < FOR {
                let asked = Instant::now();
                let answer = connection.ask(request).await?;
                ensure!(answer.status == status, "answered {}", answer.head);
                times.record(asked.elapsed().as_micros() as u64)?;
            }
            anyhow::Ok(times)
        })
    });
    let mut all = Histogram::<u64>::new(3)?;
    for poller in pollers.collect::<Vec<_>>() {
        all.add(poller.await??)?;
    }
    let rate = all.len() as f64 / began.elapsed().as_secs_f64();
    Ok(Polled { rate, p99_ms: all.value_at_quantile(0.99) as f64 / 1e3 })
}

/// An `MLflow` server with one run, polled by the same clients.
async fn of_mlflow(python: &Path, folder: &Path, pollers: u32) -> Result<Polled> {
    let mut server = Command::new(python)
        .args(["load/mlflow_run.py"])
        .arg(folder.join("mlflow"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    // It ends when its standard input does.
    let stdin = server.stdin.take();
    let mut told = String::new();
    BufReader::new(server.stdout.take().context("its output")?).read_line(&mut told)?;
    let (address, path) = told.trim().split_once(' ').context("load/mlflow_run.py told no address")?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").into_bytes();
    let polled = poll(address, &[request], pollers, 200).await;
    drop(stdin);
    server.wait()?;
    polled
}
