//! Measures the service under load and prints one table; `make load` runs it on a private Postgres.
//!
//! Rows are {figure, ours, against, ratio, target, holds}, written to `target/load.json` too (`target/load-s3.json` with `--store s3`). Our side is the release binary as a
//! process of its own over HTTP.

mod connection;
mod figures;
mod jobs;
mod listeners;
mod pages;
mod polling;
mod queue;
mod scene;
mod service;
mod store;
mod transfer;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use figures::Figures;
use jobs::Jobs;
use service::Service;
use store::Store;

/// What to measure.
#[derive(Parser)]
struct Arguments {
    /// Groups whose names start so.
    #[arg(long, default_value = "")]
    only: String,
    /// For files of several gigabytes.
    #[arg(long, default_value = "target/load")]
    folder: PathBuf,
    /// The binary that is measured.
    #[arg(long, default_value = "target/release/barycenter")]
    binary: PathBuf,
    /// Where the server keeps its bytes while transfers are measured; pages are measured on a folder alone.
    #[arg(long, value_enum, default_value_t = store::Kind::File)]
    store: store::Kind,
    /// The program that speaks S3, for `--store s3`.
    #[arg(long, default_value = "versitygw")]
    gateway: PathBuf,
    /// Tensors of a hundred megabytes in the large file.
    #[arg(long, default_value_t = 10)]
    tensors: usize,
    /// Checkpoints in the database while pages are measured.
    #[arg(long, default_value_t = 1_000_000)]
    checkpoints: u32,
    /// Jobs in the queue while claims are measured.
    #[arg(long, default_value_t = 10_000)]
    jobs: u32,
    /// Connections that poll, or listen, at a time.
    #[arg(long, default_value_t = 1_000)]
    connections: u32,
    /// The Python that has `MLflow`; its figures are left out without it.
    #[arg(long)]
    peer: Option<PathBuf>,
    /// A Postgres for this alone.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.folder)?;
    let folder = arguments.folder.canonicalize()?;
    let store = Store::open(arguments.store, &folder.join("store"), &arguments.gateway).await?;
    let service = Service::start(&arguments.binary, &arguments.database_url, store).await?;
    let mut figures = Figures::default();
    if "transfer".starts_with(&arguments.only) {
        // MLflow's own store is a folder.
        let peer = arguments.peer.as_deref().filter(|_| arguments.store == store::Kind::File);
        transfer::measure(&service, &folder, arguments.tensors, peer, &mut figures).await?;
    }
    if "pages".starts_with(&arguments.only) && arguments.store == store::Kind::File {
        pages::measure(&service, &arguments.database_url, arguments.checkpoints, &mut figures).await?;
    }
    let jobs = Jobs { service: &service, database_url: &arguments.database_url, folder: &folder };
    if "queue".starts_with(&arguments.only) {
        queue::measure(&jobs, arguments.jobs, &mut figures).await?;
    }
    if "polling".starts_with(&arguments.only) {
        polling::measure(&jobs, arguments.connections, arguments.peer.as_deref(), &mut figures).await?;
    }
    if "listeners".starts_with(&arguments.only) {
        listeners::measure(&jobs, arguments.connections, &mut figures).await?;
    }
    figures.print();
    let table = if arguments.store == store::Kind::File { "target/load.json" } else { "target/load-s3.json" };
    figures.write(table.as_ref())?;
    Ok(())
}
