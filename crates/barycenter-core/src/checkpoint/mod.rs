//! Checkpoint files: the safetensors format, read strictly and written as a stream; sharded checkpoints and `PyTorch` files read as
//! the same thing.
//!
//! A safetensors file is eight bytes (little-endian length of the header), the header (JSON: name → dtype, shape, byte range, and
//! optional string metadata) and the data section. Files come from strangers: every claim of the header is checked before
//! a byte of data is looked at, and every message names the tensor it speaks of.

mod candidates;
mod dtype;
mod file;
mod folder;
mod fp8;
mod index;
mod layout;
pub(crate) mod numbers;
mod pytorch;
mod sharded;
mod source;
mod writer;

pub use candidates::{check_candidates, check_finite, check_layouts};
pub use dtype::Dtype;
pub use file::CheckpointFile;
pub use folder::{Carried, FolderFiles, OpenOptions, carried, folder_files, needs_conversion, open};
pub use index::Index;
pub use layout::{DEFAULT_HEADER_LIMIT, Layout, TensorLayout, header_length, layout_digest};
pub use sharded::Shards;
pub(crate) use source::Stored;
pub use writer::{TensorSpec, Writer, Written};
