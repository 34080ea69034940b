//! An artifact's bytes, made again from its manifest.

use std::{
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use barycenter_api::{Artifact, FloatDtype, Manifest, MergePlan, MergeRules, client::Client};
use barycenter_core::{
    checkpoint::{self, CheckpointFile, Dtype, OpenOptions},
    merge,
};
use clap::Args;
use uuid::Uuid;

use crate::{checkpoint::pull::pull, output::Output, progress::Bar};

/// What to rebuild.
#[derive(Debug, Args)]
pub struct RebuildArguments {
    /// Id of a job or of an artifact.
    pub id: Uuid,
    /// Only look whether the same bytes come out; the server keeps what it has.
    #[arg(long)]
    check: bool,
    /// Folder for the downloaded candidates and the merged file, gone afterwards; the system's unless told.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

/// Files that a rebuild needs.
struct Inputs {
    candidates: Vec<PathBuf>,
    /// Holds the tensors that no merge makes.
    kept: Option<PathBuf>,
}

pub async fn rebuild(
    client: &Client,
    output: &Output,
    artifact: &Artifact,
    arguments: &RebuildArguments,
) -> anyhow::Result<()> {
    let id = artifact.artifact_id;
    let manifest = client.manifest(id).await?;
    let Some(plan) = manifest.merge.clone() else {
        bail!("the manifest of the artifact {id} does not tell how a merge makes it again");
    };
    let MergeRules::Merge1 = plan.rules;
    let folder = match &arguments.scratch {
        Some(scratch) => tempfile::tempdir_in(scratch).with_context(|| scratch.display().to_string())?,
        None => tempfile::tempdir()?,
    };
    let inputs = fetch(client, output, &manifest, &plan, folder.path()).await?;
    let (merged, wanted) = (folder.path().join("merged.safetensors"), artifact.digest_blake3.clone());
    let (to, quiet) = (merged.clone(), output.quiet());
    let found = tokio::task::spawn_blocking(move || make(&manifest, &plan, &inputs, &to, quiet)).await??;
    if found != wanted {
        bail!("the rebuilt artifact {id} has the digest {found}, its manifest says {wanted}: nothing was sent");
    }
    output.say(&format!("the artifact {id} was made again from its candidates: the same bytes"));
    if arguments.check || artifact.dropped_at.is_none() {
        return output.show(artifact);
    }
    let bar = Bar::of_bytes(artifact.size_bytes, "upload", output.quiet());
    let restored = client.restore_artifact(id, &merged, &bar.counter()).await;
    bar.finish();
    output.show(&restored?)
}

/// Downloads the candidates, and what was kept of the artifact; one that has its bytes is itself what was kept.
async fn fetch(
    client: &Client,
    output: &Output,
    manifest: &Manifest,
    plan: &MergePlan,
    folder: &Path,
) -> anyhow::Result<Inputs> {
    let mut candidates = Vec::with_capacity(manifest.candidates.len());
    for (index, candidate) in manifest.candidates.iter().enumerate() {
        // The end of the name tells a file from a folder of shards where it is opened.
        let checkpoint = client.find_checkpoint(candidate.checkpoint_id).await?;
        let end = if checkpoint.file_count.is_none() { ".safetensors" } else { "" };
        let file = folder.join(format!("{index}{end}"));
        let bar = Bar::of_bytes(checkpoint.size_bytes, &format!("step {}", candidate.step), output.quiet());
        let downloaded = pull(client, &checkpoint, &file, &bar).await;
        bar.finish();
        downloaded.with_context(|| format!("the candidate {} at step {}", candidate.checkpoint_id, candidate.step))?;
        candidates.push(file);
    }
    if plan.kept.is_empty() {
        return Ok(Inputs { candidates, kept: None });
    }
    let (artifact, file) = (&manifest.artifact, folder.join("kept.safetensors"));
    match (&artifact.kept, artifact.dropped_at) {
        (Some(kept), _) => client.download_kept_tensors(artifact.artifact_id, kept, &file).await?,
        (None, None) => {
            let bar = Bar::of_bytes(artifact.size_bytes, "artifact", output.quiet());
            let downloaded = client.download_artifact(artifact, &file, &bar.counter()).await;
            bar.finish();
            downloaded?;
        }
        (None, Some(_)) => bail!("nothing was kept of the artifact {}", artifact.artifact_id),
    }
    Ok(Inputs { candidates, kept: Some(file) })
}

/// Merges as the worker did; returns the digest of what came out.
fn make(manifest: &Manifest, plan: &MergePlan, inputs: &Inputs, to: &Path, quiet: bool) -> anyhow::Result<String> {
    let candidates = inputs.candidates.iter().map(|path| checkpoint::open(path, &OpenOptions::default()));
    let candidates = candidates.collect::<Result<Vec<_>, _>>()?;
    let reference = candidates.last().context("the manifest names no candidate")?;
    let kept = inputs.kept.as_ref().map(CheckpointFile::open).transpose()?;
    let averaged = plan.averaged.iter().map(|averaged| (averaged.tensor.clone(), averaged.block as usize));
    let plan = merge::MergePlan { averaged: averaged.collect(), kept: plan.kept.clone() };
    let policies = plan.policies(reference, kept.as_ref())?;
    let coefficients = manifest.coefficients.values.concat();
    let bar = Bar::of_units(reference.layout().tensors.len() as u64, "merging", quiet);
    let file = File::create_new(to).with_context(|| to.display().to_string())?;
    let mut on_tensor = |done: usize, _: usize| {
        bar.set(done as u64);
        Ok(())
    };
    let dtype = manifest.spec.output.dtype.map(dtype);
    let written = merge::merge(&candidates, &coefficients, &policies, dtype, BufWriter::new(file), &mut on_tensor);
    bar.finish();
    Ok(written?.digest_blake3)
}

fn dtype(dtype: FloatDtype) -> Dtype {
    match dtype {
        FloatDtype::F64 => Dtype::F64,
        FloatDtype::F32 => Dtype::F32,
        FloatDtype::F16 => Dtype::F16,
        FloatDtype::Bf16 => Dtype::Bf16,
        FloatDtype::F8E4m3 => Dtype::F8E4M3,
        FloatDtype::F8E5m2 => Dtype::F8E5M2,
    }
}
