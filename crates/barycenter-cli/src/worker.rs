//! `barycenter worker list|show|pause|resume|drain`; without one of these words the command runs a worker.

use anyhow::bail;
use barycenter_api::{EditWorker, ListQuery, Worker, client::Client};
use clap::Subcommand;
use uuid::Uuid;

use crate::{connection::Global, exit::Outcome, output::Output};

/// Commands on the workers of a server.
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// List workers, last registered first: what they compute, when they were last heard of.
    List(OfServer),
    /// Show a worker.
    Show(OfWorker),
    /// Give a worker no more jobs until it is resumed; the one that it has goes on.
    Pause(OfWorker),
    /// Give a paused or draining worker jobs again.
    Resume(OfWorker),
    /// Let a worker end after the job that it has.
    Drain(OfWorker),
}

/// Which server.
#[derive(Debug, clap::Args)]
pub struct OfServer {
    #[command(flatten)]
    global: Global,
}

/// Which worker of which server.
#[derive(Debug, clap::Args)]
pub struct OfWorker {
    /// Name or id.
    worker: String,
    #[command(flatten)]
    global: Global,
}

/// Runs a command on workers.
pub async fn run(command: WorkerCommand) -> anyhow::Result<Outcome> {
    match command {
        WorkerCommand::List(of) => {
            let (client, output) = (of.global.connect()?, of.global.output());
            output.list(&all(&client).await?)?;
        }
        WorkerCommand::Show(of) => of.change(async |client, id| Ok(client.find_worker(id).await?)).await?,
        WorkerCommand::Pause(of) => {
            of.change(async |client, id| Ok(client.edit_worker(id, &EditWorker { paused: true }).await?)).await?;
        }
        WorkerCommand::Resume(of) => {
            of.change(async |client, id| Ok(client.edit_worker(id, &EditWorker { paused: false }).await?)).await?;
        }
        WorkerCommand::Drain(of) => of.change(async |client, id| Ok(client.drain_worker(id).await?)).await?,
    }
    Ok(Outcome::Success)
}

impl OfWorker {
    /// Does something to the worker and shows what it is then.
    async fn change(&self, act: impl AsyncFn(&Client, Uuid) -> anyhow::Result<Worker>) -> anyhow::Result<()> {
        let (client, output): (Client, Output) = (self.global.connect()?, self.global.output());
        let worker_id = match self.worker.parse() {
            Ok(id) => id,
            Err(_) => named(&client, &self.worker).await?,
        };
        output.show(&act(&client, worker_id).await?)
    }
}

async fn named(client: &Client, name: &str) -> anyhow::Result<Uuid> {
    match all(client).await?.into_iter().find(|worker| worker.name == name) {
        Some(worker) => Ok(worker.worker_id),
        None => bail!("there is no worker `{name}`"),
    }
}

/// Every worker, page by page: there are as many as there are machines.
async fn all(client: &Client) -> anyhow::Result<Vec<Worker>> {
    let mut workers = Vec::new();
    let mut query = ListQuery { page_size: Some(1000), page_token: None };
    loop {
        let page = client.list_workers(&query).await?;
        workers.extend(page.items);
        query.page_token = page.next_page_token;
        if query.page_token.is_none() {
            return Ok(workers);
        }
    }
}
