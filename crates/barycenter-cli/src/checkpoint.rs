//! `barycenter checkpoint`.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use barycenter_api::{
    Checkpoint, PushCheckpoint, UploadTarget,
    client::{Client, IN_PARTS_ABOVE},
};
use barycenter_core::checkpoint::{self, OpenOptions};
use clap::{Args, Subcommand};
use uuid::Uuid;

mod tracking;

use self::tracking::{EditArguments, ListArguments, Named};
use crate::{
    deletion,
    exit::{Outcome, usage},
    output::Output,
    progress::Bar,
};

/// Commands on checkpoints.
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// Upload checkpoints of a run.
    ///
    /// Safetensors files are sent as they are. PyTorch zip files, indexes of several files and folders are written as one
    /// safetensors file first; nothing in them is run.
    ///
    /// Files above 64 MiB are sent in parts: after an interruption the same command sends only what is missing.
    ///
    /// Without --step, the step of each file is read from its name: the digits after `step`, else its last digits.
    Push(PushArguments),
    /// List the checkpoints of a run, newest first unless told otherwise.
    List(ListArguments),
    /// Show a checkpoint.
    Show(Named),
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
    #[arg(long = "metric", value_name = "NAME=VALUE", value_parser = metric)]
    metrics: Vec<String>,
    /// A tag; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Parts of a large file that are sent at a time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
}

/// `name=value` to `name:value`, as the API writes it.
fn metric(text: &str) -> Result<String, String> {
    named_value(text).map(|(name, value)| format!("{name}:{value}"))
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
        CheckpointCommand::List(arguments) => output.list(&arguments.list(client).await?)?,
        CheckpointCommand::Show(named) => output.show(&named.find(client).await?)?,
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
    for (file, step) in arguments.files.iter().zip(steps) {
        let checkpoint = push_file(client, output, arguments, file, step).await;
        let checkpoint = checkpoint.with_context(|| format!("{} (step {step})", file.display()))?;
        output.say(&format!("{}: stored as step {step}", file.display()));
        pushed.push(checkpoint);
    }
    output.list(&pushed)
}

async fn push_file(
    client: &Client,
    output: &Output,
    arguments: &PushArguments,
    file: &Path,
    step: i64,
) -> anyhow::Result<Checkpoint> {
    let sent = Sent::of(file, arguments.key.clone()).await?;
    let label = file.file_name().unwrap_or_default().to_string_lossy();
    let file = sent.path(file);
    if file.metadata().with_context(|| file.display().to_string())?.len() > IN_PARTS_ABOVE {
        return push_large(client, output, arguments, file, &label, step).await;
    }
    let list = |items: &[String]| (!items.is_empty()).then(|| items.join(","));
    let beside = PushCheckpoint {
        epoch: arguments.epoch,
        metrics: list(&arguments.metrics),
        tags: list(&arguments.tags),
        digest_blake3: Some(digest(file).await?),
    };
    let bar = Bar::of_bytes(file.metadata()?.len(), &label, output.quiet());
    let checkpoint = client.push_checkpoint(&arguments.run, step, &beside, file, &bar.counter()).await;
    bar.finish();
    Ok(checkpoint?)
}

/// Sends a large file in parts: the same command goes on where an earlier one was interrupted.
async fn push_large(
    client: &Client,
    output: &Output,
    arguments: &PushArguments,
    file: &Path,
    label: &str,
    step: i64,
) -> anyhow::Result<Checkpoint> {
    let pairs = arguments.metrics.iter().filter_map(|pair| pair.split_once(':'));
    let target = UploadTarget::Checkpoint {
        run: arguments.run.clone(),
        step,
        epoch: arguments.epoch,
        metrics: pairs.map(|(name, value)| Ok((name.to_owned(), value.parse()?))).collect::<anyhow::Result<_>>()?,
        tags: arguments.tags.clone(),
    };
    let bar = Bar::of_bytes(file.metadata()?.len(), label, output.quiet());
    let upload = client.push_in_parts(target, file, arguments.parallel.into(), &bar.counter()).await;
    bar.finish();
    let checkpoint_id = upload?.checkpoint_id.context("the upload was completed and became no checkpoint")?;
    Ok(client.find_checkpoint(checkpoint_id).await?)
}

/// The file that is sent for a checkpoint.
enum Sent {
    /// The checkpoint's own, a safetensors file or one that the server will refuse.
    AsItIs,
    /// The same tensors as one safetensors file.
    Converted(tempfile::NamedTempFile),
}

impl Sent {
    async fn of(path: &Path, key: Option<String>) -> anyhow::Result<Self> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || {
            if key.is_none() && !checkpoint::needs_conversion(&path)? {
                return Ok(Self::AsItIs);
            }
            let opened = checkpoint::open(&path, &OpenOptions { key })?;
            let mut converted = BufWriter::new(tempfile::NamedTempFile::new()?);
            opened.write_to(&mut converted)?;
            converted.flush()?;
            Ok(Self::Converted(converted.into_inner().map_err(std::io::IntoInnerError::into_error)?))
        })
        .await?
    }

    fn path<'a>(&'a self, own: &'a Path) -> &'a Path {
        match self {
            Self::AsItIs => own,
            Self::Converted(file) => file.path(),
        }
    }
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
fn step_in(name: &str) -> Option<i64> {
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
    use barycenter_core::checkpoint::CheckpointFile;

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
        assert_eq!(metric("val_loss=0.50").unwrap(), "val_loss:0.5");
        for wrong in ["val_loss", "=1", "a=b", "a=nan", "a,b=1", "a:b=1"] {
            metric(wrong).unwrap_err();
        }
    }

    #[tokio::test]
    async fn a_pytorch_file_is_sent_as_safetensors_and_safetensors_as_they_are() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../barycenter-core/tests/fixtures/pytorch");
        let (several, expected) = (fixtures.join("several.pt"), fixtures.join("small_expected.safetensors"));
        let sent = Sent::of(&several, Some("model".into())).await.unwrap();
        assert_ne!(sent.path(&several), several);
        let (sent, expected_file) =
            (CheckpointFile::open(sent.path(&several)).unwrap(), CheckpointFile::open(&expected).unwrap());
        for name in ["weight", "bias"] {
            assert_eq!(sent.bytes(name).unwrap(), expected_file.bytes(name).unwrap());
        }
        assert_eq!(Sent::of(&expected, None).await.unwrap().path(&expected), expected);
        assert!(Sent::of(&several, None).await.is_err_and(|error| error.to_string().contains("`ema`")));
        assert!(
            Sent::of(&expected, Some("model".into())).await.is_err_and(|error| error.to_string().contains("no keys"))
        );
    }
}
