//! `barycenter run`.

use barycenter_api::{CreateRun, ListQuery, client::Client};
use clap::Subcommand;
use serde_json::{Map, Value};

use crate::{exit::Outcome, output::Output};

/// Commands on runs.
#[derive(Debug, Subcommand)]
pub enum RunCommand {
    /// Open a run.
    Create {
        /// Unique name: letters, digits, `.`, `_`, `-`.
        name: String,
        /// Free text.
        #[arg(long)]
        description: Option<String>,
        /// Anything to keep beside the run, a JSON object.
        #[arg(long, value_parser = object, value_name = "JSON")]
        metadata: Option<Map<String, Value>>,
    },
    /// List runs, newest first.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show a run.
    Show {
        /// Name or id.
        run: String,
    },
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|e| format!("not a JSON object: {e}"))
}

pub async fn run(client: &Client, output: &Output, command: RunCommand) -> anyhow::Result<Outcome> {
    match command {
        RunCommand::Create { name, description, metadata } => {
            let body = CreateRun { name, description, metadata: metadata.unwrap_or_default() };
            output.show(&client.create_run(&body).await?)?;
        }
        RunCommand::List { limit } => {
            let query = ListQuery { page_size: Some(limit), page_token: None };
            output.list(&client.list_runs(&query).await?.items)?;
        }
        RunCommand::Show { run } => output.show(&client.find_run(&run).await?)?,
    }
    Ok(Outcome::Success)
}
