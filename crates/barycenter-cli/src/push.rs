//! One checkpoint on its way to the server, whatever form it has on disk.
//!
//! A safetensors file goes as it is; a folder of safetensors files goes with its index and the files that belong to it, each by
//! itself. What PyTorch wrote is written as one safetensors file first; nothing in it is run.

use std::{
    collections::BTreeMap,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use barycenter_api::{
    Checkpoint, CreateCheckpoint, NamedFile, PushCheckpoint, UploadTarget,
    client::{Client, IN_PARTS_ABOVE, LocalFiles},
};
use barycenter_core::checkpoint::{self, Carried, FolderFiles, OpenOptions, Shards};
use tempfile::NamedTempFile;

use crate::{checkpoint::digest, output::Output, progress::Bar};

/// Where a checkpoint goes, and what is told beside it.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Name or id of the run.
    pub run: String,
    /// Training step.
    pub step: i64,
    /// Epoch.
    pub epoch: Option<f64>,
    /// Metrics.
    pub metrics: BTreeMap<String, f64>,
    /// Tags.
    pub tags: Vec<String>,
}

/// How checkpoints are read and sent.
#[derive(Clone, Debug)]
pub struct Manner {
    /// Where the state dict lies in `PyTorch` files.
    pub key: Option<String>,
    /// Parts of a large file that are sent at a time.
    pub parallel: usize,
}

/// Sends a checkpoint. What the server has of it is not sent; after an interruption the same call goes on.
pub async fn push(
    client: &Client,
    output: &Output,
    path: &Path,
    destination: &Destination,
    manner: &Manner,
) -> anyhow::Result<Checkpoint> {
    let sent = Sent::of(path, manner.key.clone()).await?;
    let label = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let pushing = Pushing { client, output, destination, label, parallel: manner.parallel };
    match &sent {
        Sent::AsItIs(file) => pushing.file(file).await,
        Sent::Converted(file) => pushing.file(file.path()).await,
        Sent::Files { files, left, .. } => {
            for (name, reason) in left {
                output.say(&format!("{}: `{name}` is not carried along: {reason}", path.display()));
            }
            pushing.files(files).await
        }
    }
}

struct Pushing<'a> {
    client: &'a Client,
    output: &'a Output,
    destination: &'a Destination,
    label: String,
    parallel: usize,
}

impl Pushing<'_> {
    async fn file(&self, file: &Path) -> anyhow::Result<Checkpoint> {
        let size = file.metadata().with_context(|| file.display().to_string())?.len();
        if size > IN_PARTS_ABOVE {
            return self.in_parts(file, size).await;
        }
        let Destination { run, step, epoch, metrics, tags } = self.destination;
        let list = |items: Vec<String>| (!items.is_empty()).then(|| items.join(","));
        let beside = PushCheckpoint {
            epoch: *epoch,
            metrics: list(metrics.iter().map(|(name, value)| format!("{name}:{value}")).collect()),
            tags: list(tags.clone()),
            digest_blake3: Some(digest(file).await?),
        };
        let bar = Bar::of_bytes(size, &self.label, self.output.quiet());
        let checkpoint = self.client.push_checkpoint(run, *step, &beside, file, &bar.counter()).await;
        bar.finish();
        Ok(checkpoint?)
    }

    async fn in_parts(&self, file: &Path, size: u64) -> anyhow::Result<Checkpoint> {
        let Destination { run, step, epoch, metrics, tags } = self.destination.clone();
        let target = UploadTarget::Checkpoint { run, step, epoch, metrics, tags };
        let bar = Bar::of_bytes(size, &self.label, self.output.quiet());
        let upload = self.client.push_in_parts(target, file, self.parallel, &bar.counter()).await;
        bar.finish();
        let checkpoint_id = upload?.checkpoint_id.context("the upload was completed and became no checkpoint")?;
        Ok(self.client.find_checkpoint(checkpoint_id).await?)
    }

    async fn files(&self, files: &LocalFiles) -> anyhow::Result<Checkpoint> {
        let mut named = Vec::new();
        for (name, path) in files {
            let size_bytes = path.metadata().with_context(|| path.display().to_string())?.len();
            let digest_blake3 = digest(path).await.with_context(|| path.display().to_string())?;
            named.push(NamedFile { name: name.clone(), digest_blake3, size_bytes });
        }
        let Destination { run, step, epoch, metrics, tags } = self.destination.clone();
        let total = named.iter().map(|file| file.size_bytes).sum();
        let body = CreateCheckpoint { step, files: named, epoch, metrics, tags };
        let bar = Bar::of_bytes(total, &self.label, self.output.quiet());
        let made = self.client.push_checkpoint_files(&run, &body, files, self.parallel, &bar.counter()).await;
        bar.finish();
        Ok(made?)
    }
}

