//! `barycenter watch`: pushes the checkpoints that a cluster writes into a folder.
//!
//! Nothing is remembered on this machine: what the server has is not sent again, so the command may be stopped, killed and
//! started anew at any time.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use backon::{ExponentialBuilder, Retryable};
use barycenter_api::{
    Checkpoint, CreateRun, EditCheckpoint,
    client::{Client, ClientError},
};
use chrono::{DateTime, Utc};
use clap::Args;

mod beside;
mod changes;
mod found;
mod stop;

use self::{
    beside::Beside,
    changes::Changes,
    found::{Found, Print, Steps},
};
use crate::{
    connection::Global,
    exit::{self, Outcome},
    output::Output,
    push::{self, Destination, Manner},
};

/// Changes come in crowds: so long they are gathered.
const GATHERED: Duration = Duration::from_millis(500);

/// What to watch.
#[derive(Debug, Args)]
pub struct WatchArguments {
    #[command(flatten)]
    global: Global,
    /// The folder that the cluster writes checkpoints into, as files or as folders.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Name or id of the run.
    #[arg(long)]
    run: String,
    /// Open the run where there is none of this name.
    #[arg(long)]
    create_run: bool,
    /// Regular expression with a group `step`, as `model_(?<step>\d+)`; names that it does not match are passed over. Unless
    /// told: digits after `step`, else after `checkpoint`, `ckpt` or `iter`, else after `epoch`.
    #[arg(long, value_name = "REGEX", value_parser = Steps::parse)]
    step_pattern: Option<Steps>,
    /// A tag of every checkpoint; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Push what is finished now and end; the exit code is 1 where something is not finished or was refused.
    #[arg(long)]
    once: bool,
    /// Seconds for which a checkpoint has to stay as it is before it counts as finished.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    settle: Duration,
    /// Seconds between two looks at the folder, also where the system tells of no change, as on network disks.
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    poll: Duration,
    /// Where the state dict lies in PyTorch files, as `model.state_dict`; found unless there are several.
    #[arg(long, value_name = "PATH")]
    key: Option<String>,
    /// Parts of a large file that are sent at a time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(format!("`{text}` is no time to wait")),
    }
}

/// Watches until it is told to stop; with `--once`, looks and ends.
pub async fn run(arguments: WatchArguments) -> anyhow::Result<Outcome> {
    let output = arguments.global.output();
    let watch = Watch { client: arguments.global.connect()?, output: &output, arguments: &arguments };
    tokio::select! {
        done = watch.run() => done,
        () = stop::told() => {
            // What is under way is found again by the server, part by part.
            output.say("stopped");
            Ok(Outcome::Success)
        }
    }
}

struct Watch<'a> {
    client: Client,
    output: &'a Output,
    arguments: &'a WatchArguments,
}

/// A checkpoint as it was seen last.
struct Seen {
    step: i64,
    print: Print,
    since: Instant,
    /// Whether it was dealt with as it is.
    done: bool,
}

/// Everything that was seen, by path.
type AllSeen = BTreeMap<PathBuf, Seen>;

