//! The barycenter binary.

use std::process::ExitCode;

use anyhow::Context;
use barycenter::{
    config::{Config, DatabaseConfig},
    http, server, telemetry,
};
use barycenter_worker::WorkerOptions;
use clap::{Parser, Subcommand};
use tokio::{net::TcpListener, signal};
use tokio_util::sync::CancellationToken;

/// glibc hands every large buffer back to the kernel, and a fit would spend a quarter of its time in page faults.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Turns the checkpoints of a training run into one better model.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server.
    Serve(Box<Config>),
    /// Run a worker.
    Worker(WorkerOptions),
    /// Apply the database migrations that are pending.
    Migrate(DatabaseConfig),
    /// Print the OpenAPI document.
    Openapi,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(config) => serve(*config).await,
        Command::Worker(options) => {
            telemetry::install_logging();
            barycenter_worker::run(options, stop_on_signal()).await
        }
        Command::Migrate(config) => {
            telemetry::install_logging();
            server::migrate(&config).await
        }
        Command::Openapi => {
            println!("{}", http::document().to_pretty_json()?);
            Ok(())
        }
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    telemetry::install_logging();
    let bind = config.http.bind;
    let state = server::connect(config).await?;
    let listener = TcpListener::bind(bind).await.with_context(|| format!("listening on {bind}"))?;
    server::serve(state, listener, stop_on_signal()).await
}

/// Cancelled by Ctrl-C, or by SIGTERM, with which service managers and Kubernetes end a process.
fn stop_on_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    tokio::spawn(cancel_on_signal(stop.clone()));
    stop
}

async fn cancel_on_signal(stop: CancellationToken) {
    let terminated = async {
        match signal::unix::signal(signal::unix::SignalKind::terminate()) {
            Ok(mut signals) => {
                signals.recv().await;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot listen for SIGTERM");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        _ = signal::ctrl_c() => {}
        () = terminated => {}
    }
    tracing::info!("stopping");
    stop.cancel();
}
