//! `barycenter artifact pull`: a file, or a folder that opens with what reads models.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use barycenter_api::{
    Artifact, CheckpointFile, FileKind,
    client::{ByteCounter, Client},
};

use super::{cut, refuse_existing, whole};
use crate::{
    gather::{gather, part_of},
    output::Output,
    progress::Bar,
};

/// Where an artifact goes.
pub struct Goal {
    pub out: PathBuf,
    /// Most bytes of tensors in a file; one file where absent.
    pub shard_size: Option<u64>,
    /// Replace the file where there is one; a folder is never replaced.
    pub force: bool,
}

/// Downloads an artifact: as a folder where it is to be cut, or where files go with it and the goal is not called a file.
pub async fn pull(client: &Client, output: &Output, artifact: &Artifact, goal: Goal) -> anyhow::Result<()> {
    let spec = client.find_job(artifact.job_id, None).await?.spec;
    let shard_size = goal.shard_size.or(spec.output.shard_size_bytes.filter(|_| !goal.force));
    let mut files = client.list_artifact_files(artifact.artifact_id).await?;
    let called_a_file = goal.out.extension().is_some_and(|extension| extension == "safetensors");
    let label = goal.out.file_name().unwrap_or_default().to_string_lossy();
    let bar = Bar::of_bytes(files.iter().map(|file| file.size_bytes).sum(), &label, output.quiet());
    let pulled = match shard_size {
        Some(size) => {
            files.retain(|file| file.kind == FileKind::Other);
            pull_shards(client, output, artifact, &files, &goal.out, size, &bar).await
        }
        None if files.len() > 1 && !called_a_file && !goal.force => {
            pull_folder(client, artifact, &files, &goal.out, &bar).await
        }
        None => client.download_artifact(artifact, &goal.out, &bar.counter()).await.map_err(anyhow::Error::from),
    };
    bar.finish();
    pulled
}

async fn pull_folder(
    client: &Client,
    artifact: &Artifact,
    files: &[CheckpointFile],
    out: &Path,
    bar: &Bar,
) -> anyhow::Result<()> {
    let folder = part_of(out)?;
    gather_files(client, artifact, files, &folder, &bar.counter()).await?;
    fs::rename(&folder, out).with_context(|| out.display().to_string())
}

async fn gather_files(
    client: &Client,
    artifact: &Artifact,
    files: &[CheckpointFile],
    folder: &Path,
    received: &ByteCounter,
) -> anyhow::Result<()> {
    let fetch = async |file: &CheckpointFile, to: &Path, received: &ByteCounter| {
        client.download_artifact_file(artifact.artifact_id, file, to, received).await
    };
    gather(files, folder, received, fetch).await
}

/// What is downloaded on the way lies beside the folder, so that an interrupted download can be continued.
async fn pull_shards(
    client: &Client,
    output: &Output,
    artifact: &Artifact,
    beside: &[CheckpointFile],
    out: &Path,
    shard_size: u64,
    bar: &Bar,
) -> anyhow::Result<()> {
    let (file, folder) = (whole(out), part_of(out)?);
    refuse_existing(&file, false)?;
    gather_files(client, artifact, beside, &folder, &bar.counter()).await?;
    let before = beside.iter().map(|file| file.size_bytes).sum();
    client.download_artifact(artifact, &file, &bar.counter().behind(before)).await?;
    let names: Vec<String> = beside.iter().map(|file| file.name.clone()).collect();
    let (out, quiet) = (out.to_owned(), output.quiet());
    tokio::task::spawn_blocking(move || cut(&file, &out, shard_size, (&folder, &names), quiet)).await?
}
