//! `barycenter checkpoint`.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
};

use anyhow::Context;
use barycenter_api::client::Client;
use clap::{Args, Subcommand};
use uuid::Uuid;

mod diff;
pub(crate) mod pull;
mod tracking;

use self::{
    diff::DiffArguments,
    pull::PullArguments,
    tracking::{EditArguments, ListArguments, Named},
};
use crate::{
    deletion,
    exit::{Outcome, usage},
    output::Output,
    push::{self, Destination, Manner},
};

/// Commands on checkpoints.
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// Upload checkpoints of a run.
    ///
    /// Safetensors files are sent as they are. Of a folder, or of an index of several safetensors files, all of them are sent,
    /// with the index and the files that go with a model (config, tokenizer); those that the server has are not sent again.
    /// What PyTorch wrote is written as one safetensors file first; nothing in it is run.
    ///
    /// Files above 64 MiB are sent in parts: after an interruption the same command sends only what is missing.
    ///
    /// Without --step, the step of each file is read from its name: the digits after `step`, else its last digits.
    Push(PushArguments),
    /// Download a checkpoint and verify its digests; an interrupted download is continued.
    ///
    /// A checkpoint of several files is written as a folder, byte for byte as it was pushed.
    Pull(PullArguments),
    /// List the checkpoints of a run, newest first unless told otherwise.
    List(ListArguments),
    /// Show a checkpoint.
    Show(Named),
    /// Tell which tensors of two checkpoints are equal byte for byte, such as frozen embeddings.
    ///
    /// The server reads each checkpoint once for it; the first answer about a large one takes as long.
    Diff(DiffArguments),
    /// Report metrics and tags of a checkpoint that was pushed before.
    Edit(EditArguments),
    /// Pin a checkpoint: no retention rule and no deletion takes it.
    Pin(Named),
    /// Unpin a checkpoint.
    Unpin(Named),
    /// Delete a checkpoint that is neither pinned nor needed.
    Delete(Named),
    /// Bring a deleted checkpoint back.
    Undelete {
        /// Its id.
        checkpoint_id: Uuid,
    },
}

/// What to push.
#[derive(Debug, Args)]
pub struct PushArguments {
    /// The files, indexes or folders.
    #[arg(required = true, value_name = "CHECKPOINT")]
    files: Vec<PathBuf>,
    /// Where the state dict lies in PyTorch files, as `model.state_dict`; found unless there are several.
    #[arg(long, value_name = "PATH")]
    key: Option<String>,
    /// Name or id of the run.
    #[arg(long)]
    run: String,
    /// Training step of the file.
    #[arg(long)]
    step: Option<i64>,
    /// Epoch of the file.
    #[arg(long)]
    epoch: Option<f64>,
    /// A metric of the file; may be given several times.
    #[arg(long = "metric", value_name = "NAME=VALUE", value_parser = named_value)]
    metrics: Vec<(String, f64)>,
    /// A tag; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Parts of a large file that are sent at a time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
}

/// Reads `name=value`.
fn named_value(text: &str) -> Result<(String, f64), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    let value: f64 = value.trim().parse().map_err(|_| format!("`{value}` is not a number"))?;
    if name.is_empty() || name.contains([',', ':']) || !value.is_finite() {
        return Err("a name without `,` and `:` and a finite value are needed".into());
    }
    Ok((name.to_owned(), value))
}

