//! `barycenter checkpoint pull`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use barycenter_api::{
    Checkpoint, CheckpointFile,
    client::{ByteCounter, Client},
};
use clap::Args;

use super::tracking::Named;
use crate::{
    artifact::refuse_existing,
    gather::{gather, part_of},
    output::Output,
    progress::Bar,
};

/// What to download.
#[derive(Debug, Args)]
pub struct PullArguments {
    #[command(flatten)]
    named: Named,
    /// The file to write, or the folder where the checkpoint has several files.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
}

impl PullArguments {
    /// Downloads the checkpoint; an interrupted download is continued.
    pub async fn pull(&self, client: &Client, output: &Output) -> anyhow::Result<Checkpoint> {
        refuse_existing(&self.out, false)?;
        let checkpoint = self.named.find(client).await?;
        let label = self.out.file_name().unwrap_or_default().to_string_lossy();
        let bar = Bar::of_bytes(checkpoint.size_bytes, &label, output.quiet());
        let pulled = pull(client, &checkpoint, &self.out, &bar).await;
        bar.finish();
        pulled?;
        Ok(checkpoint)
    }
}

/// Downloads a checkpoint: a file, or a folder where it is several.
pub(crate) async fn pull(client: &Client, checkpoint: &Checkpoint, out: &Path, bar: &Bar) -> anyhow::Result<()> {
    let files = client.list_checkpoint_files(checkpoint.checkpoint_id, &checkpoint.digest_blake3).await?;
    match (checkpoint.file_count, files.as_slice()) {
        (None, [only]) => {
            Ok(client.download_checkpoint_file(checkpoint.checkpoint_id, only, out, &bar.counter()).await?)
        }
        _ => pull_folder(client, checkpoint, &files, out, bar).await,
    }
}

/// Gathers the files in `<out>.part` and gives the folder its name once all are there.
async fn pull_folder(
    client: &Client,
    checkpoint: &Checkpoint,
    files: &[CheckpointFile],
    out: &Path,
    bar: &Bar,
) -> anyhow::Result<()> {
    let folder = part_of(out)?;
    let fetch = async |file: &CheckpointFile, to: &Path, received: &ByteCounter| {
        client.download_checkpoint_file(checkpoint.checkpoint_id, file, to, received).await
    };
    gather(files, &folder, &bar.counter(), fetch).await?;
    fs::rename(&folder, out).with_context(|| out.display().to_string())
}
