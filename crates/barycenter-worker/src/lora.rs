//! Jobs whose candidates are adapters: every adapter is put into the base model, and the models are averaged like any others.
//!
//! Coefficients sum to 1, so `Σ_i a_i (w + s B_i A_i) = w + Σ_i a_i s B_i A_i`: the average of the models is the base model with the
//! average of the products.

use std::{
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
};

use barycenter_api::{LoraReport, LoraResult, LoraSpec};
use barycenter_core::{
    Error, Result,
    average::{Averaging, Outcome},
    checkpoint::{self, CheckpointFile, Dtype, OpenOptions, Written},
    merge::lora::{AdapterGoal, apply_adapter, merge_adapters},
};
use tempfile::TempDir;

/// The candidates of a job as models.
pub(crate) struct Models {
    /// Where the files of adapted models lie; gone with this.
    #[expect(dead_code, reason = "held so that the files stay")]
    folder: Option<TempDir>,
    pub(crate) files: Vec<PathBuf>,
}

impl Models {
    /// Candidates that are models already.
    pub(crate) fn stored(files: Vec<PathBuf>) -> Self {
        Self { folder: None, files }
    }

    /// The base model with each of the adapters in it, under `scratch`.
    pub(crate) fn adapted(lora: &LoraSpec, base: &Path, adapters: &[PathBuf], scratch: &Path) -> Result<Self> {
        let folder = TempDir::new_in(scratch).map_err(|e| Error::io(scratch, e))?;
        let base = open(base)?;
        let mut files = Vec::new();
        for (index, adapter) in adapters.iter().enumerate() {
            let path = folder.path().join(format!("{index}.safetensors"));
            let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
            let adapter = open(adapter)?;
            apply_adapter(&base, &adapter, lora.scale, lora.transposed, BufWriter::new(file))?;
            files.push(path);
        }
        Ok(Self { folder: Some(folder), files })
    }
}

/// A stored checkpoint, of one file or of several.
fn open(path: &Path) -> Result<CheckpointFile> {
    checkpoint::open(path, &OpenOptions::default())
}

/// Writes what the spec asks for in place of the averaged model: `None` where that is the model itself.
pub(crate) fn write(
    lora: &LoraSpec,
    adapters: &[PathBuf],
    names: &[String],
    (averaging, outcome): (&Averaging<'_>, &Outcome),
    dtype: Option<Dtype>,
    artifact: &Path,
) -> Result<Option<(Written, LoraReport)>> {
    let goal = match lora.result {
        LoraResult::Model => return Ok(None),
        LoraResult::Delta {} => AdapterGoal::Delta { transposed: lora.transposed },
        LoraResult::Adapter { rank } => AdapterGoal::Adapter { rank: rank.into() },
    };
    let scaled = |path: &PathBuf| Ok((open(path)?, lora.scale));
    let adapters = adapters.iter().map(scaled).collect::<Result<Vec<_>>>()?;
    let weights_of = |module: Option<&barycenter_core::merge::lora::AdaptedModule>| match module {
        // Adapters of jobs are factors alone: there is no other tensor to weigh.
        None => Ok(vec![0.0; adapters.len()]),
        Some(module) => {
            let weight = module.weight_name();
            let weights = averaging.weights_of(outcome, &weight);
            weights.ok_or_else(|| Error::input(format!("`{weight}` is adapted, but not averaged: see `tensors`")))
        }
    };
    let file = File::create(artifact).map_err(|e| Error::io(artifact, e))?;
    let merged = merge_adapters(&adapters, names, &weights_of, goal, dtype, BufWriter::new(file))?;
    let worst = merged.modules.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let (worst_module, worst_relative_error) = worst.cloned().unwrap_or_default();
    let report = LoraReport { relative_error: merged.relative_error, worst_module, worst_relative_error };
    Ok(Some((merged.written, report)))
}