pub async fn run(client: &Client, output: &Output, command: CheckpointCommand) -> anyhow::Result<Outcome> {
    match command {
        CheckpointCommand::Push(arguments) => push(client, output, &arguments).await?,
        CheckpointCommand::Pull(arguments) => output.show(&arguments.pull(client, output).await?)?,
        CheckpointCommand::List(arguments) => output.list(&arguments.list(client).await?)?,
        CheckpointCommand::Show(named) => output.show(&named.find(client).await?)?,
        CheckpointCommand::Diff(arguments) => arguments.print(client, output).await?,
        CheckpointCommand::Edit(arguments) => output.show(&arguments.edit(client).await?)?,
        CheckpointCommand::Pin(named) => output.show(&named.pin(client, true).await?)?,
        CheckpointCommand::Delete(named) => {
            let id = named.find(client).await?.checkpoint_id;
            deletion::tell(output, &format!("the checkpoint {id}"), &client.delete_checkpoint(id).await?)?;
        }
        CheckpointCommand::Undelete { checkpoint_id } => {
            output.show(&client.undelete_checkpoint(checkpoint_id).await?)?;
        }
        CheckpointCommand::Unpin(named) => output.show(&named.pin(client, false).await?)?,
    }
    Ok(Outcome::Success)
}

async fn push(client: &Client, output: &Output, arguments: &PushArguments) -> anyhow::Result<()> {
    let steps = steps(arguments)?;
    let mut pushed = Vec::new();
    let manner = Manner { key: arguments.key.clone(), parallel: arguments.parallel.into() };
    for (file, step) in arguments.files.iter().zip(steps) {
        let destination = Destination {
            run: arguments.run.clone(),
            step,
            epoch: arguments.epoch,
            metrics: arguments.metrics.iter().cloned().collect(),
            tags: arguments.tags.clone(),
        };
        let checkpoint = push::push(client, output, file, &destination, &manner).await;
        let checkpoint = checkpoint.with_context(|| format!("{} (step {step})", file.display()))?;
        output.say(&format!("{}: stored as step {step}", file.display()));
        pushed.push(checkpoint);
    }
    output.list(&pushed)
}

/// BLAKE3 digest of a file, so that the server can tell a damaged upload.
pub async fn digest(file: &Path) -> anyhow::Result<String> {
    let file = file.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(file)?)?;
        Ok(hasher.finalize().to_hex().to_string())
    })
    .await?
}

/// The step of each file, all different.
fn steps(arguments: &PushArguments) -> anyhow::Result<Vec<i64>> {
    if let Some(step) = arguments.step {
        return if arguments.files.len() == 1 {
            Ok(vec![step])
        } else {
            Err(usage("--step is for one file; the steps of several are read from their names"))
        };
    }
    if arguments.files.len() > 1 && (arguments.epoch.is_some() || !arguments.metrics.is_empty()) {
        return Err(usage("--epoch and --metric are for one file"));
    }
    let mut seen = BTreeSet::new();
    let mut steps = Vec::new();
    for file in &arguments.files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let step = step_in(&name)
            .ok_or_else(|| usage(format!("{}: no step in the name; give it with --step", file.display())))?;
        if !seen.insert(step) {
            return Err(usage(format!("{}: another of the files has step {step} too", file.display())));
        }
        steps.push(step);
    }
    Ok(steps)
}

/// The digits after `step`, else the last digits of a name.
pub(crate) fn step_in(name: &str) -> Option<i64> {
    let lower = name.to_lowercase();
    let after_step = lower.find("step").and_then(|at| {
        let rest = lower[at + 4..].trim_start_matches(['_', '-', '=', '.', ' ']);
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    });
    let last = || lower.split(|c: char| !c.is_ascii_digit()).rfind(|digits| !digits.is_empty())?.parse().ok();
    after_step.or_else(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_is_read_from_the_name() {
        let cases = [
            ("ckpt_0001200", Some(1200)),
            ("resnet20-step_400-loss0.53", Some(400)),
            ("Step7", Some(7)),
            ("resnet20_epoch-12", Some(12)),
            ("model", None),
            ("step", None),
        ];
        for (name, step) in cases {
            assert_eq!(step_in(name), step, "{name}");
        }
    }

    #[test]
    fn a_metric_is_a_name_and_a_finite_number() {
        assert_eq!(named_value("val_loss=0.50").unwrap(), ("val_loss".into(), 0.5));
        for wrong in ["val_loss", "=1", "a=b", "a=nan", "a,b=1", "a:b=1"] {
            named_value(wrong).unwrap_err();
        }
    }
}
