//! `barycenter artifact`.

use std::path::{Path, PathBuf};

use anyhow::bail;
use barycenter_api::{Artifact, client::Client};
use clap::Subcommand;
use uuid::Uuid;

use crate::{
    exit::{Outcome, usage},
    output::{self, Output},
    progress::Bar,
};

/// Commands on artifacts.
#[derive(Debug, Subcommand)]
pub enum ArtifactCommand {
    /// Download an averaged model and verify its digest; an interrupted download is continued.
    Pull {
        /// Id of a job or of an artifact.
        id: Uuid,
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Replace the file where there is one.
        #[arg(long)]
        force: bool,
    },
    /// Print the manifest: candidates, coefficients, spec and report, as JSON.
    Manifest {
        /// Id of a job or of an artifact.
        id: Uuid,
    },
}

pub async fn run(client: &Client, output: &Output, command: ArtifactCommand) -> anyhow::Result<Outcome> {
    match command {
        ArtifactCommand::Pull { id, out, force } => {
            refuse_existing(&out, force)?;
            let artifact = find(client, id).await?;
            let label = out.file_name().unwrap_or_default().to_string_lossy();
            let bar = Bar::of_bytes(artifact.size_bytes, &label, output.quiet());
            let downloaded = client.download_artifact(&artifact, &out, &bar.counter()).await;
            bar.finish();
            downloaded?;
            output.show(&artifact)?;
        }
        ArtifactCommand::Manifest { id } => {
            let artifact = find(client, id).await?;
            output::write_json(&client.manifest(artifact.artifact_id).await?)?;
        }
    }
    Ok(Outcome::Success)
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
