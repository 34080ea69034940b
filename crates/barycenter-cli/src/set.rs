//! `barycenter set`.

use barycenter_api::{
    Among, CandidateSet, CandidateSetRule, CreateCandidateSet, Direction, ListCandidateSets, client::Client,
};
use clap::{ArgGroup, Args, Subcommand};
use uuid::Uuid;

use crate::{deletion, exit::Outcome, output::Output, set_diff};

/// The largest page that the server gives.
const PAGE_SIZE: u32 = 1000;

/// Commands on candidate sets.
#[derive(Debug, Subcommand)]
pub enum SetCommand {
    /// Freeze a candidate set.
    ///
    /// --steps, --every, --tag, --where and --exclude say what is chosen among; --last or --best choose. Without the latter, all
    /// that is left is taken. The rule is kept; the members never change.
    Create(Box<CreateArguments>),
    /// List the candidate sets of a run, newest first.
    List {
        /// Name or id of the run.
        #[arg(long)]
        run: String,
        /// Only the versions of this name.
        #[arg(long)]
        name: Option<String>,
    },
    /// Show a candidate set.
    Show {
        /// Its id.
        candidate_set_id: Uuid,
    },
    /// Delete a candidate set that no job needs.
    Delete {
        /// Its id.
        candidate_set_id: Uuid,
    },
    /// Bring a deleted candidate set back.
    Undelete {
        /// Its id.
        candidate_set_id: Uuid,
    },
    /// Tell what changed from one candidate set to another.
    Diff {
        /// Id of the first.
        from: Uuid,
        /// Id of the second.
        to: Uuid,
    },
}

/// How the members are chosen.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("rule").required(true).multiple(true)
        .args(["last", "best", "steps", "every", "tags", "conditions", "checkpoints"]),
    group = ArgGroup::new("filter").multiple(true)
        .args(["steps", "every", "tags", "conditions", "exclude"]).conflicts_with("checkpoints"),
)]
pub struct CreateArguments {
    /// Name or id of the run.
    #[arg(long)]
    run: String,
    /// The N checkpoints of the highest steps.
    #[arg(long, value_name = "N", conflicts_with_all = ["best", "checkpoints"])]
    last: Option<u32>,
    /// The N best checkpoints by --metric.
    #[arg(long, value_name = "N", requires = "metric", conflicts_with = "checkpoints")]
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
    steps: Option<Steps>,
    /// Every so-manieth, in order of step.
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u32).range(1..))]
    every: Option<u32>,
    /// Only those with this tag; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Only those that meet a condition, as `val_loss<0.5`; may be given several times.
    #[arg(long = "where", value_name = "CONDITION")]
    conditions: Vec<String>,
    /// A step, an id or an alias that takes no part; may be given several times or separated by commas.
    #[arg(long, value_name = "CHECKPOINT", value_delimiter = ',')]
    exclude: Vec<String>,
    /// A further run whose checkpoints take part; may be given several times.
    #[arg(long = "with-run", value_name = "RUN")]
    other_runs: Vec<String>,
    /// These checkpoints, in this order: steps, ids, aliases, or `RUN:STEP` of a further run.
    #[arg(value_name = "CHECKPOINT")]
    checkpoints: Vec<String>,
    /// Name; one that the run has had makes its next version.
    #[arg(long)]
    name: Option<String>,
}

/// A range of steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Steps {
    from: Option<i64>,
    to: Option<i64>,
    every: Option<u32>,
}

/// Reads `FROM:TO` or `FROM:TO:EVERY`; either end may be left out.
fn steps(text: &str) -> Result<Steps, String> {
    let number = |part: &str| match part {
        "" => Ok(None),
        _ => part.parse::<i64>().map(Some).map_err(|_| format!("`{part}` is not a step")),
    };
    match text.split(':').collect::<Vec<_>>()[..] {
        [from, to] => Ok(Steps { from: number(from)?, to: number(to)?, every: None }),
        [from, to, every] => {
            let every = every.parse().ok().filter(|&every| every > 0);
            let every = every.ok_or("EVERY has to be a number above 0")?;
            Ok(Steps { from: number(from)?, to: number(to)?, every: Some(every) })
        }
        _ => Err("expected FROM:TO or FROM:TO:EVERY".into()),
    }
}

impl CreateArguments {
    fn into_body(self) -> CreateCandidateSet {
        let direction = if self.max { Direction::Max } else { Direction::Min };
        let steps = self.steps.unwrap_or_default();
        let among = Among {
            from: steps.from,
            to: steps.to,
            // `--steps A:B:M` with --last or --best thins what they choose among; so does --every.
            every: self.every.or(steps.every),
            tags: self.tags,
            conditions: (!self.conditions.is_empty()).then(|| self.conditions.join(",")),
            exclude: self.exclude,
        };
        let rule = match (self.last, self.best, self.metric) {
            (Some(count), ..) => CandidateSetRule::Last { count, among },
            (_, Some(count), Some(metric)) => CandidateSetRule::Best { count, metric, direction, among },
            _ if !self.checkpoints.is_empty() => {
                CandidateSetRule::Explicit { checkpoint_ids: Vec::new(), checkpoints: self.checkpoints }
            }
            _ => CandidateSetRule::Steps {
                from: steps.from.unwrap_or(0),
                to: steps.to,
                every: among.every.unwrap_or(1),
                among: Among { from: None, to: None, every: None, ..among },
            },
        };
        CreateCandidateSet { name: self.name, rule, other_runs: self.other_runs }
    }
}

async fn list(client: &Client, run: &str, name: Option<String>) -> anyhow::Result<Vec<CandidateSet>> {
    let mut query = ListCandidateSets { name, page_size: Some(PAGE_SIZE), page_token: None };
    let mut items = Vec::new();
    loop {
        let page = client.list_candidate_sets_page(run, &query).await?;
        items.extend(page.items);
        query.page_token = page.next_page_token;
        if query.page_token.is_none() {
            return Ok(items);
        }
    }
}

pub async fn run(client: &Client, output: &Output, command: SetCommand) -> anyhow::Result<Outcome> {
    match command {
        SetCommand::Create(arguments) => {
            let run = arguments.run.clone();
            output.show(&client.create_candidate_set(&run, &arguments.into_body()).await?)?;
        }
        SetCommand::List { run, name } => output.list(&list(client, &run, name).await?)?,
        SetCommand::Show { candidate_set_id } => output.show(&client.find_candidate_set(candidate_set_id).await?)?,
        SetCommand::Delete { candidate_set_id } => {
            let deleted = client.delete_candidate_set(candidate_set_id).await?;
            deletion::tell(output, &format!("the candidate set {candidate_set_id}"), &deleted)?;
        }
        SetCommand::Undelete { candidate_set_id } => {
            output.show(&client.undelete_candidate_set(candidate_set_id).await?)?;
        }
        SetCommand::Diff { from, to } => set_diff::print(output, &client.diff_candidate_sets(from, to).await?)?,
    }
    Ok(Outcome::Success)
}
