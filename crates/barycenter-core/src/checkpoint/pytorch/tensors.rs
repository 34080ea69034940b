//! From tensors as a pickle describes them to bytes in row-major order.

use std::collections::HashMap;

use super::{
    Budget,
    archive::{Archive, Content},
    state_dict::Entries,
    value::{Name, Storage, TensorNode},
};
use crate::{
    Error, Result,
    checkpoint::{Dtype, Layout, TensorLayout, file::Place, layout::shown},
};

/// A layout, the bytes that are not in the file itself (sources 1 and following), and the place of each tensor.
pub(super) type Collected = (Layout, Vec<Vec<u8>>, Vec<Place>);

/// Finds the bytes of each tensor: where they lie in the file where that is possible, else as a copy.
pub(super) fn collect(
    archive: &Archive<'_>,
    prefix: &str,
    file: &[u8],
    entries: &Entries<'_, '_>,
    budget: &mut Budget,
) -> Result<Collected> {
    let mut collector = Collector { archive, prefix, file, held: Vec::new(), storages: HashMap::new() };
    let (mut tensors, mut places) = (Vec::new(), Vec::new());
    for (name, tensor) in entries {
        let wrong = |what: String| Error::corrupt(format!("tensor `{}`: {what}", shown(name)));
        let (dtype, shape, place) = collector.tensor(tensor, budget).map_err(|fault| match fault {
            Fault::Tensor(what) | Fault::File(Error::Corrupt(what)) => wrong(what),
            Fault::File(other) => other,
        })?;
        let range = 0..place.range.len() as u64;
        tensors.push(TensorLayout { name: (*name).to_owned(), dtype, shape, range });
        places.push(place);
    }
    // What `save_pretrained` writes, and what `from_pretrained` asks for.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    Ok((Layout::of_tensors(tensors, metadata), collector.held, places))
}

enum Fault {
    Tensor(String),
    File(Error),
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self::Tensor(what)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::File(error)
    }
}

struct Collector<'f, 'a> {
    archive: &'f Archive<'a>,
    prefix: &'f str,
    file: &'f [u8],
    held: Vec<Vec<u8>>,
    /// Storages that were looked up: tied tensors share one.
    storages: HashMap<String, Place>,
}

impl Collector<'_, '_> {
    fn tensor(&mut self, tensor: &TensorNode<'_>, budget: &mut Budget) -> Result<(Dtype, Vec<usize>, Place), Fault> {
        let dtype = dtype(tensor)?;
        let size = dtype.size() as u64;
        let elements = extent(tensor)?;
        budget.spend(elements.count * size)?;
        let storage = self.storage(&tensor.storage, budget)?;
        let held = storage.range.len() as u64 / size;
        if elements.count > 0 && elements.end > held {
            return Err(format!("it reaches to element {} of a storage of {held}", elements.end).into());
        }
        let shape = tensor.shape.iter().map(|extent| *extent as usize).collect();
        if elements.count == 0 {
            return Ok((
                dtype,
                shape,
                Place { source: storage.source, range: storage.range.start..storage.range.start },
            ));
        }
        if is_contiguous(tensor) {
            let start = storage.range.start + (tensor.offset * size) as usize;
            let range = start..start + (elements.count * size) as usize;
            return Ok((dtype, shape, Place { source: storage.source, range }));
        }
        let copy = row_major(tensor, dtype.size(), self.bytes(&storage), elements.count as usize);
        let range = 0..copy.len();
        self.held.push(copy);
        Ok((dtype, shape, Place { source: self.held.len(), range }))
    }

    /// Where a storage's bytes are; source 0 is the file.
    fn storage(&mut self, storage: &Storage<'_>, budget: &mut Budget) -> Result<Place, Fault> {
        let entry = format!("{}data/{}", self.prefix, storage.key);
        let size = element_size(storage.class)
            .ok_or_else(|| format!("its storage is a `{}`, which is not known", storage.class))?;
        let claimed = storage.count.checked_mul(size);
        if let Some(held) = self.archive.size(&entry).filter(|held| Some(*held) != claimed) {
            let (count, class) = (storage.count, storage.class);
            return Err(format!("its storage has {held} bytes, not {count} elements of `{class}`").into());
        }
        if let Some(place) = self.storages.get(&entry) {
            return Ok(place.clone());
        }
        let place = match self.archive.find(&entry, budget)? {
            Content::InPlace(range) => Place { source: 0, range },
            Content::Inflated(bytes) => {
                let range = 0..bytes.len();
                self.held.push(bytes);
                Place { source: self.held.len(), range }
            }
        };
        self.storages.insert(entry, place.clone());
        Ok(place)
    }

