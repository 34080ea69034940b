//! What training has written beside a checkpoint: metrics, and the epoch.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context;
use serde_json::{Map, Value};

/// Larger files are no metrics.
const LONGEST: u64 = 64 << 20;
const INDEX: &str = ".safetensors.index.json";
/// The record of Hugging Face's Trainer.
const TRAINER_STATE: &str = "trainer_state.json";

/// What is told beside a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beside {
    /// Epoch.
    pub epoch: Option<f64>,
    /// Metrics.
    pub metrics: BTreeMap<String, f64>,
    /// When it was written.
    pub changed: Option<SystemTime>,
}

/// Files that may tell of a checkpoint, the first that is there counts: `step-10.json` or `step-10.metrics.json` beside a file,
/// `metrics.json` or `trainer_state.json` in a folder.
pub fn files(checkpoint: &Path) -> [PathBuf; 2] {
    if checkpoint.is_dir() {
        return [checkpoint.join("metrics.json"), checkpoint.join(TRAINER_STATE)];
    }
    let name = checkpoint.file_name().unwrap_or_default().to_string_lossy();
    let stem = match name.strip_suffix(INDEX) {
        Some(stem) => stem,
        None => name.rsplit_once('.').map_or(&*name, |(stem, _)| stem),
    };
    [".json", ".metrics.json"].map(|ending| checkpoint.with_file_name(format!("{stem}{ending}")))
}

/// Reads what is told; nothing where there is no such file.
pub fn read(checkpoint: &Path) -> anyhow::Result<Beside> {
    let Some(path) = files(checkpoint).into_iter().find(|path| path.is_file()) else { return Ok(Beside::default()) };
    read_file(&path).with_context(|| path.display().to_string())
}

fn read_file(path: &Path) -> anyhow::Result<Beside> {
    let metadata = path.metadata()?;
    anyhow::ensure!(metadata.len() <= LONGEST, "is too large for metrics");
    let told: Map<String, Value> = serde_json::from_slice(&fs::read(path)?).context("is not a JSON object")?;
    let told = if path.ends_with(TRAINER_STATE) { last_of_trainer(&told) } else { told };
    let mut beside = Beside { epoch: None, metrics: BTreeMap::new(), changed: metadata.modified().ok() };
    for (name, value) in &told {
        let Some(value) = value.as_f64().filter(|value| value.is_finite()) else { continue };
        match name.as_str() {
            "epoch" => beside.epoch = Some(value).filter(|epoch| *epoch >= 0.0),
            "step" | "global_step" => {}
            name => _ = beside.metrics.insert(as_word(name), value),
        }
    }
    Ok(beside)
}

/// What the trainer has logged at its last step, with its epoch.
fn last_of_trainer(state: &Map<String, Value>) -> Map<String, Value> {
    let mut last = Map::new();
    let step = state.get("global_step");
    let entries = state.get("log_history").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
    for entry in entries.filter(|entry| step.is_some() && entry.get("step") == step) {
        last.extend(entry.clone());
    }
    last.extend(state.get("epoch").map(|epoch| ("epoch".to_owned(), epoch.clone())));
    last
}

/// A name as metrics may have one: `val/loss` becomes `val.loss`.
fn as_word(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let word: String = name.chars().map(|c| if is_plain(c) { c } else { '.' }).collect();
    word.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(checkpoint: &str, file: &str, text: &str) -> anyhow::Result<Beside> {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join(checkpoint);
        if checkpoint.extension().is_none() {
            fs::create_dir(&checkpoint).unwrap();
        }
        fs::write(folder.path().join(file), text).unwrap();
        read(&checkpoint)
    }

    #[test]
    fn numbers_beside_a_checkpoint_are_its_metrics() {
        let text = r#"{"val/loss": 0.5, "step": 10, "epoch": 1.5, "note": "x", "nested": {"a": 1}}"#;
        for (checkpoint, file) in [
            ("step-10.pt", "step-10.json"),
            ("step-10.safetensors", "step-10.metrics.json"),
            ("step-10.safetensors.index.json", "step-10.json"),
            ("step-10", "step-10/metrics.json"),
        ] {
            let beside = told(checkpoint, file, text).unwrap();
            assert_eq!((beside.epoch, beside.metrics), (Some(1.5), [("val.loss".to_owned(), 0.5)].into()), "{file}");
        }
        assert_eq!(told("step-10.pt", "step-11.json", text).unwrap(), Beside::default());
        assert!(told("step-10.pt", "step-10.json", "[1]").is_err());
    }

    #[test]
    fn of_a_trainer_the_last_step_counts() {
        let text = r#"{"global_step": 20, "epoch": 2.0, "log_history": [{"step": 10, "eval_loss": 0.9},
            {"step": 20, "loss": 0.3, "epoch": 2.0}, {"step": 20, "eval_loss": 0.4}]}"#;
        let beside = told("checkpoint-20", "checkpoint-20/trainer_state.json", text).unwrap();
        assert_eq!(beside.epoch, Some(2.0));
        assert_eq!(beside.metrics, [("eval_loss".to_owned(), 0.4), ("loss".to_owned(), 0.3)].into());
    }
}
