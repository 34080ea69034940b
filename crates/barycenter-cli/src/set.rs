//! `barycenter set`.

use barycenter_api::{CandidateSetRule, CreateCandidateSet, Direction, client::Client};
use clap::{ArgGroup, Args, Subcommand};
use uuid::Uuid;

use crate::{exit::Outcome, output::Output};

/// Commands on candidate sets.
#[derive(Debug, Subcommand)]
pub enum SetCommand {
    /// Freeze a candidate set.
    Create(CreateArguments),
    /// List the candidate sets of a run, newest first.
    List {
        /// Name or id of the run.
        #[arg(long)]
        run: String,
    },
    /// Show a candidate set.
    Show {
        /// Its id.
        candidate_set_id: Uuid,
    },
}

/// How the members are chosen.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("rule").required(true).args(["last", "best", "steps", "checkpoints"]))]
pub struct CreateArguments {
    /// Name or id of the run.
    #[arg(long)]
    run: String,
    /// The N checkpoints of the highest steps.
    #[arg(long, value_name = "N")]
    last: Option<u32>,
    /// The N best checkpoints by --metric.
    #[arg(long, value_name = "N", requires = "metric")]
    best: Option<u32>,
    /// Name of a reported metric.
    #[arg(long, requires = "best")]
    metric: Option<String>,
    /// Smaller is better (the default).
    #[arg(long, requires = "best", conflicts_with = "max")]
    min: bool,
    /// Larger is better.
    #[arg(long, requires = "best")]
    max: bool,
    /// Checkpoints from one step to another, every so-manieth of them.
    #[arg(long, value_name = "FROM:TO[:EVERY]", value_parser = steps)]
    steps: Option<CandidateSetRule>,
    /// These checkpoints, in this order.
    #[arg(value_name = "CHECKPOINT_ID")]
    checkpoints: Vec<Uuid>,
    /// Name, for people.
    #[arg(long)]
    name: Option<String>,
}

fn steps(text: &str) -> Result<CandidateSetRule, String> {
    let number = |part: &str| part.parse::<i64>().map_err(|_| format!("`{part}` is not a step"));
    match text.split(':').collect::<Vec<_>>()[..] {
        [from, to] => Ok(CandidateSetRule::Steps { from: number(from)?, to: number(to)?, every: 1 }),
        [from, to, every] => {
            let every = every.parse().ok().filter(|&every| every > 0);
            let every = every.ok_or("EVERY has to be a number above 0")?;
            Ok(CandidateSetRule::Steps { from: number(from)?, to: number(to)?, every })
        }
        _ => Err("expected FROM:TO or FROM:TO:EVERY".into()),
    }
}

impl CreateArguments {
    fn into_body(self) -> CreateCandidateSet {
        let direction = if self.max { Direction::Max } else { Direction::Min };
        let rule = match (self.last, self.best, self.metric, self.steps) {
            (Some(count), ..) => CandidateSetRule::Last { count },
            (_, Some(count), Some(metric), _) => CandidateSetRule::Best { count, metric, direction },
            (.., Some(steps)) => steps,
            _ => CandidateSetRule::Explicit { checkpoint_ids: self.checkpoints },
        };
        CreateCandidateSet { name: self.name, rule }
    }
}

pub async fn run(client: &Client, output: &Output, command: SetCommand) -> anyhow::Result<Outcome> {
    match command {
        SetCommand::Create(arguments) => {
            let run = arguments.run.clone();
            output.show(&client.create_candidate_set(&run, &arguments.into_body()).await?)?;
        }
        SetCommand::List { run } => output.list(&client.list_candidate_sets(&run).await?)?,
        SetCommand::Show { candidate_set_id } => output.show(&client.find_candidate_set(candidate_set_id).await?)?,
    }
    Ok(Outcome::Success)
}
