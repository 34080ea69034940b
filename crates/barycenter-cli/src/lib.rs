//! Client commands of the barycenter binary.
//!
//! Data goes to standard output, talk and progress to standard error. The exit code tells the outcome, see
//! [`EXIT_CODES`].

mod artifact;
mod average;
mod checkpoint;
mod connection;
mod dataset;
mod deletion;
mod exit;
mod gather;
mod job;
mod output;
mod policy;
mod progress;
mod project;
mod projection;
mod push;
mod retention;
mod run;
mod set;
mod set_diff;
mod shown;
mod size;
mod spec;
mod tables;
mod tensor_rule;
mod watch;
mod webhook;
mod worker;

use std::process::ExitCode;

use clap::Subcommand;

pub use average::AverageArguments;
pub use connection::Global;
pub use exit::EXIT_CODES;
pub use worker::WorkerCommand;

use crate::exit::Outcome;

/// The client commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Training runs.
    #[command(after_help = EXIT_CODES)]
    Run(On<run::RunCommand>),
    /// Checkpoints of a run.
    #[command(after_help = EXIT_CODES)]
    Checkpoint(On<checkpoint::CheckpointCommand>),
    /// Datasets that jobs fit, select and test on.
    #[command(after_help = EXIT_CODES)]
    Dataset(On<dataset::DatasetCommand>),
    /// Candidate sets: frozen choices of checkpoints.
    #[command(after_help = EXIT_CODES)]
    Set(On<set::SetCommand>),
    /// Averaging jobs.
    #[command(after_help = EXIT_CODES)]
    Job(On<job::JobCommand>),
    /// Policies: runs that average again after every so many checkpoints.
    #[command(after_help = EXIT_CODES)]
    Policy(On<policy::PolicyCommand>),
    /// Projects, which share the workers.
    #[command(after_help = EXIT_CODES)]
    Project(On<project::ProjectCommand>),
    /// Projections of candidates, which workers share.
    #[command(after_help = EXIT_CODES)]
    Projection(On<projection::ProjectionCommand>),
    /// Averaged models.
    #[command(after_help = EXIT_CODES)]
    Artifact(On<artifact::ArtifactCommand>),
    /// Webhooks, by which events are sent to where you want them.
    #[command(after_help = EXIT_CODES)]
    Webhook(On<webhook::WebhookCommand>),
    /// Push the checkpoints that a cluster writes into a folder, as soon as they are finished.
    ///
    /// Safetensors files, PyTorch files (converted here), indexes and folders of either, whose names tell the step. Metrics are
    /// read from `NAME.json` or `NAME.metrics.json` beside a file, from `metrics.json` or `trainer_state.json` in a folder.
    /// Nothing is remembered: what the server has is not sent again. An outage of the server is waited for.
    #[command(after_help = EXIT_CODES)]
    Watch(watch::WatchArguments),
    /// Average files on this machine; needs no server.
    #[command(after_help = EXIT_CODES)]
    Average(AverageArguments),
}

/// A group of commands on a server.
#[derive(Debug, clap::Args)]
pub struct On<C: Subcommand> {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: C,
}

/// Runs a command and tells its errors on standard error.
pub async fn run(command: Command) -> ExitCode {
    exit::code(dispatch(command).await)
}

/// Runs a command on workers and tells its errors on standard error.
pub async fn run_worker_command(command: WorkerCommand) -> ExitCode {
    exit::code(worker::run(command).await)
}

async fn dispatch(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Run(on) => run::run(&on.global.connect()?, &on.global.output(), on.command).await,
        Command::Checkpoint(on) => checkpoint::run(&on.global.connect()?, &on.global.output(), on.command).await,
        Command::Dataset(on) => dataset::run(&on.global.connect()?, &on.global.output(), on.command).await,
        Command::Set(on) => set::run(&on.global.connect()?, &on.global.output(), on.command).await,
        Command::Job(on) => job::run(&on.global.connect()?, &on.global.output(), on.command).await,
        Command::Policy(on) => policy::run(&on.global.connect()?, &on.global.output(), on.command).await,
        Command::Project(on) => project::run(&on.global.connect()?, &on.global.output(), on.command).await,
        Command::Projection(on) => projection::run(&on.global.connect()?, &on.global.output(), on.command).await,
        Command::Artifact(on) => artifact::run(&on.global.connect()?, &on.global.output(), on.command).await,
        Command::Webhook(on) => webhook::run(&on.global.connect()?, &on.global.output(), on.command).await,
        Command::Watch(arguments) => watch::run(arguments).await,
        Command::Average(arguments) => average::run(arguments).await,
    }
}

#[cfg(test)]
mod tests;
