//! Where an average goes: a file, or a folder with all that a model needs.
//!
//! Both are written beside the goal and renamed, so that a half-written model never carries its name.

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    io::{self, BufWriter, Write},
    path::Path,
};

use anyhow::Context;
use barycenter_core::{
    checkpoint::{CheckpointFile, Dtype, Shards, Written, carried},
    merge::{self, Policy, output_tensors},
};
use serde::Serialize;

use crate::progress::Bar;

/// A file with weights.
#[derive(Debug, Serialize)]
pub struct WrittenFile {
    /// Name in the folder, or the whole path.
    pub name: String,
    pub size_bytes: u64,
    pub digest_blake3: String,
}

/// What is to be written.
pub struct Average<'a> {
    pub candidates: &'a [CheckpointFile],
    pub weights: &'a [f64],
    pub policies: &'a BTreeMap<String, Policy>,
    /// Element type of floating-point tensors; their own where absent.
    pub dtype: Option<Dtype>,
    pub bar: &'a Bar,
}

impl Average<'_> {
    /// Writes one file.
    pub fn write_file(&self, out: &Path) -> anyhow::Result<WrittenFile> {
        let written = whole_file(out, |file| self.merge(self.candidates, file, 0))?;
        Ok(named(out.display().to_string(), written))
    }

    /// Writes a folder: weights in files of at most `shard_size` bytes, their index, and the files that `beside` has beside its
    /// weights. Returns the files with weights and the names of the others.
    pub fn write_folder(
        &self,
        out: &Path,
        shard_size: Option<u64>,
        beside: Option<&Path>,
        quiet: bool,
    ) -> anyhow::Result<(Vec<WrittenFile>, Vec<String>)> {
        whole_folder(out, |folder| {
            let carried = beside.map(|from| carry(from, folder, quiet)).transpose()?.unwrap_or_default();
            Ok((self.write_shards(folder, shard_size.unwrap_or(u64::MAX))?, carried))
        })
    }

    /// Writes weights in files of at most `shard_size` bytes and their index into a folder.
    pub fn write_shards(&self, folder: &Path, shard_size: u64) -> anyhow::Result<Vec<WrittenFile>> {
        let tensors = self.candidates.last().map(|last| output_tensors(last, self.dtype)).unwrap_or_default();
        let shards = Shards::plan(tensors, shard_size)?;
        let mut files = Vec::new();
        let mut done = 0;
        for (name, group) in &shards.files {
            let select = |candidate: &CheckpointFile| candidate.select(group.iter().map(|tensor| tensor.name.as_str()));
            let parts = self.candidates.iter().map(select).collect::<Result<Vec<_>, _>>()?;
            let path = folder.join(name);
            let file = File::create_new(&path).with_context(|| path.display().to_string())?;
            files.push(named(name.clone(), self.merge(&parts, &file, done)?));
            done += group.len();
        }
        if let Some(index) = shards.index() {
            let path = folder.join(Shards::INDEX);
            write_new(&path, index.as_bytes()).with_context(|| path.display().to_string())?;
        }
        Ok(files)
    }

    fn merge(&self, candidates: &[CheckpointFile], file: &File, before: usize) -> anyhow::Result<Written> {
        let mut buffer = BufWriter::new(file);
        let written =
            merge::merge(candidates, self.weights, self.policies, self.dtype, &mut buffer, &mut |done, _| {
                self.bar.set((before + done) as u64);
                Ok(())
            })?;
        buffer.flush()?;
        drop(buffer);
        file.sync_all()?;
        Ok(written)
    }
}

/// Has a file made beside its goal and gives it its name once it is whole.
pub fn whole_file<T>(out: &Path, make: impl FnOnce(&File) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let around = parent(out);
    let beside = tempfile::Builder::new().prefix(".barycenter-").permissions(rights(0o666)).tempfile_in(around);
    let beside = beside.with_context(|| format!("cannot write in {}", around.display()))?;
    let made = make(beside.as_file()).with_context(|| out.display().to_string())?;
    beside.persist_noclobber(out).map_err(|e| e.error).with_context(|| out.display().to_string())?;
    Ok(made)
}

/// Has a folder filled beside its goal and gives it its name once it is whole.
pub fn whole_folder<T>(out: &Path, fill: impl FnOnce(&Path) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let around = parent(out);
    let folder = tempfile::Builder::new().prefix(".barycenter-").permissions(rights(0o777)).tempdir_in(around);
    let folder = folder.with_context(|| format!("cannot write in {}", around.display()))?;
    let made = fill(folder.path())?;
    fs::rename(folder.path(), out).with_context(|| out.display().to_string())?;
    // The folder has its name now; there is nothing left to remove.
    let _ = folder.keep();
    Ok(made)
}

/// Copies what goes with a checkpoint; says what does not.
fn carry(from: &Path, to: &Path, quiet: bool) -> anyhow::Result<Vec<String>> {
    let found = carried(from)?;
    for name in &found.names {
        let bytes = fs::read(from.join(name)).with_context(|| from.join(name).display().to_string())?;
        write_new(&to.join(name), &bytes).with_context(|| to.join(name).display().to_string())?;
    }
    for (name, reason) in found.left.iter().filter(|_| !quiet) {
        eprintln!("{} is not carried along: {reason}", from.join(name).display());
    }
    Ok(found.names)
}

pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The folder that a path lies in.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub fn named(name: String, written: Written) -> WrittenFile {
    WrittenFile { name, size_bytes: written.size_bytes, digest_blake3: written.digest_blake3 }
}

/// A model is no secret of its maker; the umask has its say.
fn rights(mode: u32) -> Permissions {
    use std::os::unix::fs::PermissionsExt;
    Permissions::from_mode(mode)
}
