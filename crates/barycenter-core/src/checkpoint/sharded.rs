//! A checkpoint cut into files of bounded size, named and indexed as Hugging Face's libraries do.

use std::collections::BTreeMap;

use serde_json::json;

use super::TensorSpec;
use crate::{Error, Result};

/// Which tensors go into which file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    /// Name and tensors of each file, in order.
    pub files: Vec<(String, Vec<TensorSpec>)>,
}

impl Shards {
    /// Name of the index.
    pub const INDEX: &str = "model.safetensors.index.json";
    /// Name of the file where there is one only; it needs no index.
    pub const SINGLE: &str = "model.safetensors";

    /// Fills files in order, none with more than `most_bytes` of tensors, unless one tensor alone has more.
    ///
    /// # Errors
    /// [`Error::Input`] where `most_bytes` is 0 or would need more than 99999 files, which their names cannot count.
    pub fn plan(tensors: Vec<TensorSpec>, most_bytes: u64) -> Result<Self> {
        if most_bytes == 0 {
            return Err(Error::input("files of 0 bytes hold nothing"));
        }
        let (mut groups, mut group, mut held) = (Vec::new(), Vec::new(), 0u64);
        for tensor in tensors {
            let size = tensor.size_bytes();
            if !group.is_empty() && held.saturating_add(size) > most_bytes {
                groups.push(std::mem::take(&mut group));
                held = 0;
            }
            group.push(tensor);
            held = held.saturating_add(size);
        }
        groups.push(group);
        let count = groups.len();
        if count > 99_999 {
            return Err(Error::input(format!("{most_bytes} bytes a file make {count} files")));
        }
        let name = |i: usize| match count {
            1 => Self::SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        Ok(Self { files: groups.into_iter().enumerate().map(|(i, group)| (name(i), group)).collect() })
    }

    /// The index's content; none where there is one file only.
    pub fn index(&self) -> Option<String> {
        if self.files.len() == 1 {
            return None;
        }
        let tensors = || self.files.iter().flat_map(|(file, tensors)| tensors.iter().map(move |tensor| (file, tensor)));
        let map: BTreeMap<&str, &str> = tensors().map(|(file, tensor)| (tensor.name.as_str(), file.as_str())).collect();
        let total: u64 = tensors().map(|(_, tensor)| tensor.size_bytes()).sum();
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        Some(format!("{index:#}\n"))
    }
}
