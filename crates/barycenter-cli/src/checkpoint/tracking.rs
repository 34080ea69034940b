//! Lists of checkpoints, and what is reported about them later.

use barycenter_api::{Checkpoint, EditCheckpoint, ListCheckpoints, SortOrder, client::Client};
use chrono::{DateTime, Utc};
use clap::{ArgGroup, Args};
use uuid::Uuid;

use super::named_value;
use crate::exit::usage;

/// The largest page that the server gives.
const PAGE_SIZE: u32 = 1000;

/// Which checkpoints to list.
#[derive(Debug, Args)]
pub struct ListArguments {
    /// Name or id of the run.
    #[arg(long)]
    run: String,
    /// `created_at`, `step`, or a metric: those without it are left out.
    #[arg(long, value_name = "KEY")]
    sort: Option<String>,
    /// Smallest first; metrics are listed so unless told.
    #[arg(long, conflicts_with = "desc")]
    asc: bool,
    /// Greatest first; steps and times are listed so unless told.
    #[arg(long)]
    desc: bool,
    /// A condition on a metric, as `val_loss<0.5`; may be given several times.
    #[arg(long = "where", value_name = "CONDITION")]
    conditions: Vec<String>,
    /// Only those with this tag; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Only steps from one to another; either end may be left out.
    #[arg(long, value_name = "FROM:TO", value_parser = step_range)]
    steps: Option<StepRange>,
    /// Only those stored at this time (RFC 3339) or later.
    #[arg(long, value_name = "TIME")]
    created_from: Option<DateTime<Utc>>,
    /// Only those stored before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    created_before: Option<DateTime<Utc>>,
    /// Those that are deleted and can still be undeleted.
    #[arg(long, conflicts_with = "sort")]
    deleted: bool,
    /// At most so many; all unless told.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

/// First and last step, where told.
pub type StepRange = (Option<i64>, Option<i64>);

/// Reads `FROM:TO`, of which either end may be left out.
fn step_range(text: &str) -> Result<StepRange, String> {
    let number = |part: &str| match part {
        "" => Ok(None),
        _ => part.parse::<i64>().map(Some).map_err(|_| format!("`{part}` is not a step")),
    };
    let (from, to) = text.split_once(':').ok_or("expected FROM:TO")?;
    Ok((number(from)?, number(to)?))
}

impl ListArguments {
    /// The checkpoints of as many pages as it takes.
    pub async fn list(&self, client: &Client) -> anyhow::Result<Vec<Checkpoint>> {
        let limit = self.limit.map_or(usize::MAX, |limit| limit as usize);
        let mut query = self.query();
        let mut items = Vec::new();
        loop {
            let page = client.list_checkpoints_page(&self.run, &query).await?;
            items.extend(page.items);
            query.page_token = page.next_page_token;
            if query.page_token.is_none() || items.len() >= limit {
                items.truncate(limit);
                return Ok(items);
            }
        }
    }

    fn query(&self) -> ListCheckpoints {
        let list = |items: &[String]| (!items.is_empty()).then(|| items.join(","));
        let (from_step, to_step) = self.steps.unwrap_or_default();
        ListCheckpoints {
            sort: self.sort.clone(),
            order: if self.asc { Some(SortOrder::Asc) } else { self.desc.then_some(SortOrder::Desc) },
            tag: list(&self.tags),
            from_step,
            to_step,
            conditions: list(&self.conditions),
            created_from: self.created_from,
            created_before: self.created_before,
            deleted: self.deleted.then_some(true),
            page_size: Some(self.limit.map_or(PAGE_SIZE, |limit| limit.min(PAGE_SIZE))),
            page_token: None,
        }
    }
}

/// A checkpoint, by id, or by step or alias of a run.
#[derive(Debug, Args)]
pub struct Named {
    /// Its id; with --run, its step or an alias such as `latest`.
    checkpoint: String,
    /// Name or id of the run.
    #[arg(long)]
    run: Option<String>,
}

impl Named {
    /// The checkpoint as it stands.
    pub async fn find(&self, client: &Client) -> anyhow::Result<Checkpoint> {
        find_named(client, self.run.as_deref(), &self.checkpoint).await
    }

    /// Pins it, or unpins it.
    pub async fn pin(&self, client: &Client, pinned: bool) -> anyhow::Result<Checkpoint> {
        let id = self.find(client).await?.checkpoint_id;
        Ok(client.pin_checkpoint(id, pinned).await?)
    }
}

/// A checkpoint by id, or by step or alias of a run.
pub async fn find_named(client: &Client, run: Option<&str>, named: &str) -> anyhow::Result<Checkpoint> {
    match (run, named.parse::<Uuid>()) {
        (Some(run), _) => Ok(client.find_named_checkpoint(run, named).await?),
        (None, Ok(id)) => Ok(client.find_checkpoint(id).await?),
        (None, Err(_)) => Err(usage(format!("`{named}` is not an id; with --run it may be a step or an alias"))),
    }
}

/// What to report.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true).args(["metrics", "unset", "tags", "no_tags"]))]
pub struct EditArguments {
    #[command(flatten)]
    named: Named,
    /// A metric to set; may be given several times, those not named stay.
    #[arg(long = "metric", value_name = "NAME=VALUE", value_parser = named_value)]
    metrics: Vec<(String, f64)>,
    /// A metric to remove; may be given several times.
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
    /// A tag, in place of all tags before; may be given several times.
    #[arg(long = "tag", value_name = "TAG", conflicts_with = "no_tags")]
    tags: Vec<String>,
    /// Remove all tags.
    #[arg(long)]
    no_tags: bool,
}

impl EditArguments {
    /// Sends the report.
    pub async fn edit(&self, client: &Client) -> anyhow::Result<Checkpoint> {
        let set = self.metrics.iter().map(|(name, value)| (name.clone(), Some(*value)));
        let unset = self.unset.iter().map(|name| (name.clone(), None));
        let tags = (self.no_tags || !self.tags.is_empty()).then(|| self.tags.clone());
        let edit = EditCheckpoint { metrics: set.chain(unset).collect(), tags };
        let id = self.named.find(client).await?.checkpoint_id;
        Ok(client.edit_checkpoint(id, &edit).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_end_of_a_range_of_steps_may_be_left_out() {
        assert_eq!(step_range("10:20"), Ok((Some(10), Some(20))));
        assert_eq!(step_range("10:"), Ok((Some(10), None)));
        assert_eq!(step_range(":20"), Ok((None, Some(20))));
        for wrong in ["10", "a:b", ""] {
            step_range(wrong).unwrap_err();
        }
    }
}
