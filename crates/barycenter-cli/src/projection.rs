//! `barycenter projection`.

use barycenter_api::{ListQuery, client::Client};
use clap::Subcommand;

use crate::{exit::Outcome, output::Output};

/// Commands on the projections that workers share.
#[derive(Debug, Subcommand)]
pub enum ProjectionCommand {
    /// List projections, last come first.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Take a projection out of the server's cache; a worker that needs it builds it.
    Delete {
        /// What it is called.
        projection_key: String,
    },
}

pub async fn run(client: &Client, output: &Output, command: ProjectionCommand) -> anyhow::Result<Outcome> {
    match command {
        ProjectionCommand::List { limit } => {
            let query = ListQuery { page_size: Some(limit), page_token: None };
            output.list(&client.list_projections(&query).await?.items)?;
        }
        ProjectionCommand::Delete { projection_key } => {
            client.delete_projection(&projection_key).await?;
            output.say(&format!("deleted the projection {projection_key}"));
        }
    }
    Ok(Outcome::Success)
}
