//! `barycenter dataset`.

use std::path::PathBuf;

use barycenter_api::{PushDataset, client::Client};
use clap::Subcommand;

use crate::{checkpoint::digest, exit::Outcome, output::Output, progress::Bar};

/// Commands on datasets.
#[derive(Debug, Subcommand)]
pub enum DatasetCommand {
    /// Upload a safetensors file with `inputs` and `labels` or `targets`, or with `tokens`.
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
    },
}

pub async fn run(client: &Client, output: &Output, command: DatasetCommand) -> anyhow::Result<Outcome> {
    let DatasetCommand::Push { name, file, scale, mean, std } = command;
    let size = std::fs::metadata(&file).map_err(|e| anyhow::anyhow!("{}: {e}", file.display()))?.len();
    let beside = PushDataset { scale, mean, std, digest_blake3: Some(digest(&file).await?) };
    let bar = Bar::of_bytes(size, &name, output.quiet());
    let dataset = client.push_dataset(&name, &beside, &file, &bar.counter()).await;
    bar.finish();
    output.show(&dataset?)?;
    Ok(Outcome::Success)
}
