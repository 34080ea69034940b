//! Pages of lists in a database of a million checkpoints.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde_json::Value;

use crate::{
    figures::Figures,
    scene::{self, RUNS, run_name},
    service::Service,
};

/// Pages that are asked for in each kind of list, one after the other.
const REQUESTS: u32 = 1_000;
/// What 99 of 100 pages may take.
const LIMIT_MS: f64 = 20.0;

/// Each kind of list: what it is called, and its query.
const LISTS: [(&str, &str); 8] = [
    ("newest", ""),
    ("by step", "sort=step&order=asc"),
    ("by metric", "sort=val_loss"),
    ("by metric, descending", "sort=accuracy&order=desc"),
    ("of a tag", "tag=part-3"),
    ("of a range of steps", "from_step=10000&to_step=20000&sort=step"),
    ("where a metric", "where=val_loss%3C0.1"),
    ("where a metric, by another", "where=val_loss%3C0.1&sort=train_loss"),
];

/// Fills the database and measures every kind of list, in small runs and in the largest.
pub async fn measure(service: &Service, database_url: &str, checkpoints: u32, figures: &mut Figures) -> Result<()> {
    let began = Instant::now();
    scene::fill(database_url, checkpoints).await?;
    eprintln!("{checkpoints} checkpoints in {RUNS} runs, written in {:.0} s", began.elapsed().as_secs_f64());
    let http = reqwest::Client::builder().no_proxy().build()?;
    for (name, query) in LISTS {
        let small = Walk { service, http: &http, query }.walk(|page| 1 + page * 7 % (RUNS - 1)).await?;
        figures.at_most(&format!("checkpoints {name}, page p99, ms"), small, LIMIT_MS);
        let large = Walk { service, http: &http, query }.walk(|_| 0).await?;
        figures.at_most(&format!("checkpoints {name}, largest run, page p99, ms"), large, LIMIT_MS);
    }
    figures.at_most("runs, page p99, ms", runs(service, &http).await?, LIMIT_MS);
    Ok(())
}

struct Walk<'a> {
    service: &'a Service,
    http: &'a reqwest::Client,
    query: &'a str,
}

impl Walk<'_> {
    /// The 99th percentile of pages, in milliseconds. `run_of` names the run of each request; the same one twice goes on to
    /// its next page.
    async fn walk(&self, run_of: impl Fn(u32) -> u32) -> Result<f64> {
        let mut times = Histogram::<u64>::new(3)?;
        let mut next: Option<(u32, String)> = None;
        let mut seen = 0;
        for request in 0..REQUESTS {
            let run = run_of(request);
            let token = next.take().filter(|(of, _)| *of == run).map(|(_, token)| format!("&page_token={token}"));
            let run_name = run_name(run);
            let url = format!(
                "{}/v1/runs/{run_name}/checkpoints?page_size=50&{}{}",
                self.service.url,
                self.query,
                token.unwrap_or_default()
            );
            let page = fetch(self.http, &url, &mut times).await?;
            seen += page["items"].as_array().context("items")?.len();
            next = page["next_page_token"].as_str().map(|token| (run, token.to_owned()));
        }
        ensure!(seen > 0, "`{}` lists nothing", self.query);
        Ok(times.value_at_quantile(0.99) as f64 / 1e3)
    }
}

async fn runs(service: &Service, http: &reqwest::Client) -> Result<f64> {
    let mut times = Histogram::<u64>::new(3)?;
    let mut token = String::new();
    for _ in 0..REQUESTS {
        let page = fetch(http, &format!("{}/v1/runs?page_size=50{token}", service.url), &mut times).await?;
        token = page["next_page_token"].as_str().map(|token| format!("&page_token={token}")).unwrap_or_default();
    }
    Ok(times.value_at_quantile(0.99) as f64 / 1e3)
}

/// A page, with the microseconds from the request to its last byte.
async fn fetch(http: &reqwest::Client, url: &str, times: &mut Histogram<u64>) -> Result<Value> {
    let began = Instant::now();
    let answer = http.get(url).send().await?.error_for_status()?.bytes().await?;
    times.record(began.elapsed().as_micros() as u64)?;
    Ok(serde_json::from_slice(&answer)?)
}
