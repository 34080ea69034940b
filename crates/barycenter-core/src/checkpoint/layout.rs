//! The header of a safetensors file, read as from a stranger.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use super::Dtype;
use crate::{Error, Result};

/// Headers longer than this are refused unless the caller sets another limit.
pub const DEFAULT_HEADER_LIMIT: u64 = 32 << 20;

/// Key of the header under which free text lies.
const METADATA_KEY: &str = "__metadata__";

/// Where one tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorLayout {
    /// Name in the state dict.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extent of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// Bytes of the tensor, counted from the start of the data section.
    pub range: Range<u64>,
}

impl TensorLayout {
    /// Number of elements; 1 for a scalar.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// What a file holds: tensors in file order, without gap or overlap.
///
/// Of a checkpoint in another form (several files, PyTorch's) this is the layout of its tensors' bytes one after another, without a
/// header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Tensors in the order of their data.
    pub tensors: Vec<TensorLayout>,
    /// Free text of the file.
    pub metadata: BTreeMap<String, String>,
    /// Bytes before the data section: the length field and the header.
    pub header_bytes: u64,
    /// Bytes of the whole file; any other size means that it is truncated or too long.
    pub total_bytes: u64,
}

/// Reads the first eight bytes of a file: the length of the header that follows them.
///
/// # Errors
/// [`Error::Corrupt`] where the claim is above `limit` or too short for any header.
pub fn header_length(first: [u8; 8], limit: u64) -> Result<u64> {
    let length = u64::from_le_bytes(first);
    if length > limit {
        return Err(Error::corrupt(format!("the header claims {length} bytes, more than the limit of {limit}")));
    }
    if length < 2 {
        return Err(Error::corrupt(format!("the header claims {length} bytes, too few for any header")));
    }
    Ok(length)
}

impl Layout {
    /// Reads and checks a header, given without the eight bytes of its length.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the tensor: JSON that is not valid or has duplicate keys, an unknown dtype, a shape that
    /// overflows, a range of the wrong length, ranges that do not start at 0, overlap or leave a gap, metadata not text.
    pub fn parse(header_json: &[u8]) -> Result<Self> {
        if header_json.first() != Some(&b'{') {
            return Err(Error::corrupt("the header does not start with `{`"));
        }
        let header: Header =
            serde_json::from_slice(header_json).map_err(|e| Error::corrupt(format!("the header is not valid: {e}")))?;
        let mut tensors =
            header.tensors.into_iter().map(|(name, raw)| raw.check(name)).collect::<Result<Vec<TensorLayout>>>()?;
        tensors.sort_by(|a, b| (a.range.start, a.range.end, &a.name).cmp(&(b.range.start, b.range.end, &b.name)));
        let data_bytes = check_contiguous(&tensors)?;
        let header_bytes = 8 + header_json.len() as u64;
        let total_bytes = header_bytes
            .checked_add(data_bytes)
            .ok_or_else(|| Error::corrupt(format!("{data_bytes} bytes of tensors are more than a file can hold")))?;
        Ok(Self { tensors, metadata: header.metadata, header_bytes, total_bytes })
    }

    /// The layout of these tensors' bytes, one after another in this order; their ranges are set anew.
    pub(super) fn of_tensors(mut tensors: Vec<TensorLayout>, metadata: BTreeMap<String, String>) -> Self {
        let mut end = 0;
        for tensor in &mut tensors {
            let start = end;
            end += tensor.range.end - tensor.range.start;
            tensor.range = start..end;
        }
        Self { tensors, metadata, header_bytes: 0, total_bytes: end }
    }

    /// Reads the header at the start of `bytes` and checks that they are exactly one file.
    ///
    /// # Errors
    /// As [`header_length`] and [`Layout::parse`]; [`Error::Corrupt`] where the file is truncated or too long.
    pub fn of_file(bytes: &[u8], header_limit: u64) -> Result<Self> {
        let (first, rest) =
            bytes.split_first_chunk::<8>().ok_or_else(|| Error::corrupt("the file is shorter than eight bytes"))?;
        let length = header_length(*first, header_limit)?;
        let header = usize::try_from(length).ok().and_then(|n| rest.get(..n)).ok_or_else(|| {
            Error::corrupt(format!("the header claims {length} bytes, the file has {} after its length", rest.len()))
        })?;
        let layout = Self::parse(header)?;
        layout.check_size(bytes.len() as u64)?;
        Ok(layout)
    }

    /// Checks the size of the whole file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the file is truncated or too long.
    pub fn check_size(&self, file_bytes: u64) -> Result<()> {
        let wanted = self.total_bytes;
        match file_bytes.cmp(&wanted) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => {
                Err(Error::corrupt(format!("the file is truncated: {file_bytes} of {wanted} bytes")))
            }
            std::cmp::Ordering::Greater => {
                Err(Error::corrupt(format!("the file has {} bytes after its last tensor", file_bytes - wanted)))
            }
        }
    }

    /// The tensor of this name.
    pub fn find(&self, name: &str) -> Option<&TensorLayout> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// BLAKE3 digest, in hex, over names, dtypes and shapes sorted by name: equal for files that can be averaged.
    pub fn digest(&self) -> String {
        layout_digest(self.tensors.iter().map(|tensor| {
            (tensor.name.as_str(), tensor.dtype.name(), tensor.shape.iter().map(|extent| *extent as u64))
        }))
    }
}