impl Watch<'_> {
    async fn run(&self) -> anyhow::Result<Outcome> {
        if !self.arguments.folder.is_dir() {
            bail!("{}: there is no such folder", self.arguments.folder.display());
        }
        self.patiently(|| self.find_run()).await?;
        if self.arguments.once { self.once().await } else { self.always().await }
    }

    async fn find_run(&self) -> anyhow::Result<()> {
        let name = &self.arguments.run;
        let absent = match self.client.find_run(name).await {
            Err(error) if self.arguments.create_run && has_code(&error, "run_not_found") => error,
            found => return Ok(found.map(drop)?),
        };
        let body = CreateRun { name: name.clone(), description: None, project: None, metadata: serde_json::Map::new() };
        match self.client.create_run(&body).await {
            Err(error) if !has_code(&error, "name_taken") => Err(error).context(absent),
            _ => Ok(()),
        }
    }

    async fn once(&self) -> anyhow::Result<Outcome> {
        let mut seen = AllSeen::new();
        self.look(&mut seen).await?;
        tokio::time::sleep(self.arguments.settle).await;
        self.look(&mut seen).await?;
        let mut left = Vec::new();
        for path in self.settled(&seen) {
            if !self.deal_with(&mut seen, &path).await? {
                left.push(path);
            }
        }
        left.extend(seen.iter().filter(|(_, seen)| !seen.done).map(|(path, _)| path.clone()));
        if left.is_empty() {
            return Ok(Outcome::Success);
        }
        let left: BTreeSet<String> = left.iter().map(|path| path.display().to_string()).collect();
        bail!("not pushed: {}", left.into_iter().collect::<Vec<_>>().join(", "))
    }

    async fn always(&self) -> anyhow::Result<Outcome> {
        let changes = Changes::of(&self.arguments.folder);
        if let Err(error) = &changes {
            self.output
                .say(&format!("the system tells of no changes ({error}); looking every {:?}", self.arguments.poll));
        }
        let mut seen = AllSeen::new();
        loop {
            if let Err(error) = self.look(&mut seen).await {
                self.output.say(&exit::told(&error));
            }
            for path in self.settled(&seen) {
                self.deal_with(&mut seen, &path).await?;
            }
            let is_unsettled = seen.values().any(|seen| !seen.done);
            let pause = if is_unsettled { self.arguments.settle.min(self.arguments.poll) } else { self.arguments.poll };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = changes::next(changes.as_ref().ok()) => tokio::time::sleep(GATHERED.min(self.arguments.settle)).await,
            }
        }
    }

    /// Looks at the folder: what has changed is to be dealt with once it has settled.
    async fn look(&self, seen: &mut AllSeen) -> anyhow::Result<()> {
        let (folder, steps) = (self.arguments.folder.clone(), self.arguments.step_pattern.clone().unwrap_or_default());
        let found = tokio::task::spawn_blocking(move || found::look(&folder, &steps)).await??;
        let now = Instant::now();
        seen.retain(|path, _| found.iter().any(|found| found.path == *path));
        for Found { path, step, print } in found {
            let known = seen.get(&path).is_some_and(|seen| seen.print == print);
            if !known {
                seen.insert(path, Seen { step, print, since: now, done: false });
            }
        }
        Ok(())
    }

    /// What has stayed as it is for long enough and was not dealt with, by step.
    fn settled(&self, seen: &AllSeen) -> Vec<PathBuf> {
        let is_due = |seen: &Seen| !seen.done && seen.since.elapsed() >= self.arguments.settle;
        let mut due: Vec<(i64, &PathBuf)> =
            seen.iter().filter(|(_, seen)| is_due(seen)).map(|(path, seen)| (seen.step, path)).collect();
        due.sort();
        due.into_iter().map(|(_, path)| path.clone()).collect()
    }

    /// Pushes what is whole; false where it is not, or was refused. What cannot be mended by waiting ends the command.
    async fn deal_with(&self, all: &mut AllSeen, path: &PathBuf) -> anyhow::Result<bool> {
        let Some(seen) = all.get_mut(path) else { return Ok(true) };
        seen.done = true;
        let found = Found { path: path.clone(), step: seen.step, print: seen.print.clone() };
        let whole = found::check_whole(path, self.arguments.key.clone()).await;
        let pushed = match whole {
            Ok(()) => self.patiently(|| self.push(&found)).await,
            Err(error) => Err(error.context("is not whole, or not yet")),
        };
        let Err(error) = pushed else { return Ok(true) };
        let fatal = error.downcast_ref::<ClientError>().is_some_and(|error| {
            has_code(error, "run_not_found") || error.status().is_some_and(|status| status.as_u16() == 401)
        });
        let error = error.context(format!("{} (step {})", path.display(), found.step));
        if fatal {
            return Err(error);
        }
        eprintln!("{}", exit::told(&error));
        Ok(false)
    }

    async fn push(&self, found: &Found) -> anyhow::Result<()> {
        let WatchArguments { run, tags, key, parallel, .. } = self.arguments;
        let told = beside::read(&found.path);
        if let Err(error) = &told {
            self.output.say(&format!("{}; its metrics are left out", exit::told(error)));
        }
        let told = told.unwrap_or_default();
        if let Some(checkpoint) = self.find_pushed(found).await? {
            return self.tell(&checkpoint, &told).await;
        }
        let (epoch, metrics) = (told.epoch, told.metrics.clone());
        let destination = Destination { run: run.clone(), step: found.step, epoch, metrics, tags: tags.clone() };
        let manner = Manner { key: key.clone(), parallel: (*parallel).into() };
        let checkpoint = push::push(&self.client, self.output, &found.path, &destination, &manner).await?;
        self.output.say(&format!("{}: stored as step {}", found.path.display(), found.step));
        self.tell(&checkpoint, &told).await
    }

    /// The checkpoint of this step, where nothing here is newer: then not even its digest has to be computed.
    async fn find_pushed(&self, found: &Found) -> anyhow::Result<Option<Checkpoint>> {
        match self.client.find_named_checkpoint(&self.arguments.run, &found.step.to_string()).await {
            Ok(checkpoint) => {
                let newest = found.print.newest().map(DateTime::<Utc>::from);
                Ok(Some(checkpoint).filter(|checkpoint| newest.is_some_and(|newest| newest < checkpoint.created_at)))
            }
            Err(error) if has_code(&error, "checkpoint_not_found") => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reports metrics that came after the checkpoint; what somebody has reported since is left alone.
    async fn tell(&self, checkpoint: &Checkpoint, told: &Beside) -> anyhow::Result<()> {
        let is_newer = told.changed.map(DateTime::<Utc>::from).is_some_and(|changed| changed > checkpoint.created_at);
        let is_news = |(name, value): &(&String, &f64)| match checkpoint.metrics.get(*name) {
            None => true,
            Some(known) => is_newer && known.to_bits() != value.to_bits(),
        };
        let news: BTreeMap<String, Option<f64>> =
            told.metrics.iter().filter(is_news).map(|(name, value)| (name.clone(), Some(*value))).collect();
        if !news.is_empty() {
            let edit = EditCheckpoint { metrics: news, tags: None };
            self.client.edit_checkpoint(checkpoint.checkpoint_id, &edit).await?;
        }
        Ok(())
    }

    /// Tries until the server is there; with `--once` as long as any other command does.
    async fn patiently<T, F: Future<Output = anyhow::Result<T>>>(
        &self,
        attempt: impl FnMut() -> F,
    ) -> anyhow::Result<T> {
        let outage = ExponentialBuilder::new()
            .with_min_delay(Duration::from_secs(1))
            .with_max_delay(Duration::from_mins(1))
            .with_jitter()
            .without_max_times();
        let outage = if self.arguments.once { outage.with_max_times(0) } else { outage };
        let is_outage =
            |error: &anyhow::Error| error.downcast_ref::<ClientError>().is_some_and(ClientError::is_transient);
        let say = |error: &anyhow::Error, pause: Duration| {
            let told = exit::told(error);
            self.output.say(&format!("{told}; trying again in {:.0} seconds", pause.as_secs_f64()));
        };
        attempt.retry(outage).when(is_outage).notify(say).await
    }
}

fn has_code(error: &ClientError, code: &str) -> bool {
    error.problem().is_some_and(|problem| problem.code == code)
}
