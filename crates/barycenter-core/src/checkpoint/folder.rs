//! Checkpoints in every form they come in, and what lies beside them.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use super::{CheckpointFile, DEFAULT_HEADER_LIMIT, Index, layout::shown, pytorch, source::Source};
use crate::{Error, Result};

/// Names under which a folder holds its checkpoint, the first that is there counts; then the only file of a known kind.
const NAMES: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];
/// Endings of a checkpoint's file under another name, by preference.
const ENDINGS: [&[&str]; 3] = [&[".safetensors.index.json"], &[".safetensors"], &[".pt", ".pth", ".bin", ".ckpt"]];

/// How a checkpoint is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Where the state dict lies in a `PyTorch` file, as `model.state_dict`; found where this is not said and it is unambiguous.
    pub key: Option<String>,
}

/// Opens a checkpoint: a safetensors file, an index of several (`*.index.json`), a `PyTorch` zip file, or a folder with one of
/// them.
///
/// The files must not be changed while they are open. Nothing in a `PyTorch` file is run.
///
/// # Errors
/// [`Error::Io`] where a file cannot be read, [`Error::Corrupt`] where one is not what its form asks for, [`Error::Input`] where a
/// folder holds none or several, or the options do not fit; each names the path.
pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<CheckpointFile> {
    let path = path.as_ref();
    let found = if path.is_dir() { find(path)? } else { path.to_owned() };
    if is_index(&found) {
        return open_shards(&found, options);
    }
    open_file(&found, options)
}

/// Whether a checkpoint is something else than one safetensors file, so that [`open`] and [`CheckpointFile::write_to`] make one of
/// it.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read.
pub fn needs_conversion(path: impl AsRef<Path>) -> Result<bool> {
    let path = path.as_ref();
    Ok(path.is_dir() || is_index(path) || is_pytorch(&first_bytes(path)?))
}

/// The files that make a checkpoint, by name in one folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderFiles {
    /// Where they lie.
    pub folder: PathBuf,
    /// Files with tensors.
    pub weights: Vec<String>,
    /// Which of them holds which tensor, where they are several.
    pub index: Option<String>,
    /// Whether they are safetensors files, and not `PyTorch`'s.
    pub are_safetensors: bool,
    /// What lies beside them and goes with them.
    pub carried: Carried,
}

/// Finds the files of a checkpoint that is a folder or an index of several files; they are not looked at as yet.
///
/// # Errors
/// As [`open`], but for what is wrong inside of the files.
pub fn folder_files(path: impl AsRef<Path>) -> Result<FolderFiles> {
    let path = path.as_ref();
    let found = if path.is_dir() { find(path)? } else { path.to_owned() };
    let folder = found.parent().unwrap_or(Path::new("")).to_owned();
    let name = found.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Error::input(format!("{}: its name is not text", found.display())))?.to_owned();
    let (weights, index) = if is_index(&found) {
        let weights = Index::open(&found)?.shards().into_iter().map(str::to_owned).collect();
        (weights, Some(name))
    } else {
        (vec![name], None)
    };
    let mut are_safetensors = true;
    for name in &weights {
        are_safetensors &= !is_pytorch(&first_bytes(&folder.join(name))?);
    }
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
    let carried = carried(here)?;
    Ok(FolderFiles { folder, weights, index, are_safetensors, carried })
}

fn open_shards(path: &Path, options: &OpenOptions) -> Result<CheckpointFile> {
    let index = Index::open(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut shards = Vec::new();
    for name in index.shards() {
        shards.push((name, open_file(&folder.join(name), options)?));
    }
    let named = shards.iter().map(|(file, shard)| (*file, shard.layout().tensors.iter().map(|t| t.name.as_str())));
    index.check(named).map_err(|e| e.in_file(path))?;
    Ok(CheckpointFile::join(shards.into_iter().map(|(_, shard)| shard).collect()))
}

fn open_file(path: &Path, options: &OpenOptions) -> Result<CheckpointFile> {
    if is_pytorch(&first_bytes(path)?) {
        return pytorch::read(Source::open(path)?, options.key.as_deref()).map_err(|e| e.in_file(path));
    }
    if options.key.is_some() {
        let what = format!("{}: a safetensors file has no keys to choose from", path.display());
        return Err(Error::input(what));
    }
    CheckpointFile::open(path)
}

fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

fn first_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut first = Vec::new();
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    file.take(16).read_to_end(&mut first).map_err(|e| Error::io(path, e))?;
    Ok(first)
}

