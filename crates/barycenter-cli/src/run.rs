//! `barycenter run`.

use std::{ops::ControlFlow, time::Duration};

use barycenter_api::{
    CreateRun, EditRun, EventKind, ListQuery, SetAlias,
    client::{Client, Unless},
};
use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    deletion,
    exit::Outcome,
    output::{self, Output},
    retention::{self, RetentionCommand},
};

/// Commands on runs.
#[derive(Debug, Subcommand)]
pub enum RunCommand {
    /// Open a run.
    Create {
        /// Unique name: letters, digits, `.`, `_`, `-`.
        name: String,
        /// Project that shares the workers with others; made where it is new.
        #[arg(long)]
        project: Option<String>,
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
        /// Those that are deleted and can still be undeleted.
        #[arg(long)]
        deleted: bool,
    },
    /// Change a run's description or metadata.
    Edit(EditArguments),
    /// Names for checkpoints and artifacts of a run: `latest` moves by itself, all others are yours.
    #[command(subcommand)]
    Alias(AliasCommand),
    /// Which checkpoints of a run are kept.
    #[command(subcommand)]
    Retention(RetentionCommand),
    /// Wait for one of these events of a run and print it; for training loops, which stop or decay then.
    Wait {
        /// Name or id.
        run: String,
        /// Kinds of events, separated by commas, such as `policy.target_reached,policy.stalled`.
        #[arg(long = "event", required = true, value_delimiter = ',', value_parser = kind, value_name = "KIND")]
        kinds: Vec<EventKind>,
        /// Also those that happened after this event; without it only what happens from now on counts.
        #[arg(long, value_name = "EVENT_ID")]
        after: Option<i64>,
        /// Give up after so many seconds, with exit code 6.
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Delete a run with all that it has.
    Delete {
        /// Name or id.
        run: String,
    },
    /// Bring a deleted run back with all that was deleted with it.
    Undelete {
        /// Its id: a deleted run has no name.
        run_id: Uuid,
    },
    /// Show a run.
    Show {
        /// Name or id.
        run: String,
    },
}

/// What to change.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true)
    .args(["description", "no_description", "metadata", "unset"]))]
pub struct EditArguments {
    /// Name or id.
    run: String,
    /// New description.
    #[arg(long, conflicts_with = "no_description")]
    description: Option<String>,
    /// Remove the description.
    #[arg(long)]
    no_description: bool,
    /// A JSON object that is merged into the metadata; `null` removes a key.
    #[arg(long, value_parser = object, value_name = "JSON")]
    metadata: Option<Map<String, Value>>,
    /// Remove this key of the metadata; may be given several times.
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    /// Change only what still has this revision, as `run show` tells it.
    #[arg(long, value_name = "N")]
    revision: Option<i64>,
}

impl EditArguments {
    fn edit(&self) -> EditRun {
        let unset = self.unset.iter().map(|key| (key.clone(), Value::Null));
        let metadata: Map<String, Value> = self.metadata.clone().unwrap_or_default().into_iter().chain(unset).collect();
        let description = if self.no_description { Some(None) } else { self.description.clone().map(Some) };
        EditRun { description, metadata: (!metadata.is_empty()).then_some(metadata) }
    }
}

/// Commands on aliases.
#[derive(Debug, Subcommand)]
pub enum AliasCommand {
    /// Set an alias, or move it.
    Set {
        /// Name or id of the run.
        run: String,
        /// The alias, such as `best`.
        alias: String,
        /// The checkpoint: its step, its id or another alias.
        #[arg(required_unless_present = "artifact", conflicts_with = "artifact")]
        checkpoint: Option<String>,
        /// The artifact, in place of a checkpoint.
        #[arg(long, value_name = "ARTIFACT_ID")]
        artifact: Option<Uuid>,
        /// Refuse to move an alias that is there.
        #[arg(long)]
        new: bool,
    },
    /// Remove an alias; what it named stays.
    Remove {
        /// Name or id of the run.
        run: String,
        /// The alias.
        alias: String,
    },
    /// List the aliases of a run.
    List {
        /// Name or id of the run.
        run: String,
    },
    /// Show what an alias names.
    Show {
        /// Name or id of the run.
        run: String,
        /// The alias.
        alias: String,
    },
}

async fn alias(client: &Client, output: &Output, command: AliasCommand) -> anyhow::Result<()> {
    match command {
        AliasCommand::Set { run, alias, checkpoint, artifact, new } => {
            let target = SetAlias { checkpoint, artifact_id: artifact };
            let unless = if new { Unless::Present } else { Unless::Never };
            output.show(&client.set_alias(&run, &alias, &target, &unless).await?)
        }
        AliasCommand::Remove { run, alias } => {
            client.remove_alias(&run, &alias, &Unless::Never).await?;
            output.say(&format!("removed the alias {alias}"));
            Ok(())
        }
        AliasCommand::List { run } => output.list(&client.list_aliases(&run).await?),
        AliasCommand::Show { run, alias } => output.show(&client.find_alias(&run, &alias).await?),
    }
}

fn kind(text: &str) -> Result<EventKind, String> {
    serde_json::from_value(text.into()).map_err(|_| format!("`{text}` is no kind of event"))
}

async fn wait(
    client: &Client,
    run: &str,
    kinds: &[EventKind],
    after: Option<i64>,
    timeout: Option<u64>,
) -> anyhow::Result<Outcome> {
    let following = client.follow_run(run, after, |event| {
        if kinds.contains(&event.kind) { ControlFlow::Break(event) } else { ControlFlow::Continue(()) }
    });
    let found = match timeout {
        None => following.await?,
        Some(seconds) => match tokio::time::timeout(Duration::from_secs(seconds), following).await {
            Ok(found) => found?,
            Err(_) => return Ok(Outcome::TimedOut),
        },
    };
    output::write_json(&found)?;
    Ok(Outcome::Success)
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|e| format!("not a JSON object: {e}"))
}

pub async fn run(client: &Client, output: &Output, command: RunCommand) -> anyhow::Result<Outcome> {
    match command {
        RunCommand::Create { name, project, description, metadata } => {
            let body = CreateRun { name, project, description, metadata: metadata.unwrap_or_default() };
            output.show(&client.create_run(&body).await?)?;
        }
        RunCommand::List { limit, deleted } => {
            let query = ListQuery { page_size: Some(limit), page_token: None };
            let page = if deleted { client.list_deleted_runs(&query).await? } else { client.list_runs(&query).await? };
            output.list(&page.items)?;
        }
        RunCommand::Edit(arguments) => {
            let revision = arguments.revision.map(|revision| Unless::ChangedFrom(revision.to_string()));
            let edited = client.edit_run(&arguments.run, &arguments.edit(), &revision.unwrap_or_default()).await?;
            output.show(&edited)?;
        }
        RunCommand::Alias(command) => alias(client, output, command).await?,
        RunCommand::Retention(command) => retention::run(client, output, command).await?,
        RunCommand::Wait { run, kinds, after, timeout } => return wait(client, &run, &kinds, after, timeout).await,
        RunCommand::Delete { run } => {
            let found = client.find_run(&run).await?;
            let deleted = client.delete_run(&found.run_id.to_string()).await?;
            deletion::tell(output, &format!("the run {} ({})", found.name, found.run_id), &deleted)?;
        }
        RunCommand::Undelete { run_id } => output.show(&client.undelete_run(run_id).await?)?,
        RunCommand::Show { run } => output.show(&client.find_run(&run).await?)?,
    }
    Ok(Outcome::Success)
}
