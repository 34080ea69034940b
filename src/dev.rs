//! `barycenter dev`: the whole service in one process, for try-outs, demonstrations and development.
//!
//! A private Postgres from the machine's binaries, a `file:` store, the server on the loopback interface and one worker,
//! all under one data folder. What ends first, the worker, hands its job back while the server still listens.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use barycenter_worker::WorkerOptions;
use clap::{Args, FromArgMatches};
use private_postgres::{Options, PrivatePostgres};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::{config::Config, server};

/// Bound of the worker's cache.
const CACHE_BYTES: u64 = 20 << 30;

/// How `barycenter dev` is run.
#[derive(Clone, Debug, Args)]
pub struct DevOptions {
    /// Port on 127.0.0.1; 0 takes any that is free.
    #[arg(long, default_value_t = 8700)]
    pub port: u16,
    /// Folder of database, store and cache; kept between runs.
    #[arg(long, default_value = ".barycenter", value_name = "FOLDER")]
    pub data_dir: PathBuf,
    /// Run no worker: jobs wait.
    #[arg(long)]
    pub no_worker: bool,
    /// Threads that the worker computes on; all cores unless told.
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
}

/// Runs everything until told to stop, then shuts it down in order. Prints the URL on standard output when it serves.
pub async fn run(options: DevOptions, stop: CancellationToken) -> anyhow::Result<()> {
    let folder = std::path::absolute(&options.data_dir).context("the data folder")?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let postgres = start_postgres(folder.join("postgres")).await?;
    let served = serve(&options, &folder, &postgres, stop).await;
    let stopped = spawn_blocking(move || postgres.stop()).await?;
    served.and(stopped)
}

async fn start_postgres(folder: PathBuf) -> anyhow::Result<PrivatePostgres> {
    let asked = folder.clone();
    let postgres = spawn_blocking(move || PrivatePostgres::start(&folder, Options { fsync: true })).await??;
    if postgres.folder() != asked {
        tracing::warn!(database.folder = %postgres.folder().display(), "the data folder is closed to the account that \
            runs Postgres; the database lies elsewhere");
    }
    Ok(postgres)
}

async fn serve(
    options: &DevOptions,
    folder: &Path,
    postgres: &PrivatePostgres,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let config = config(options.port, folder, &postgres.url())?;
    server::migrate(&config.database).await?;
    let bind = config.http.bind;
    let token = config.auth.api_token.clone();
    let state = server::connect(config).await?;
    let listener = TcpListener::bind(bind).await.with_context(|| format!("cannot listen on {bind}"))?;
    let url = format!("http://{}", listener.local_addr()?);
    let server_stop = CancellationToken::new();
    let mut serving = tokio::spawn(server::serve(state, listener, server_stop.clone()));
    println!("{url}");
    let worker_stop = CancellationToken::new();
    let mut working = start_worker(options, folder, url, token, worker_stop.clone());
    let early = tokio::select! {
        () = stop.cancelled() => None,
        ended = &mut serving => Some(ended.map_err(Into::into).flatten().and(Err(anyhow!("the server ended by itself")))),
        ended = &mut working => Some(ended.map_err(Into::into).flatten().and(Err(anyhow!("the worker ended by itself")))),
    };
    worker_stop.cancel();
    let worked = finish(working).await;
    server_stop.cancel();
    let served = finish(serving).await;
    early.unwrap_or(Ok(())).and(worked).and(served)
}

/// The result of a task that was asked to end; a task that has been heard already has none.
async fn finish(task: JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    if task.is_finished() { Ok(()) } else { task.await? }
}

fn start_worker(
    options: &DevOptions,
    folder: &Path,
    server: String,
    token: Option<String>,
    stop: CancellationToken,
) -> JoinHandle<anyhow::Result<()>> {
    if options.no_worker {
        return tokio::spawn(async move {
            stop.cancelled().await;
            Ok(())
        });
    }
    let worker = WorkerOptions {
        server,
        token,
        cache_dir: folder.join("cache"),
        cache_bytes: CACHE_BYTES,
        cache_keep_hours: barycenter_worker::CACHE_KEEP_HOURS,
        held_projection_bytes: barycenter_worker::HELD_PROJECTION_BYTES,
        name: Some("dev".into()),
        threads: options.threads,
        memory_bytes: None,
    };
    tokio::spawn(barycenter_worker::run(worker, stop))
}

/// The server's settings: its own defaults and environment, apart from where it listens and keeps its data.
fn config(port: u16, folder: &Path, database_url: &str) -> anyhow::Result<Config> {
    let store = folder.join("store");
    std::fs::create_dir_all(&store).with_context(|| format!("cannot make {}", store.display()))?;
    let store = Url::from_directory_path(&store).map_err(|()| anyhow!("{} is no absolute path", store.display()))?;
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let words = ["dev", "--bind", &bind.to_string(), "--database-url", database_url, "--storage-url", store.as_str()];
    let matches = Config::augment_args(clap::Command::new("dev")).try_get_matches_from(words)?;
    Ok(Config::from_arg_matches(&matches)?)
}
