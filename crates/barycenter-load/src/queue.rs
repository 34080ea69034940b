//! Claims from a long queue, and how soon a job starts where a worker is idle.

use std::time::{Duration, Instant};

use anyhow::Result;
use barycenter_api::Fail;
use futures::future::try_join_all;
use hdrhistogram::Histogram;

use crate::{
    figures::Figures,
    jobs::{Jobs, claim, register},
};

/// Workers that claim at the same time.
const CLAIMERS: u32 = 8;
/// Claims of each of them.
const CLAIMS: u32 = 250;
/// Claims one after the other: of a few hundred, three waits for the disk would be the 99th percentile.
const SINGLE_CLAIMS: u32 = 1000;
/// Claims before those that count: the server's connections to the database live for hours, and each prepares its statements once.
const FIRST_CLAIMS: u32 = 50;
/// Jobs that are submitted while a worker is idle.
const STARTS: u32 = 200;

/// What 99 of 100 claims may take, in milliseconds.
const CLAIM_MS: f64 = 10.0;
/// Claims a second.
const CLAIMS_A_SECOND: f64 = 300.0;
/// What 95 of 100 jobs may take from their submission to their lease, in milliseconds.
const START_MS: f64 = 100.0;

/// Claims one after the other, then of several workers at a time, from a queue of so many jobs; then single jobs.
pub async fn measure(jobs: &Jobs<'_>, queued: u32, figures: &mut Figures) -> Result<()> {
    jobs.fill(queued).await?;
    claims(jobs, 1, FIRST_CLAIMS).await?;
    let single = claims(jobs, 1, SINGLE_CLAIMS).await?.0;
    figures.at_most(&format!("claim of {queued} jobs, p99, ms"), single, CLAIM_MS);
    jobs.fill(queued).await?;
    let (_, rate) = claims(jobs, CLAIMERS, CLAIMS).await?;
    figures.at_least(&format!("claims of {queued} jobs, {CLAIMERS} at a time, a second"), rate, CLAIMS_A_SECOND);
    jobs.clear().await?;
    figures.at_most("submission to start, idle worker, p95, ms", starts(jobs).await?, START_MS);
    jobs.clear().await
}

/// The 99th percentile of a claim, in milliseconds, and claims a second.
async fn claims(jobs: &Jobs<'_>, claimers: u32, of_each: u32) -> Result<(f64, f64)> {
    let began = Instant::now();
    let times = try_join_all((0..claimers).map(|number| async move {
        let client = jobs.service.client()?;
        let worker_id = register(&client, &format!("claimer-{number}")).await?;
        let mut times = Histogram::<u64>::new(3)?;
        for _ in 0..of_each {
            let began = Instant::now();
            claim(&client, worker_id, 0).await?;
            times.record(began.elapsed().as_micros() as u64)?;
        }
        anyhow::Ok(times)
    }))
    .await?;
    let rate = f64::from(claimers * of_each) / began.elapsed().as_secs_f64();
    let mut all = Histogram::<u64>::new(3)?;
    for times in &times {
        all.add(times)?;
    }
    Ok((all.value_at_quantile(0.99) as f64 / 1e3, rate))
}

/// The 95th percentile of the time from a submission to the lease of a worker that waits, in milliseconds.
async fn starts(jobs: &Jobs<'_>) -> Result<f64> {
    let client = jobs.service.client()?;
    let spec = jobs.spec().await?;
    let worker_id = register(&client, "idle").await?;
    let mut times = Histogram::<u64>::new(3)?;
    for _ in 0..STARTS {
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { claim(&client, worker_id, 20).await.map(|lease| (lease, Instant::now())) }
        });
        // The worker has asked before the job is there.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let began = Instant::now();
        client.submit_job(&spec).await?;
        let (lease, started) = waiting.await??;
        times.record((started - began).as_micros() as u64)?;
        let fail = Fail { code: "invalid_input".to_owned(), message: "measured".to_owned(), retry: false };
        client.fail(lease.lease_id, &fail).await?;
    }
    Ok(times.value_at_quantile(0.95) as f64 / 1e3)
}