    fn bytes(&self, place: &Place) -> &[u8] {
        let source = place.source.checked_sub(1).map_or(self.file, |held| &self.held[held]);
        &source[place.range.clone()]
    }
}

/// Number of elements of a view, and the first element of the storage that it does not reach.
struct Extent {
    count: u64,
    end: u64,
}

fn extent(tensor: &TensorNode<'_>) -> Result<Extent, String> {
    let too_large = || "it has more elements than a file can hold".to_owned();
    // Non-zero extents are multiplied alone, so that a zero cannot hide an overflow behind it.
    let whole = tensor
        .shape
        .iter()
        .filter(|extent| **extent != 0)
        .try_fold(8u64, |size, extent| size.checked_mul(*extent).filter(|size| isize::try_from(*size).is_ok()));
    let count = whole.ok_or_else(too_large)? / 8;
    if tensor.shape.contains(&0) {
        return Ok(Extent { count: 0, end: tensor.offset });
    }
    let mut steps = tensor.shape.iter().zip(&tensor.strides);
    let last =
        steps.try_fold(tensor.offset, |last, (extent, stride)| last.checked_add((extent - 1).checked_mul(*stride)?));
    let end = last.and_then(|last| last.checked_add(1)).ok_or_else(too_large)?;
    Ok(Extent { count, end })
}

fn is_contiguous(tensor: &TensorNode<'_>) -> bool {
    let mut step = 1;
    tensor.shape.iter().zip(&tensor.strides).rev().all(|(extent, stride)| {
        let fits = *extent == 1 || *stride == step;
        step *= extent;
        fits
    })
}

/// Copies the elements of a view that was checked to lie in `storage`, last dimension fastest.
fn row_major(tensor: &TensorNode<'_>, size: usize, storage: &[u8], count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count * size);
    let Some((&width, outer)) = tensor.shape.split_last() else { return bytes };
    let step = tensor.strides[outer.len()];
    let mut place = vec![0u64; outer.len()];
    for _ in 0..count as u64 / width {
        let row = place.iter().zip(&tensor.strides).fold(tensor.offset, |at, (index, stride)| at + index * stride);
        for column in 0..width {
            let start = (row + column * step) as usize * size;
            bytes.extend_from_slice(&storage[start..start + size]);
        }
        // Counts up, the last of the outer dimensions fastest.
        for (index, extent) in place.iter_mut().zip(outer).rev() {
            *index += 1;
            if *index < *extent {
                break;
            }
            *index = 0;
        }
    }
    bytes
}

fn dtype(tensor: &TensorNode<'_>) -> Result<Dtype, String> {
    let name = tensor.dtype.unwrap_or(tensor.storage.class);
    let known = if tensor.dtype.is_some() { named(name) } else { of_storage(name) };
    known.ok_or_else(|| format!("its elements are `{name}`, which a checkpoint cannot hold"))
}

/// The element type of a typed storage.
fn of_storage(class: Name<'_>) -> Option<Dtype> {
    if !matches!(class.module, "torch" | "torch.storage" | "torch.cuda") {
        return None;
    }
    Some(match class.name {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::Bf16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::Bool,
        _ => return None,
    })
}

/// Bytes of one element of a storage; an untyped one counts bytes.
fn element_size(class: Name<'_>) -> Option<u64> {
    let untyped = matches!(class.module, "torch" | "torch.storage") && class.name == "UntypedStorage";
    if untyped { Some(1) } else { of_storage(class).map(|dtype| dtype.size() as u64) }
}

/// The element type of a `torch.dtype`.
fn named(dtype: Name<'_>) -> Option<Dtype> {
    if dtype.module != "torch" {
        return None;
    }
    Some(match dtype.name {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::Bf16,
        "float8_e4m3fn" => Dtype::F8E4M3,
        "float8_e5m2" => Dtype::F8E5M2,
        "int64" => Dtype::I64,
        "uint64" => Dtype::U64,
        "int32" => Dtype::I32,
        "uint32" => Dtype::U32,
        "int16" => Dtype::I16,
        "uint16" => Dtype::U16,
        "int8" => Dtype::I8,
        "uint8" => Dtype::U8,
        "bool" => Dtype::Bool,
        _ => return None,
    })
}
