//! Checkpoints of several files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::{ByteCounter, Client, ClientError, Expected, Result, uploads::IN_PARTS_ABOVE};
use crate::{
    Checkpoint, CheckpointFile, CreateCheckpoint, NamedFile, PutFile, RegisterFile, StagedFile, StagedKind,
    UploadTarget, file_list,
};

/// How often files may turn out to be missing that were sent: they lapse after days.
const ROUNDS: usize = 3;

/// Where the files of a checkpoint lie on this machine, by their names in it.
pub type LocalFiles = BTreeMap<String, PathBuf>;

impl Client {
    /// Makes files that are on the server a checkpoint.
    ///
    /// # Errors
    /// A problem `files_missing` that names each file where some are not there.
    pub async fn create_checkpoint(&self, run: &str, body: &CreateCheckpoint) -> Result<Checkpoint> {
        self.create(&self.url(&["runs", run, "checkpoints"]), body).await
    }

    /// Uploads a file for a checkpoint of several files; one that is there is not sent in full.
    pub async fn push_file(
        &self,
        run: &str,
        digest_blake3: &str,
        kind: StagedKind,
        file: &Path,
        sent: &ByteCounter,
    ) -> Result<StagedFile> {
        let url = self.url(&["runs", run, "files", digest_blake3]);
        self.upload(&url, &PutFile { kind }, file, sent).await
    }

    /// Makes a file that lies below a prefix which the server allows a file for checkpoints of a run, in place.
    pub async fn register_file(&self, run: &str, body: &RegisterFile) -> Result<StagedFile> {
        self.create(&self.url(&["runs", run, "files"]), body).await
    }

    /// Uploads those of a checkpoint's files that the server lacks, large ones in parts, and makes all of them a checkpoint.
    /// Whoever was interrupted calls this again, with nothing to remember. `sent` hears the bytes that are there.
    pub async fn push_checkpoint_files(
        &self,
        run: &str,
        body: &CreateCheckpoint,
        local: &LocalFiles,
        parallel: usize,
        sent: &ByteCounter,
    ) -> Result<Checkpoint> {
        let total: u64 = body.files.iter().map(|file| file.size_bytes).sum();
        let mut round = 0;
        loop {
            let missing = match self.create_checkpoint(run, body).await {
                Err(error) if round < ROUNDS => missing_files(body, &error).ok_or(error)?,
                made => {
                    sent.tell(total);
                    return made;
                }
            };
            round += 1;
            let mut there = total - missing.iter().map(|file| file.size_bytes).sum::<u64>();
            for file in missing {
                let of_file = sent.behind(there);
                self.push_one(run, file, local, parallel, &of_file).await?;
                there += file.size_bytes;
            }
        }
    }

    async fn push_one(
        &self,
        run: &str,
        file: &NamedFile,
        local: &LocalFiles,
        parallel: usize,
        sent: &ByteCounter,
    ) -> Result<()> {
        let lacking = || ClientError::Setup(format!("`{}` is to be sent and lies nowhere", file.name));
        let path = local.get(&file.name).ok_or_else(lacking)?;
        let is_weights = file.name.ends_with(".safetensors");
        if is_weights && file.size_bytes > IN_PARTS_ABOVE {
            let target = UploadTarget::File { run: run.to_owned() };
            return self.push_in_parts(target, path, parallel, sent).await.map(drop);
        }
        let kind = if is_weights { StagedKind::Weights } else { StagedKind::Other };
        self.push_file(run, &file.digest_blake3, kind, path, sent).await.map(drop)
    }

    /// The files of a checkpoint, which make it what its digest says; of one that is one file, that file.
    ///
    /// # Errors
    /// [`ClientError::Protocol`] where the list is not the one of this digest.
    pub async fn list_checkpoint_files(&self, id: Uuid, digest_blake3: &str) -> Result<Vec<CheckpointFile>> {
        let url = self.url(&["checkpoints", &id.to_string(), "files"]);
        let files: Vec<CheckpointFile> = self.fetch(&url, &()).await?;
        if is_single(&files, digest_blake3) {
            return Ok(files);
        }
        let named: Vec<NamedFile> = files.iter().cloned().map(NamedFile::from).collect();
        let found = blake3::hash(file_list(&named).as_bytes()).to_hex();
        if found.as_str() == digest_blake3 {
            return Ok(files);
        }
        let detail = format!("the list of files has digest {found}, not {digest_blake3}");
        Err(ClientError::Protocol { url: url.to_string(), detail })
    }

    /// Downloads a file of a checkpoint and verifies its digest, see [`Client::download`].
    pub async fn download_checkpoint_file(
        &self,
        id: Uuid,
        file: &CheckpointFile,
        to: &Path,
        received: &ByteCounter,
    ) -> Result<()> {
        let expected = Expected { size_bytes: file.size_bytes, digest_blake3: &file.digest_blake3 };
        self.download(&Self::checkpoint_file_path(id, &file.name), to, expected, received).await
    }

    /// The path of a checkpoint's file of this name, for [`Client::download`].
    pub fn checkpoint_file_path(id: Uuid, name: &str) -> String {
        format!("/v1/checkpoints/{id}/files/{name}")
    }
}

/// Whether a checkpoint of this digest is one file, and this is it.
fn is_single(files: &[CheckpointFile], digest_blake3: &str) -> bool {
    matches!(files, [only] if only.digest_blake3 == digest_blake3)
}

/// The files that a refusal names as missing; `None` where it is another refusal.
fn missing_files<'a>(body: &'a CreateCheckpoint, error: &ClientError) -> Option<Vec<&'a NamedFile>> {
    let problem = error.problem().filter(|problem| problem.code == "files_missing")?;
    let is_named = |file: &&NamedFile| {
        problem.errors.iter().any(|fault| fault.field.strip_prefix("files.") == Some(file.name.as_str()))
    };
    // Equal files under two names are sent once.
    let mut digests = std::collections::BTreeSet::new();
    Some(body.files.iter().filter(is_named).filter(|file| digests.insert(file.digest_blake3.as_str())).collect())
}
