//! Tensors that two checkpoints share byte for byte, such as frozen embeddings.
//!
//! Parts of a file come in any order and cut tensors anywhere, so no digest of a tensor falls out of an upload. It is computed when
//! somebody first asks, by reading the file back once, and kept beside the file: uploads cost what they did.

use std::collections::BTreeMap;

use barycenter_core::checkpoint::{Dtype, Layout, TensorLayout};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::{
    AppError, AppResult, blobs,
    checkpoint_files::{self, list_files},
    checkpoints::{find_checkpoint, find_layout},
    tensor_file::{check_header, invalid_file},
    transaction::connection,
};
use crate::{
    db,
    domain::{blob::Blob, checkpoint::Checkpoint, checkpoint_files::FileKind, ids::CheckpointId, layout::Tensor},
    state::AppState,
};

const DIGEST_BYTES: usize = 32;

/// What two checkpoints share.
#[derive(Clone, Debug)]
pub struct EqualTensors {
    /// The one that was asked about.
    pub checkpoint: Checkpoint,
    /// The one that it was compared with.
    pub other: Checkpoint,
    /// Bytes of all tensors of the former.
    pub tensor_bytes: u64,
    /// Names of the tensors that are equal in name, dtype, shape and every byte, sorted, with their sizes.
    pub equal: Vec<(String, u64)>,
}

/// A tensor as it is compared.
#[derive(PartialEq, Eq)]
struct Known {
    tensor: Tensor,
    digest: Vec<u8>,
}

/// Compares two checkpoints tensor by tensor.
pub async fn find_equal_tensors(state: &AppState, id: CheckpointId, other: CheckpointId) -> AppResult<EqualTensors> {
    let (checkpoint, other) = (find_checkpoint(state, id).await?, find_checkpoint(state, other).await?);
    let ours = known_tensors(state, &checkpoint).await?;
    let theirs = known_tensors(state, &other).await?;
    let mut equal = Vec::new();
    let mut tensor_bytes = 0;
    for (name, known) in &ours {
        let size = size_bytes(&known.tensor)?;
        tensor_bytes += size;
        if theirs.get(name) == Some(known) {
            equal.push((name.clone(), size));
        }
    }
    Ok(EqualTensors { checkpoint, other, tensor_bytes, equal })
}

fn size_bytes(tensor: &Tensor) -> AppResult<u64> {
    let dtype: Dtype = tensor.dtype.parse().map_err(|_| AppError::internal("a layout has an unknown dtype"))?;
    Ok(tensor.shape.iter().product::<u64>() * dtype.size() as u64)
}

async fn known_tensors(state: &AppState, checkpoint: &Checkpoint) -> AppResult<BTreeMap<String, Known>> {
    let id = checkpoint.checkpoint_id;
    let mut known = BTreeMap::new();
    for file in list_files(state, id).await?.into_iter().filter(|file| file.kind == FileKind::Weights) {
        let blob = checkpoint_files::find_file(state, id, &file.file.name).await?;
        let mut conn = connection(state).await?;
        let looked_at = db::files::find_tensor_file(&mut conn, &blob.digest_blake3).await?;
        let looked_at = looked_at.ok_or_else(|| AppError::internal("a file of a checkpoint was never looked at"))?;
        let tensors = find_layout(&mut conn, &looked_at.layout_blake3).await?;
        drop(conn);
        let digests = match looked_at.tensor_digests {
            Some(digests) => digests,
            None => compute(state, &blob).await?,
        };
        for (tensor, digest) in tensors.into_iter().zip(digests.chunks_exact(DIGEST_BYTES)) {
            known.insert(tensor.name.clone(), Known { tensor, digest: digest.to_vec() });
        }
    }
    Ok(known)
}

/// Reads a file back for the digests of its tensors, in the order of names, and keeps them.
async fn compute(state: &AppState, blob: &Blob) -> AppResult<Vec<u8>> {
    let first = read(state, blob, 0..8).await?;
    let length = first.first_chunk::<8>().map(|first| u64::from_le_bytes(*first));
    let end = length.and_then(|length| length.checked_add(8)).filter(|end| *end <= blob.size_bytes);
    let end = end.ok_or_else(|| invalid_file("the stored file has no header any more"))?;
    let header = read(state, blob, 8..end).await?;
    let mut hasher = TensorHasher::new(check_header(&header, Some(blob.size_bytes), &state.config.uploads)?);
    let mut chunks = blobs::open_range(state, blob, end..blob.size_bytes).await?;
    while let Some(chunk) = chunks.next().await {
        hasher.update(&chunk?);
    }
    let digests = hasher.finish();
    let mut conn = connection(state).await?;
    db::files::save_tensor_digests(&mut conn, &blob.digest_blake3, &digests).await?;
    Ok(digests)
}

async fn read(state: &AppState, blob: &Blob, range: std::ops::Range<u64>) -> AppResult<Bytes> {
    let mut chunks = blobs::open_range(state, blob, range).await?;
    let mut read = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        read.extend_from_slice(&chunk?);
    }
    Ok(read.freeze())
}

/// Follows the data section of one file.
struct TensorHasher {
    /// In file order, the ones that are not wholly seen.
    ahead: std::collections::VecDeque<TensorLayout>,
    position: u64,
    current: blake3::Hasher,
    seen: BTreeMap<String, [u8; DIGEST_BYTES]>,
}

impl TensorHasher {
    fn new(layout: Layout) -> Self {
        let ahead = layout.tensors.into();
        Self { ahead, position: 0, current: blake3::Hasher::new(), seen: BTreeMap::new() }
    }

    fn update(&mut self, mut chunk: &[u8]) {
        while let Some(tensor) = self.ahead.front() {
            let inside = chunk.len().min((tensor.range.end - self.position) as usize);
            self.current.update(&chunk[..inside]);
            self.position += inside as u64;
            chunk = &chunk[inside..];
            if self.position < tensor.range.end {
                return;
            }
            self.seen.extend(self.ahead.pop_front().map(|tensor| (tensor.name, *self.current.finalize().as_bytes())));
            self.current.reset();
        }
    }

    /// The digests in the order of names; tensors of no bytes at the end count too.
    fn finish(mut self) -> Vec<u8> {
        self.update(&[]);
        self.seen.into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_hashed_however_their_bytes_arrive() {
        let header = r#"{"b": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
            "empty": {"dtype": "F32", "shape": [0], "data_offsets": [3, 3]},
            "a": {"dtype": "U8", "shape": [2], "data_offsets": [3, 5]},
            "last": {"dtype": "F32", "shape": [0], "data_offsets": [5, 5]}}"#;
        let digest = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
        let expected = [digest(&[4, 5]), digest(&[1, 2, 3]), digest(&[]), digest(&[])].concat();
        for size in 1..=5 {
            let mut hasher = TensorHasher::new(Layout::parse(header.as_bytes()).unwrap());
            [1, 2, 3, 4, 5].chunks(size).for_each(|chunk| hasher.update(chunk));
            assert_eq!(hasher.finish(), expected, "{size}");
        }
    }
}