/// What is sent of a checkpoint.
enum Sent {
    /// One file: a safetensors file, or one that the server will refuse.
    AsItIs(PathBuf),
    /// The same tensors as one safetensors file.
    Converted(NamedTempFile),
    /// Several files.
    Files {
        files: LocalFiles,
        /// What stays here, and why.
        left: Vec<(String, &'static str)>,
        /// Among the files where they had to be converted, so that it stays until they are sent.
        #[cfg_attr(not(test), expect(dead_code, reason = "held so that the file stays"))]
        converted: Option<NamedTempFile>,
    },
}

impl Sent {
    async fn of(path: &Path, key: Option<String>) -> anyhow::Result<Self> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || Self::find(&path, key)).await?
    }

    fn find(path: &Path, key: Option<String>) -> anyhow::Result<Self> {
        let is_index = path.extension().is_some_and(|extension| extension == "json");
        if !path.is_dir() && !is_index {
            if key.is_none() && !checkpoint::needs_conversion(path)? {
                return Ok(Self::AsItIs(path.to_owned()));
            }
            return Ok(Self::Converted(convert(path, key)?));
        }
        let FolderFiles { folder, weights, index, are_safetensors, carried } = checkpoint::folder_files(path)?;
        let (mut files, mut left) = carry(&folder, carried);
        let mut converted = None;
        if are_safetensors && key.is_none() {
            files.extend(weights.into_iter().chain(index).map(|name| (name.clone(), folder.join(name))));
        } else {
            let file = convert(path, key)?;
            files.insert(Shards::SINGLE.to_owned(), file.path().to_owned());
            converted = Some(file);
        }
        // A model that is nothing but one file is that file, in whatever folder it lies.
        if files.len() == 1 && files.contains_key(Shards::SINGLE) && left.is_empty() {
            return Ok(match (converted, files.remove(Shards::SINGLE)) {
                (Some(file), _) => Self::Converted(file),
                (None, Some(file)) => Self::AsItIs(file),
                (None, None) => anyhow::bail!("{}: holds no checkpoint", path.display()),
            });
        }
        left.sort();
        Ok(Self::Files { files, left, converted })
    }
}

/// The files that go with the weights, and those that stay.
fn carry(folder: &Path, carried: Carried) -> (LocalFiles, Vec<(String, &'static str)>) {
    let mut left = carried.left;
    let (taken, odd): (Vec<_>, Vec<_>) = carried.names.into_iter().partition(|name| is_plain(name));
    left.extend(odd.into_iter().map(|name| (name, "its name has other characters than letters, digits, `._-+`")));
    (taken.into_iter().map(|name| (name.clone(), folder.join(name))).collect(), left)
}

/// Whether the server takes a file of this name.
fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    name.chars().all(allowed) && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') && name.len() <= 200
}

fn convert(path: &Path, key: Option<String>) -> anyhow::Result<NamedTempFile> {
    let opened = checkpoint::open(path, &OpenOptions { key })?;
    let mut converted = BufWriter::new(NamedTempFile::new()?);
    opened.write_to(&mut converted)?;
    converted.flush()?;
    Ok(converted.into_inner().map_err(std::io::IntoInnerError::into_error)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use barycenter_core::checkpoint::CheckpointFile;

    use super::*;

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../barycenter-core/tests/fixtures/pytorch")
    }

    #[tokio::test]
    async fn a_pytorch_file_is_sent_as_safetensors_and_safetensors_as_they_are() {
        let (several, expected) = (fixtures().join("several.pt"), fixtures().join("small_expected.safetensors"));
        let Sent::Converted(sent) = Sent::of(&several, Some("model".into())).await.unwrap() else {
            panic!("a PyTorch file is converted");
        };
        let (sent, expected_file) =
            (CheckpointFile::open(sent.path()).unwrap(), CheckpointFile::open(&expected).unwrap());
        for name in ["weight", "bias"] {
            assert_eq!(sent.bytes(name).unwrap(), expected_file.bytes(name).unwrap());
        }
        assert!(matches!(Sent::of(&expected, None).await.unwrap(), Sent::AsItIs(path) if path == expected));
        assert!(Sent::of(&several, None).await.is_err_and(|error| error.to_string().contains("`ema`")));
        assert!(
            Sent::of(&expected, Some("model".into())).await.is_err_and(|error| error.to_string().contains("no keys"))
        );
    }

    #[tokio::test]
    async fn a_folder_goes_with_what_belongs_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        fs::copy(fixtures().join("small_expected.safetensors"), folder.path().join("model.safetensors")).unwrap();
        assert!(matches!(Sent::of(folder.path(), None).await.unwrap(), Sent::AsItIs(_)));
        for name in ["config.json", "tokenizer.json", "trainer_state.json", "optimizer.pt", "odd name.json"] {
            put(name, b"{}");
        }
        let Sent::Files { files, left, .. } = Sent::of(folder.path(), None).await.unwrap() else {
            panic!("a folder of several files is sent as such");
        };
        assert_eq!(files.keys().collect::<Vec<_>>(), ["config.json", "model.safetensors", "tokenizer.json"]);
        assert_eq!(left.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["odd name.json"]);
    }

    #[tokio::test]
    async fn the_weights_of_a_pytorch_folder_are_converted() {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(fixtures().join("flat.pt"), folder.path().join("pytorch_model.bin")).unwrap();
        fs::write(folder.path().join("config.json"), b"{}").unwrap();
        let Sent::Files { files, converted, .. } = Sent::of(folder.path(), None).await.unwrap() else {
            panic!("a folder of several files is sent as such");
        };
        assert_eq!(files.keys().collect::<Vec<_>>(), ["config.json", "model.safetensors"]);
        assert!(converted.is_some());
        assert!(!CheckpointFile::open(&files["model.safetensors"]).unwrap().layout().tensors.is_empty());
    }
}
