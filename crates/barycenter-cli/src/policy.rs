//! `barycenter policy`.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use barycenter_api::{
    ListQuery, Policy, PolicyRefresh, RefreshState, SetPolicy,
    client::{Client, Unless},
};
use clap::Subcommand;

use crate::{
    exit::{Outcome, usage},
    output::Output,
    shown::{Shown, time},
};

/// Commands on policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Set the policy of a run, in place of the one before.
    Set {
        /// Name or id of the run.
        run: String,
        /// A file with the policy as JSON, as `docs/policies.md` shows it; `-` reads standard input.
        #[arg(long, short)]
        file: PathBuf,
    },
    /// Show the policy of a run, and how it stands.
    Show {
        /// Name or id of the run.
        run: String,
    },
    /// Remove the policy of a run; what it has averaged stays.
    Delete {
        /// Name or id of the run.
        run: String,
    },
    /// List the refreshes of a run, newest first.
    Refreshes {
        /// Name or id of the run.
        run: String,
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
}

pub async fn run(client: &Client, output: &Output, command: PolicyCommand) -> anyhow::Result<Outcome> {
    match command {
        PolicyCommand::Set { run, file } => {
            output.show(&client.set_policy(&run, &read(&file)?, &Unless::Never).await?)?;
        }
        PolicyCommand::Show { run } => output.show(&client.find_policy(&run).await?)?,
        PolicyCommand::Delete { run } => {
            client.remove_policy(&run, &Unless::Never).await?;
            output.say(&format!("the run {run} has no policy any more"));
        }
        PolicyCommand::Refreshes { run, limit } => {
            let query = ListQuery { page_size: Some(limit), page_token: None };
            output.list(&client.list_refreshes(&run, &query).await?.items)?;
        }
    }
    Ok(Outcome::Success)
}

fn read(file: &Path) -> anyhow::Result<SetPolicy> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    }
    serde_json::from_str(&text).map_err(|error| usage(format!("{} is no policy: {error}", file.display())))
}

impl Shown for Policy {
    const COLUMNS: &'static [&'static str] = &["every", "window", "new", "best", "without improvement", "enabled"];

    fn id(&self) -> String {
        self.run_id.to_string()
    }

    fn row(&self) -> Vec<String> {
        let best = self.best_refresh.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let (every, window) = (self.every.to_string(), format!("last {}", self.window.last));
        let (new, without) = (self.new_checkpoints.to_string(), self.without_improvement.to_string());
        vec![every, window, new, best, without, self.enabled.to_string()]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut pairs: Vec<_> = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        pairs.push(("improvement", self.improvement.to_string()));
        pairs.push(("alias", self.alias.clone()));
        pairs.extend(self.patience.map(|patience| ("patience", patience.to_string())));
        pairs.extend(self.target.map(|target| ("target below", target.below.to_string())));
        pairs.extend(self.target_reached_at.map(|at| ("target reached", time(at))));
        pairs
    }
}

impl Shown for PolicyRefresh {
    const COLUMNS: &'static [&'static str] =
        &["number", "state", "select loss", "test loss", "difference", "chosen", "began", "job"];

    fn id(&self) -> String {
        self.refresh_id.to_string()
    }

    fn row(&self) -> Vec<String> {
        let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
        let state = match self.state {
            RefreshState::Running => "running",
            RefreshState::Improved => "improved",
            RefreshState::NotImproved => "not improved",
            RefreshState::Failed => "failed",
            RefreshState::Abandoned => "abandoned",
        };
        vec![
            self.number.to_string(),
            state.to_owned(),
            figure(self.select_loss),
            figure(self.test_loss),
            figure(self.difference),
            self.chosen.clone().unwrap_or_else(|| "-".to_owned()),
            time(self.started_at),
            self.job_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
        ]
    }
}