/// As [`Layout::digest`], of tensors that are known by name, dtype and shape alone, in any order.
pub fn layout_digest<'a, S>(tensors: impl IntoIterator<Item = (&'a str, &'a str, S)>) -> String
where
    S: ExactSizeIterator<Item = u64>,
{
    let mut sorted: Vec<_> = tensors.into_iter().collect();
    sorted.sort_by_key(|(name, ..)| *name);
    let mut hasher = blake3::Hasher::new();
    for (name, dtype, shape) in sorted {
        for text in [name, dtype] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(&(shape.len() as u64).to_le_bytes());
        for extent in shape {
            hasher.update(&extent.to_le_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// A name as messages show it: no control characters, no more than 120 characters.
pub(crate) fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(120).flat_map(char::escape_debug).collect();
    if name.chars().nth(120).is_some() {
        text.push('…');
    }
    text
}

fn check_contiguous(tensors: &[TensorLayout]) -> Result<u64> {
    let mut end = 0;
    let mut previous: Option<&TensorLayout> = None;
    for tensor in tensors {
        let (name, start) = (shown(&tensor.name), tensor.range.start);
        match (start.cmp(&end), previous) {
            (std::cmp::Ordering::Less, Some(other)) => {
                let other = shown(&other.name);
                return Err(Error::corrupt(format!("tensor `{name}` at byte {start} overlaps `{other}`")));
            }
            (std::cmp::Ordering::Greater, Some(other)) => {
                let (other, gap) = (shown(&other.name), start - end);
                return Err(Error::corrupt(format!("{gap} unused bytes between tensors `{other}` and `{name}`")));
            }
            (std::cmp::Ordering::Greater, None) => {
                return Err(Error::corrupt(format!("the first tensor, `{name}`, starts at byte {start}, not at 0")));
            }
            _ => {}
        }
        end = tensor.range.end;
        previous = Some(tensor);
    }
    Ok(end)
}

/// One entry of the header, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl RawTensor {
    fn check(self, name: String) -> Result<TensorLayout> {
        let wrong = |what: String| Error::corrupt(format!("tensor `{}`: {what}", shown(&name)));
        let dtype: Dtype = self.dtype.parse().map_err(wrong)?;
        // Non-zero extents are multiplied alone, so that a zero cannot hide an overflow behind it.
        let overflow = || wrong("its shape has more elements than a file can hold".to_owned());
        let whole = self.shape.iter().filter(|extent| **extent != 0).try_fold(dtype.size() as u64, |size, extent| {
            size.checked_mul(*extent).filter(|size| isize::try_from(*size).is_ok())
        });
        let bytes = whole.map(|size| if self.shape.contains(&0) { 0 } else { size }).ok_or_else(overflow)?;
        let [start, end] = self.data_offsets;
        if end < start {
            return Err(wrong(format!("its range ends at byte {end}, before its start at {start}")));
        }
        if end - start != bytes {
            let (shape, held) = (&self.shape, end - start);
            let shape =
                if shape.len() > 8 { format!("{} dimensions", shape.len()) } else { format!("shape {shape:?}") };
            return Err(wrong(format!("{dtype} of {shape} needs {bytes} bytes, its range has {held}")));
        }
        let shape = self.shape.iter().map(|extent| usize::try_from(*extent)).collect::<Result<Vec<_>, _>>();
        let shape = shape.map_err(|_| overflow())?;
        Ok(TensorLayout { name, dtype, shape, range: start..end })
    }
}

/// The header before its tensors are checked against each other.
struct Header {
    tensors: Vec<(String, RawTensor)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header { tensors: Vec::new(), metadata: BTreeMap::new() };
        let mut seen = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let wrong = |what: &dyn fmt::Display| A::Error::custom(format!("tensor `{}`: {what}", shown(&name)));
            if !seen.insert(name.clone()) {
                return Err(wrong(&"named twice"));
            }
            if name == METADATA_KEY {
                let text = map.next_value::<Text>().map_err(|e| A::Error::custom(format!("metadata: {e}")))?;
                header.metadata = text.0;
            } else {
                let raw = map.next_value::<RawTensor>().map_err(|e| wrong(&e))?;
                header.tensors.push((name, raw));
            }
        }
        Ok(header)
    }
}

/// Metadata: text to text, no key twice.
struct Text(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        let mut text = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            let value =
                map.next_value::<String>().map_err(|e| A::Error::custom(format!("key `{}`: {e}", shown(&key))))?;
            if text.insert(key.clone(), value).is_some() {
                return Err(A::Error::custom(format!("key `{}` appears twice", shown(&key))));
            }
        }
        Ok(Text(text))
    }
}
