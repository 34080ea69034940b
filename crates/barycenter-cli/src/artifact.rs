//! `barycenter artifact`.

mod pull;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use barycenter_api::{Artifact, EditArtifact, ListArtifacts, client::Client};
use barycenter_core::{checkpoint::CheckpointFile, merge::Policy};
use chrono::{DateTime, Utc};
use clap::Subcommand;
use uuid::Uuid;

use crate::{
    average::{Average, whole_folder},
    deletion,
    exit::{Outcome, usage},
    output::{self, Format, Output},
    progress::Bar,
    shown::bytes,
    size::size,
};

mod rebuild;

use self::rebuild::RebuildArguments;

/// Commands on artifacts.
#[derive(Debug, Subcommand)]
pub enum ArtifactCommand {
    /// Download an averaged model and verify its digest; an interrupted download is continued.
    ///
    /// Where files such as config and tokenizer go with the model, it is written as a folder with them, unless PATH ends in
    /// `.safetensors`. Where the job's spec or --shard-size says so, the model is cut into files with their index.
    Pull {
        /// Id of a job or of an artifact.
        id: Uuid,
        /// The file, or the folder, to write.
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
        /// Most bytes of tensors in a file (2GB, 500MB, 64MiB).
        #[arg(long, value_parser = size, value_name = "SIZE", conflicts_with = "force")]
        shard_size: Option<u64>,
        /// Replace the file where there is one.
        #[arg(long)]
        force: bool,
    },
    /// List artifacts, newest first.
    List {
        /// Only those of this run, by name or id.
        #[arg(long)]
        run: Option<String>,
        /// Those that are deleted and can still be undeleted.
        #[arg(long)]
        deleted: bool,
        /// At most so many.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Delete an artifact that no alias names.
    Delete {
        /// Id of a job or of an artifact.
        id: Uuid,
    },
    /// Bring a deleted artifact back.
    Undelete {
        /// Its id.
        artifact_id: Uuid,
    },
    /// Set when an artifact deletes itself, unless an alias names it then.
    Expire {
        /// Id of a job or of an artifact.
        id: Uuid,
        /// The time (RFC 3339).
        #[arg(long, value_name = "TIME", required_unless_present = "never")]
        at: Option<DateTime<Utc>>,
        /// It does not.
        #[arg(long, conflicts_with = "at")]
        never: bool,
    },
    /// Drop the bytes of an artifact, which a merge of its candidates makes again; what no merge makes is kept.
    ///
    /// Refused where the same bytes could not be made again, and where an alias names the artifact. What it is made from cannot be
    /// deleted while the artifact is there.
    Drop {
        /// Id of a job or of an artifact.
        id: Uuid,
        /// Drop them then (RFC 3339), unless an alias names the artifact.
        #[arg(long, value_name = "TIME", conflicts_with = "never")]
        at: Option<DateTime<Utc>>,
        /// Do not drop them at the time that was set.
        #[arg(long)]
        never: bool,
    },
    /// Make the bytes of a dropped artifact again from its candidates, and give them back to the server.
    ///
    /// The candidates are downloaded and merged as the worker merged them. Bytes of another digest than the manifest's are refused.
    Rebuild(RebuildArguments),
    /// Print where an artifact comes from: job, candidate set, checkpoints, datasets, as JSON.
    Lineage {
        /// Id of a job or of an artifact.
        id: Uuid,
    },
    /// Print the manifest: candidates, coefficients, spec and report, as JSON.
    Manifest {
        /// Id of a job or of an artifact.
        id: Uuid,
    },
}

pub async fn run(client: &Client, output: &Output, command: ArtifactCommand) -> anyhow::Result<Outcome> {
    match command {
        ArtifactCommand::Pull { id, out, shard_size, force } => {
            refuse_existing(&out, force)?;
            let artifact = find(client, id).await?;
            pull::pull(client, output, &artifact, pull::Goal { out, shard_size, force }).await?;
            output.show(&artifact)?;
        }
        ArtifactCommand::List { run, deleted, limit } => {
            let query =
                ListArtifacts { run, deleted: deleted.then_some(true), page_size: Some(limit), page_token: None };
            output.list(&client.list_artifacts_page(&query).await?.items)?;
        }
        ArtifactCommand::Delete { id } => {
            let id = find(client, id).await?.artifact_id;
            deletion::tell(output, &format!("the artifact {id}"), &client.delete_artifact(id).await?)?;
        }
        ArtifactCommand::Undelete { artifact_id } => output.show(&client.undelete_artifact(artifact_id).await?)?,
        ArtifactCommand::Expire { id, at, never: _ } => {
            let id = find(client, id).await?.artifact_id;
            let edit = EditArtifact { expires_at: Some(at), ..EditArtifact::default() };
            output.show(&client.edit_artifact(id, &edit).await?)?;
        }
        ArtifactCommand::Drop { id, at, never } => {
            let id = find(client, id).await?.artifact_id;
            drop_bytes(client, output, id, at, never).await?;
        }
        ArtifactCommand::Rebuild(arguments) => {
            let artifact = find(client, arguments.id).await?;
            rebuild::rebuild(client, output, &artifact, &arguments).await?;
        }
        ArtifactCommand::Lineage { id } => {
            let artifact = find(client, id).await?;
            output::write_json(&client.lineage(artifact.artifact_id).await?)?;
        }
        ArtifactCommand::Manifest { id } => {
            let artifact = find(client, id).await?;
            output::write_json(&client.manifest(artifact.artifact_id).await?)?;
        }
    }
    Ok(Outcome::Success)
}

/// Drops an artifact's bytes now, or says when they are to go.
async fn drop_bytes(
    client: &Client,
    output: &Output,
    id: Uuid,
    at: Option<DateTime<Utc>>,
    never: bool,
) -> anyhow::Result<()> {
    if at.is_some() || never {
        let edit = EditArtifact { drops_at: Some(at), ..EditArtifact::default() };
        return output.show(&client.edit_artifact(id, &edit).await?);
    }
    let dropped = client.drop_artifact(id).await?;
    if output.format() == Format::Json {
        return output::write_json(&dropped);
    }
    let (freed, kept) = (bytes(dropped.freed_bytes), bytes(dropped.kept_bytes));
    output.say(&format!(
        "dropped the bytes of the artifact {id}: {freed} freed, {kept} kept; `artifact rebuild` makes them again"
    ));
    Ok(())
}

/// The whole file beside a folder of shards.
fn whole(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".safetensors");
    folder.with_file_name(name)
}

