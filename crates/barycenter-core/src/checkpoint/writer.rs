//! Checkpoint files written as a stream, hashed on the way.

use std::{collections::BTreeMap, io::Write};

use serde_json::{Map, Value, json};

use super::{Dtype, TensorLayout, layout::shown};
use crate::{Error, Result};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the state dict.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extent of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Bytes of the tensor's data.
    pub fn size_bytes(&self) -> u64 {
        self.shape.iter().map(|extent| *extent as u64).product::<u64>() * self.dtype.size() as u64
    }
}

impl From<&TensorLayout> for TensorSpec {
    fn from(tensor: &TensorLayout) -> Self {
        Self { name: tensor.name.clone(), dtype: tensor.dtype, shape: tensor.shape.clone() }
    }
}

/// A file that was written whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Size of the file.
    pub size_bytes: u64,
    /// BLAKE3 digest of the file, in hex.
    pub digest_blake3: String,
}

/// Writes a safetensors file: the header at once, then tensors one at a time, in order.
#[derive(Debug)]
pub struct Writer<W: Write> {
    output: W,
    tensors: Vec<TensorSpec>,
    next: usize,
    /// Bytes of the next tensor that are written.
    filled: u64,
    size_bytes: u64,
    hasher: blake3::Hasher,
}

impl<W: Write> Writer<W> {
    /// Writes the header, padded with spaces so that the data section starts at a multiple of eight.
    ///
    /// # Errors
    /// [`Error::Input`] where a name is used twice or reserved, [`Error::Io`] where the output refuses.
    pub fn new(output: W, tensors: Vec<TensorSpec>, metadata: &BTreeMap<String, String>) -> Result<Self> {
        let header = header(&tensors, metadata)?;
        let mut writer = Self { output, tensors, next: 0, filled: 0, size_bytes: 0, hasher: blake3::Hasher::new() };
        writer.put(&(header.len() as u64).to_le_bytes())?;
        writer.put(&header)?;
        Ok(writer)
    }

    /// Writes the data of the next tensor.
    ///
    /// # Errors
    /// [`Error::Input`] where `name` is not the next tensor or `bytes` has not its size, [`Error::Io`] where the output
    /// refuses.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let tensor = self.next_tensor(name)?;
        if self.filled > 0 || tensor.size_bytes() != bytes.len() as u64 {
            let (wanted, held, name) = (tensor.size_bytes(), bytes.len(), shown(name));
            return Err(Error::input(format!("tensor `{name}` needs {wanted} bytes, {held} were given")));
        }
        self.next += 1;
        self.put(bytes)
    }

    /// Flushes the output and says what was written.
    ///
    /// # Errors
    /// [`Error::Input`] where a tensor is missing, [`Error::Io`] where the output refuses.
    pub fn finish(mut self) -> Result<Written> {
        if let Some(missing) = self.tensors.get(self.next) {
            return Err(Error::input(format!("tensor `{}` was not written", shown(&missing.name))));
        }
        self.output.flush().map_err(|e| Error::io("output", e))?;
        Ok(Written { size_bytes: self.size_bytes, digest_blake3: self.hasher.finalize().to_hex().to_string() })
    }

    fn next_tensor(&self, name: &str) -> Result<&TensorSpec> {
        let next = self.tensors.get(self.next).filter(|tensor| tensor.name == name);
        next.ok_or_else(|| Error::input(format!("tensor `{}` is written out of order", shown(name))))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(|e| Error::io("output", e))?;
        self.hasher.update(bytes);
        self.size_bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Parts below this are hashed and written one after the other: sharing them out would cost more.
const SHARED: usize = 1 << 16;

impl<W: Write + Send> Writer<W> {
    /// Writes the next bytes of the next tensor, hashing them on another thread meanwhile.
    ///
    /// # Errors
    /// [`Error::Input`] where `name` is not the next tensor or has fewer bytes left, [`Error::Io`] where the output refuses.
    pub fn write_part(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let wanted = self.next_tensor(name)?.size_bytes();
        let filled = self.filled + bytes.len() as u64;
        if filled > wanted {
            let name = shown(name);
            return Err(Error::input(format!("tensor `{name}` needs {wanted} bytes, {filled} were given")));
        }
        (self.next, self.filled) = if filled == wanted { (self.next + 1, 0) } else { (self.next, filled) };
        if bytes.len() < SHARED {
            return self.put(bytes);
        }
        let (output, hasher) = (&mut self.output, &mut self.hasher);
        let (written, _) = rayon::join(|| output.write_all(bytes), || hasher.update(bytes));
        self.size_bytes += bytes.len() as u64;
        written.map_err(|e| Error::io("output", e))
    }
}

fn header(tensors: &[TensorSpec], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.size_bytes();
        let entry = json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [start, end]});
        if tensor.name == "__metadata__" || entries.insert(tensor.name.clone(), entry).is_some() {
            return Err(Error::input(format!("tensor `{}`: the name is taken", shown(&tensor.name))));
        }
        start = end;
    }
    let mut header = Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}
