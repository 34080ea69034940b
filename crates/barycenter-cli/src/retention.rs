//! `barycenter run retention`.

use barycenter_api::{Direction, DoomedCheckpoint, KeepBest, Retention, client::Client};
use clap::{Args, Subcommand};

use crate::{
    exit::usage,
    output::{self, Format, Output},
    shown::bytes,
};

/// Commands on the retention rules of a run.
#[derive(Debug, Subcommand)]
pub enum RetentionCommand {
    /// Show the rules of a run.
    Show {
        /// Name or id of the run.
        run: String,
    },
    /// Set the rules of a run, in place of those before; the next collection deletes what they do not keep.
    ///
    /// Pinned checkpoints, and those that an alias, a candidate set or a job needs, are kept whatever the rules say.
    Set {
        /// Name or id of the run.
        run: String,
        #[command(flatten)]
        rules: RuleArguments,
    },
    /// Remove the rules of a run: everything is kept.
    Clear {
        /// Name or id of the run.
        run: String,
    },
    /// List what the rules of a run, or others that are only tried, would delete now, and the bytes that this would free.
    Preview {
        /// Name or id of the run.
        run: String,
        #[command(flatten)]
        rules: RuleArguments,
    },
}

/// Rules.
#[derive(Clone, Debug, Args)]
pub struct RuleArguments {
    /// Keep the checkpoints of the N highest steps.
    #[arg(long = "keep-last", value_name = "N")]
    last: Option<u32>,
    /// Keep the N best by a metric; may be given several times.
    #[arg(long = "keep-best", value_name = "N:METRIC:min|max", value_parser = keep_best)]
    best: Vec<KeepBest>,
    /// Keep those whose step is a multiple of M.
    #[arg(long = "keep-every-steps", value_name = "M", value_parser = clap::value_parser!(i64).range(1..))]
    every_steps: Option<i64>,
}

/// Reads `N:METRIC:min` or `N:METRIC:max`.
fn keep_best(text: &str) -> Result<KeepBest, String> {
    let [count, metric, direction] = text.split(':').collect::<Vec<_>>()[..] else {
        return Err("expected N:METRIC:min or N:METRIC:max".into());
    };
    let count = count.parse().ok().filter(|count| *count > 0).ok_or("N has to be a number above 0")?;
    let direction = match direction {
        "min" => Direction::Min,
        "max" => Direction::Max,
        _ => return Err(format!("`{direction}` is neither min nor max")),
    };
    Ok(KeepBest { count, metric: metric.to_owned(), direction })
}

impl From<RuleArguments> for Retention {
    fn from(rules: RuleArguments) -> Self {
        Self { last: rules.last.unwrap_or(0), best: rules.best, every_steps: rules.every_steps }
    }
}

pub async fn run(client: &Client, output: &Output, command: RetentionCommand) -> anyhow::Result<()> {
    match command {
        RetentionCommand::Show { run } => output::write_json(&client.find_retention(&run).await?),
        RetentionCommand::Set { run, rules } => {
            let rules: Retention = rules.into();
            if rules == Retention::default() {
                return Err(usage("give --keep-last, --keep-best or --keep-every-steps; `clear` keeps everything"));
            }
            client.set_retention(&run, Some(&rules)).await?;
            output::write_json(&rules)
        }
        RetentionCommand::Clear { run } => {
            client.set_retention(&run, None).await?;
            output.say("everything is kept");
            Ok(())
        }
        RetentionCommand::Preview { run, rules } => {
            let tried: Retention = rules.into();
            preview(client, output, &run, (tried != Retention::default()).then_some(tried)).await
        }
    }
}

async fn preview(client: &Client, output: &Output, run: &str, tried: Option<Retention>) -> anyhow::Result<()> {
    let preview = client.preview_retention(run, tried.as_ref()).await?;
    let row = |doomed: &DoomedCheckpoint| {
        vec![doomed.step.to_string(), bytes(doomed.size_bytes), doomed.checkpoint_id.to_string()]
    };
    match output.format() {
        Format::Json => return output::write_json(&preview),
        Format::Id => {
            return preview.checkpoints.iter().try_for_each(|doomed| output::write(&doomed.checkpoint_id.to_string()));
        }
        Format::Table => output.table(&["step", "size", "id"], preview.checkpoints.iter().map(row))?,
    }
    output.say(&format!("{} checkpoints would go, {} bytes be free", preview.checkpoints.len(), preview.freed_bytes));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_to_keep_are_a_count_a_metric_and_a_direction() {
        let read = keep_best("3:val_loss:min").unwrap();
        assert_eq!((read.count, read.metric.as_str(), read.direction), (3, "val_loss", Direction::Min));
        for wrong in ["3", "3:val_loss", "0:val_loss:min", "x:val_loss:min", "3:val_loss:least"] {
            keep_best(wrong).unwrap_err();
        }
    }
}