/// Cuts a file into a folder of shards, with these files of another folder beside them, and removes what it was made of.
fn cut(
    file: &Path,
    folder: &Path,
    shard_size: u64,
    (from, beside): (&Path, &[String]),
    quiet: bool,
) -> anyhow::Result<()> {
    let candidates = [CheckpointFile::open(file)?];
    let names = candidates[0].layout().tensors.iter().map(|tensor| (tensor.name.clone(), Policy::Copy));
    let policies = names.collect();
    let bar = Bar::of_units(candidates[0].layout().tensors.len() as u64, "cutting", quiet);
    let copy = Average { candidates: &candidates, weights: &[1.0], policies: &policies, dtype: None, bar: &bar };
    whole_folder(folder, |folder| {
        for name in beside {
            fs::rename(from.join(name), folder.join(name)).with_context(|| from.join(name).display().to_string())?;
        }
        copy.write_shards(folder, shard_size)
    })?;
    bar.finish();
    fs::remove_dir(from).with_context(|| from.display().to_string())?;
    fs::remove_file(file).with_context(|| file.display().to_string())
}

/// The artifact of this id, else that of the job of this id.
async fn find(client: &Client, id: Uuid) -> anyhow::Result<Artifact> {
    match client.artifact(id).await {
        Err(error) if error.status().is_some_and(|status| status.as_u16() == 404) => {}
        artifact => return Ok(artifact?),
    }
    let job = client.find_job(id, None).await?;
    match job.artifact_id {
        Some(artifact_id) => Ok(client.artifact(artifact_id).await?),
        None => bail!("job {id} is {} and has no artifact", job.state),
    }
}

/// Never overwrites silently.
pub fn refuse_existing(out: &Path, force: bool) -> anyhow::Result<()> {
    if !force && out.exists() {
        return Err(usage(format!("{} is there already", out.display())));
    }
    Ok(())
}
