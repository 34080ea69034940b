//! Checkpoints in a folder, and whether they are finished.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::SystemTime,
};

use anyhow::Context;
use barycenter_core::checkpoint::{self, Index, OpenOptions};
use regex::Regex;

use super::beside;

const GROUP: &str = "step";
const INDEX: &str = ".safetensors.index.json";
const ENDINGS: [&str; 5] = [".safetensors", ".pt", ".pth", ".bin", ".ckpt"];
/// What trainers write beside their models in the same formats.
const NO_MODELS: [&str; 5] = ["optim", "scheduler", "rng_state", "scaler", "training_args"];
/// How programs mark what they have not finished.
const UNFINISHED: [&str; 5] = [".tmp", ".part", ".partial", ".incomplete", "-tmp"];

/// One of several files, which its index stands for.
static SHARD: LazyLock<Regex> = LazyLock::new(|| pattern(r"\d{3,}-of-\d{3,}"));
static USUAL: LazyLock<[Regex; 3]> = LazyLock::new(|| {
    [
        pattern(r"(?i)step[-_=. ]*(?<step>\d+)"),
        pattern(r"(?i)(?:checkpoint|ckpt|iter(?:ation)?)[-_=. ]*(?<step>\d+)"),
        pattern(r"(?i)epoch[-_=. ]*(?<step>\d+)"),
    ]
});

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the patterns of this file are right")
}

/// How the step is read from a name.
#[derive(Clone, Debug, Default)]
pub struct Steps(Option<Regex>);

impl Steps {
    /// Reads a pattern of one's own, which has a group `step`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let pattern = Regex::new(text).map_err(|error| error.to_string())?;
        if !pattern.capture_names().flatten().any(|name| name == GROUP) {
            return Err(format!("has no group `{GROUP}`, as in `model_(?<{GROUP}>\\d+)`"));
        }
        Ok(Self(Some(pattern)))
    }

    /// The step that a name tells; `None` where it is no checkpoint's.
    fn of(&self, name: &str) -> Option<i64> {
        let patterns = match &self.0 {
            Some(own) => std::slice::from_ref(own),
            None => USUAL.as_slice(),
        };
        patterns.iter().find_map(|pattern| pattern.captures(name)?.name(GROUP)?.as_str().parse().ok())
    }
}

/// A checkpoint that may still be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its file, index or folder.
    pub path: PathBuf,
    /// The step that its name tells.
    pub step: i64,
    /// How it looks.
    pub print: Print,
}

/// Names, sizes and times of all files of a checkpoint: what changes while it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Print(Vec<(PathBuf, u64, SystemTime)>);

impl Print {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let mut files: Vec<PathBuf> = beside::files(path).into();
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                files.push(entry?.path());
            }
        } else {
            files.push(path.to_owned());
            if path.to_string_lossy().ends_with(INDEX)
                && let Ok(index) = Index::open(path)
            {
                files.extend(index.shards().into_iter().map(|shard| path.with_file_name(shard)));
            }
        }
        files.sort();
        files.dedup();
        let mut print = Vec::new();
        for file in files {
            // What is not there, or not any more, is part of how it looks.
            if let Ok(metadata) = file.metadata()
                && metadata.is_file()
            {
                let changed = metadata.modified()?;
                print.push((file, metadata.len(), changed));
            }
        }
        Ok(Self(print))
    }

    /// When the last of the files was written.
    pub fn newest(&self) -> Option<SystemTime> {
        self.0.iter().map(|(_, _, changed)| *changed).max()
    }
}

/// The checkpoints that a folder seems to hold.
pub fn look(folder: &Path, steps: &Steps) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let step = steps.of(name).filter(|_| may_be_checkpoint(name, path.is_dir()));
        if let Some(step) = step {
            let print = Print::of(&path).with_context(|| path.display().to_string())?;
            found.push(Found { path, step, print });
        }
    }
    Ok(found)
}

fn may_be_checkpoint(name: &str, is_folder: bool) -> bool {
    let lower = name.to_ascii_lowercase();
    if lower.starts_with('.') || lower.starts_with("tmp") || UNFINISHED.iter().any(|mark| lower.contains(mark)) {
        return false;
    }
    let is_file = || {
        let is_model = ENDINGS.iter().any(|ending| lower.ends_with(ending)) && !SHARD.is_match(&lower);
        is_model && !NO_MODELS.iter().any(|other| lower.contains(other))
    };
    is_folder || lower.ends_with(INDEX) || is_file()
}

/// Whether all of a checkpoint is there and can be read: headers, sizes, index and every file that it names.
pub async fn check_whole(path: &Path, key: Option<String>) -> anyhow::Result<()> {
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || checkpoint::open(&path, &OpenOptions { key }).map(drop));
    Ok(opened.await??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_is_read_from_usual_names_and_by_ones_own_pattern() {
        let usual = Steps::default();
        for (name, step) in [
            ("step-1000.safetensors", Some(1000)),
            ("checkpoint-1000", Some(1000)),
            ("epoch_12", Some(12)),
            ("epoch=3-step=400.ckpt", Some(400)),
            ("global_step50", Some(50)),
            ("iter_0001000", Some(1000)),
            ("model.safetensors", None),
            ("logs-2024", None),
        ] {
            assert_eq!(usual.of(name), step, "{name}");
        }
        let own = Steps::parse(r"^model_(?<step>\d+)k").unwrap();
        assert_eq!((own.of("model_7k.pt"), own.of("step-7.pt")), (Some(7), None));
        assert!(Steps::parse(r"(\d+)").unwrap_err().contains("`step`"));
        Steps::parse("(").unwrap_err();
    }

    #[test]
    fn what_is_no_model_or_marked_as_unfinished_is_passed_over() {
        for (name, is_folder, expected) in [
            ("step-1.safetensors", false, true),
            ("step-1.safetensors.index.json", false, true),
            ("step-1.pt", false, true),
            ("checkpoint-1", true, true),
            ("step-1.json", false, false),
            ("checkpoint-1", false, false),
            ("step-1-00001-of-00002.safetensors", false, false),
            ("optimizer-step-1.pt", false, false),
            ("tmp-checkpoint-1", true, false),
            ("checkpoint-1.tmp", true, false),
            ("step-1.safetensors.part", false, false),
            (".step-1.safetensors", false, false),
        ] {
            assert_eq!(may_be_checkpoint(name, is_folder), expected, "{name}");
        }
    }
}
