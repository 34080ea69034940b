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
    checkpoint::{CheckpointFile, Shards, TensorSpec, Written, carried},
    merge::{self, Policy},
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
    pub bar: &'a Bar,
}

impl Average<'_> {
    /// Writes one file.
    pub fn write_file(&self, out: &Path) -> anyhow::Result<WrittenFile> {
        let folder = parent(out);
        let beside = tempfile::Builder::new().prefix(".barycenter-").permissions(rights(0o666)).tempfile_in(folder);
        let beside = beside.with_context(|| format!("cannot write in {}", folder.display()))?;
        let written = self.merge(self.candidates, beside.as_file(), 0).with_context(|| out.display().to_string())?;
        beside.persist_noclobber(out).map_err(|e| e.error).with_context(|| out.display().to_string())?;
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
        let around = parent(out);
        let folder = tempfile::Builder::new().prefix(".barycenter-").permissions(rights(0o777)).tempdir_in(around);
        let folder = folder.with_context(|| format!("cannot write in {}", around.display()))?;
        let carried = beside.map(|from| carry(from, folder.path(), quiet)).transpose()?.unwrap_or_default();
        let files = self.write_shards(folder.path(), shard_size.unwrap_or(u64::MAX))?;
        fs::rename(folder.path(), out).with_context(|| out.display().to_string())?;
        // The folder has its name now; there is nothing left to remove.
        let _ = folder.keep();
        Ok((files, carried))
    }

    fn write_shards(&self, folder: &Path, shard_size: u64) -> anyhow::Result<Vec<WrittenFile>> {
        let tensors = self.candidates.last().map(|last| last.layout().tensors.as_slice()).unwrap_or_default();
        let shards = Shards::plan(tensors.iter().map(TensorSpec::from).collect(), shard_size)?;
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
        let written = merge::merge(candidates, self.weights, self.policies, &mut buffer, &mut |done, _| {
            self.bar.set((before + done) as u64);
            Ok(())
        })?;
        buffer.flush()?;
        drop(buffer);
        file.sync_all()?;
        Ok(written)
    }
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

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The folder that a path lies in.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn named(name: String, written: Written) -> WrittenFile {
    WrittenFile { name, size_bytes: written.size_bytes, digest_blake3: written.digest_blake3 }
}

/// A model is no secret of its maker; the umask has its say.
fn rights(mode: u32) -> Permissions {
    use std::os::unix::fs::PermissionsExt;
    Permissions::from_mode(mode)
}
