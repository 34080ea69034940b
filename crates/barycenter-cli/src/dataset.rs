//! `barycenter dataset`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use barycenter_api::{
    Dataset, PushDataset, UploadTarget,
    client::{ByteCounter, Client, IN_PARTS_ABOVE},
};
use clap::Subcommand;

use crate::{checkpoint::digest, exit::Outcome, output::Output, progress::Bar};

/// Commands on datasets.
#[derive(Debug, Subcommand)]
pub enum DatasetCommand {
    /// Upload a safetensors file with `inputs` and `labels` or `targets`, or with `tokens`.
    ///
    /// Files above 64 MiB are sent in parts: after an interruption the same command sends only what is missing.
    ///
    /// The normalisation of inputs is read from the file's metadata; an option given here takes its place.
    Push {
        /// Unique name; job specs use it.
        name: String,
        /// The file.
        file: PathBuf,
        /// Factor applied to stored inputs: a number or `1/255`.
        #[arg(long)]
        scale: Option<String>,
        /// Mean of each channel, comma-separated, or one for all.
        #[arg(long)]
        mean: Option<String>,
        /// Standard deviation of each channel, comma-separated, or one for all.
        #[arg(long)]
        std: Option<String>,
        /// Parts of a large file that are sent at a time.
        #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
        parallel: u16,
    },
}

pub async fn run(client: &Client, output: &Output, command: DatasetCommand) -> anyhow::Result<Outcome> {
    let DatasetCommand::Push { name, file, scale, mean, std, parallel } = command;
    let size = std::fs::metadata(&file).with_context(|| file.display().to_string())?.len();
    let bar = Bar::of_bytes(size, &name, output.quiet());
    let dataset = if size > IN_PARTS_ABOVE {
        let target = UploadTarget::Dataset { name, scale, mean, std };
        push_in_parts(client, target, &file, parallel.into(), &bar.counter()).await
    } else {
        let beside = PushDataset { scale, mean, std, digest_blake3: Some(digest(&file).await?) };
        client.push_dataset(&name, &beside, &file, &bar.counter()).await.map_err(Into::into)
    };
    bar.finish();
    output.show(&dataset?)?;
    Ok(Outcome::Success)
}

/// Sends a large file in parts: the same command goes on where an earlier one was interrupted.
async fn push_in_parts(
    client: &Client,
    target: UploadTarget,
    file: &Path,
    parallel: usize,
    sent: &ByteCounter,
) -> anyhow::Result<Dataset> {
    let upload = client.push_in_parts(target, file, parallel, sent).await?;
    let dataset_id = upload.dataset_id.context("the upload was completed and became no dataset")?;
    Ok(client.find_dataset(&dataset_id.to_string()).await?)
}
