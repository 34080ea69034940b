//! `barycenter project`.

use barycenter_api::{ListQuery, SetProject, client::Client};
use clap::Subcommand;

use crate::{exit::Outcome, output::Output};

/// Commands on projects.
#[derive(Debug, Subcommand)]
pub enum ProjectCommand {
    /// List projects by name.
    List {
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Set how many jobs of a project may run at a time.
    Set {
        /// Its name.
        project: String,
        /// Jobs that may run at a time; as many as there are workers where absent, none where 0.
        #[arg(long)]
        max_running_jobs: Option<u32>,
    },
}

pub async fn run(client: &Client, output: &Output, command: ProjectCommand) -> anyhow::Result<Outcome> {
    match command {
        ProjectCommand::List { limit } => {
            let query = ListQuery { page_size: Some(limit), page_token: None };
            output.list(&client.list_projects(&query).await?.items)?;
        }
        ProjectCommand::Set { project, max_running_jobs } => {
            output.show(&client.set_project(&project, &SetProject { max_running_jobs }).await?)?;
        }
    }
    Ok(Outcome::Success)
}
