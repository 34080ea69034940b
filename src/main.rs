//! The barycenter binary.

use std::process::ExitCode;

use anyhow::Context;
use barycenter::{
    config::{Config, DatabaseConfig},
    http, server, telemetry,
};
use clap::{Parser, Subcommand};
use tokio::{net::TcpListener, signal};
use tokio_util::sync::CancellationToken;

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
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone()));
    server::serve(state, listener, stop).await
}

/// Ctrl-C, or SIGTERM, with which service managers and Kubernetes end a process.
async fn stop_on_signal(stop: CancellationToken) {
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Arguments::command().debug_assert();
    }
}