/// Whether a file is a zip archive or a pickle; either would claim an absurdly long safetensors header.
fn is_pytorch(first: &[u8]) -> bool {
    let absurd = first.first_chunk().is_some_and(|length| u64::from_le_bytes(*length) > DEFAULT_HEADER_LIMIT);
    absurd && (first.starts_with(b"PK") || matches!(first, [0x80, 2..=5, ..]))
}

/// The checkpoint of a folder: a known name, else the only file of a known kind.
fn find(folder: &Path) -> Result<PathBuf> {
    if let Some(name) = NAMES.iter().find(|name| folder.join(name).is_file()) {
        return Ok(folder.join(name));
    }
    let names = file_names(folder)?;
    for endings in ENDINGS {
        let fitting: Vec<&String> =
            names.iter().filter(|name| endings.iter().any(|ending| name.ends_with(ending))).collect();
        match fitting[..] {
            [] => {}
            [only] => return Ok(folder.join(only)),
            [first, second, ..] => {
                let (first, second) = (shown(first), shown(second));
                let what = format!("{}: holds `{first}` and `{second}`; name one of them", folder.display());
                return Err(Error::input(what));
            }
        }
    }
    Err(Error::input(format!("{}: holds no checkpoint", folder.display())))
}

fn file_names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(|e| Error::io(folder, e))?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Endings of files that make a model loadable: configuration, tokeniser, templates, licence.
const CARRIED: [&str; 5] = ["json", "jinja", "model", "tiktoken", "txt"];
/// What trainers write of their own progress.
const RECORDS: [&str; 5] =
    ["trainer_state.json", "all_results.json", "train_results.json", "eval_results.json", "metrics.json"];
/// Largest file that is carried.
const LARGEST_CARRIED: u64 = 64 << 20;
/// Most files that are carried.
const MOST_CARRIED: usize = 256;

/// Files beside a checkpoint that go with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Names of files in the folder.
    pub names: Vec<String>,
    /// Names of files that would go with it but for the reason given.
    pub left: Vec<(String, &'static str)>,
}

/// Looks through a checkpoint's folder for configuration and tokeniser files that an average of it needs too.
///
/// Only regular files directly in the folder count, and links only where they stay in it. Weights, their index and the
/// trainer's own records are not carried.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be read.
pub fn carried(folder: &Path) -> Result<Carried> {
    let root = folder.canonicalize().map_err(|e| Error::io(folder, e))?;
    let mut carried = Carried::default();
    for name in file_names(folder)?.into_iter().filter(|name| belongs(name)) {
        match refusal(&root, &name) {
            Some(reason) => carried.left.push((name, reason)),
            None if carried.names.len() == MOST_CARRIED => carried.left.push((name, "there are too many files")),
            None => carried.names.push(name),
        }
    }
    Ok(carried)
}

fn belongs(name: &str) -> bool {
    let known = Path::new(name).extension().and_then(|e| e.to_str()).is_some_and(|e| CARRIED.contains(&e));
    let other = name.ends_with(".index.json") || RECORDS.contains(&name);
    (known && !other && !name.starts_with('.')) || name == "LICENSE"
}

fn refusal(root: &Path, name: &str) -> Option<&'static str> {
    let Ok(target) = root.join(name).canonicalize() else { return Some("it leads nowhere") };
    let Ok(metadata) = fs::metadata(&target) else { return Some("it cannot be read") };
    if !target.starts_with(root) {
        return Some("it is a link out of the folder");
    }
    if !metadata.is_file() {
        return Some("it is no regular file");
    }
    (metadata.len() > LARGEST_CARRIED).then_some("it is too large")
}
