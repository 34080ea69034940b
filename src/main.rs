//! The barycenter binary.

use std::process::ExitCode;

use anyhow::Context;
use barycenter::{
    config::{Config, DatabaseConfig},
    dev::{self, DevOptions},
    http, server, telemetry,
};
use barycenter_cli::WorkerCommand;
use barycenter_worker::WorkerOptions;
use clap::{Parser, Subcommand};
use tokio::{net::TcpListener, signal};
use tokio_util::sync::CancellationToken;

/// A fit takes and gives back large buffers at every step; glibc returns each of them to the kernel.
#[global_allocator]
static ALLOCATOR: barycenter_allocator::MiMalloc = barycenter_allocator::MiMalloc;

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
    /// Run a worker, which takes jobs from a server and computes them; or, with a command, look after the workers of a server.
    #[command(args_conflicts_with_subcommands = true)]
    Worker(WorkerArguments),
    /// Run everything on this machine: a private Postgres, a file store, the server and one worker.
    Dev(DevOptions),
    /// Apply the database migrations that are pending.
    Migrate(DatabaseConfig),
    /// Remove for good what was deleted longer ago than the grace; `serve` does so every ten minutes.
    Gc {
        #[command(flatten)]
        config: Box<Config>,
        /// Tell what would be removed of that which is deleted by now, and remove nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the OpenAPI document.
    Openapi,
    #[command(flatten)]
    Client(barycenter_cli::Command),
}

#[derive(clap::Args)]
struct WorkerArguments {
    #[command(flatten)]
    options: WorkerOptions,
    #[command(subcommand)]
    command: Option<WorkerCommand>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(target_os = "linux")]
    allow_open_files();
    // What computes takes the same memory again and again; a server gives back what an upload took.
    match arguments.command {
        Command::Serve(_) => barycenter_allocator::give_back_at_once(),
        _ => barycenter_allocator::keep_between_steps(),
    }
    let ran = match arguments.command {
        Command::Client(command) => return barycenter_cli::run(command).await,
        Command::Serve(config) => serve(*config).await,
        Command::Worker(WorkerArguments { command: Some(command), .. }) => {
            return barycenter_cli::run_worker_command(command).await;
        }
        Command::Worker(WorkerArguments { options, command: None }) => worker(options).await,
        Command::Dev(options) => dev(options).await,
        Command::Migrate(config) => migrate(config).await,
        Command::Gc { config, dry_run } => collect(*config, dry_run).await,
        Command::Openapi => print_openapi(),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Lets this process have as many files open as the system allows it. A shell starts programs with a thousand or so, and every file
/// of every candidate stays open while they are averaged.
#[cfg(target_os = "linux")]
fn allow_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        eprintln!("the limit of open files stays as it is: {error}");
    }
}

async fn worker(options: WorkerOptions) -> anyhow::Result<()> {
    telemetry::install_logging();
    barycenter_worker::run(options, stopped_by_signal()).await
}

async fn dev(options: DevOptions) -> anyhow::Result<()> {
    telemetry::install_logging();
    dev::run(options, stopped_by_signal()).await
}

async fn migrate(config: DatabaseConfig) -> anyhow::Result<()> {
    telemetry::install_logging();
    server::migrate(&config).await
}

async fn collect(config: Config, dry_run: bool) -> anyhow::Result<()> {
    telemetry::install_logging();
    let collected = server::collect(config, dry_run).await?;
    println!(
        "{} {} bytes in {} objects: {} checkpoints, {} candidate sets, {} jobs, {} artifacts, {} runs",
        if dry_run { "would free" } else { "freed" },
        collected.bytes,
        collected.objects,
        collected.checkpoints,
        collected.candidate_sets,
        collected.jobs,
        collected.artifacts,
        collected.runs,
    );
    Ok(())
}

fn print_openapi() -> anyhow::Result<()> {
    println!("{}", http::document().to_pretty_json()?);
    Ok(())
}

async fn serve(config: Config) -> anyhow::Result<()> {
    telemetry::install_logging();
    let bind = config.http.bind;
    let state = server::connect(config).await?;
    let listener = TcpListener::bind(bind).await.with_context(|| format!("listening on {bind}"))?;
    server::serve(state, listener, stopped_by_signal()).await
}

/// A token that the first signal to end cancels.
fn stopped_by_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone()));
    stop
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
