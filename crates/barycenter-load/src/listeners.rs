//! A thousand readers of one run's events.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use hdrhistogram::Histogram;

use crate::{
    connection::Connection,
    figures::Figures,
    jobs::{Jobs, RUN},
};

/// Jobs that are submitted while all listen.
const SUBMISSIONS: usize = 50;
/// What 99 of 100 events may take from the submission to a reader, in milliseconds.
const ARRIVAL_MS: f64 = 1000.0;
/// Memory that the server may take for all readers, in megabytes.
const MEGABYTES: f64 = 300.0;

/// How soon each of so many readers hears of a submission, and the server's memory meanwhile.
pub async fn measure(jobs: &Jobs<'_>, listeners: u32, figures: &mut Figures) -> Result<()> {
    jobs.clear().await?;
    let (client, spec) = (jobs.service.client()?, jobs.spec().await?);
    let address = jobs.service.url.trim_start_matches("http://");
    let request = format!("GET /v1/runs/{RUN}/events HTTP/1.1\r\nhost: {address}\r\n\r\n");
    jobs.service.forget_peak()?;
    let connections = try_join_all((0..listeners).map(|_| async {
        let mut connection = Connection::open(address).await?;
        let answer = connection.begin(request.as_bytes()).await?;
        ensure!(answer.status == 200, "answered {}", answer.head);
        anyhow::Ok(connection)
    }))
    .await?;
    let mut submitted = Vec::new();
    let readers: Vec<_> = connections.into_iter().map(|connection| tokio::spawn(read(connection))).collect();
    for _ in 0..SUBMISSIONS {
        submitted.push(Instant::now());
        client.submit_job(&spec).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut times = Histogram::<u64>::new(3)?;
    for reader in readers {
        for (arrived, submitted) in reader.await??.iter().zip(submitted.iter()) {
            times.record((*arrived - *submitted).as_micros() as u64)?;
        }
    }
    let p99 = times.value_at_quantile(0.99) as f64 / 1e3;
    figures.at_most(&format!("submission to {listeners} listeners, p99, ms"), p99, ARRIVAL_MS);
    figures.at_most(&format!("server with {listeners} listeners, MB"), jobs.service.peak_megabytes()?, MEGABYTES);
    jobs.clear().await
}

/// When each submission arrived.
async fn read(mut connection: Connection) -> Result<Vec<Instant>> {
    let mut arrivals = Vec::with_capacity(SUBMISSIONS);
    while arrivals.len() < SUBMISSIONS {
        connection.until(b"event: job.queued").await?;
        arrivals.push(Instant::now());
    }
    Ok(arrivals)
}
