//! `model.safetensors.index.json`: which file of a folder holds which tensor.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    fs::File,
    io::Read,
    path::{Component, Path},
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};

use super::layout::shown;
use crate::{Error, Result};

/// Longest index.
const LONGEST: u64 = 64 << 20;
/// Most files of one checkpoint.
const MOST_SHARDS: usize = 10_000;

/// An index that was read and checked by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// File of each tensor; a plain name, without a folder.
    files: BTreeMap<String, String>,
}

impl Index {
    /// Reads an index from a file.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, else as [`Index::parse`], naming the path.
    pub fn open(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
        Self::parse(&bytes).map_err(|e| e.in_file(path))
    }

    /// Reads and checks an index.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where it is too long, not valid, without tensors, names a tensor twice, too many files, or a file that is
    /// not a plain name: what lies outside the folder is no part of a checkpoint.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > LONGEST {
            return Err(Error::corrupt(format!("the index is longer than {LONGEST} bytes")));
        }
        let raw: Raw =
            serde_json::from_slice(bytes).map_err(|e| Error::corrupt(format!("the index is not valid: {e}")))?;
        let index = Self { files: raw.weight_map.0 };
        for file in index.shards() {
            if !is_plain(file) {
                let file = shown(file);
                return Err(Error::corrupt(format!(
                    "the index names the file `{file}`, which is no name in its folder"
                )));
            }
        }
        match index.shards().len() {
            0 => Err(Error::corrupt("the index names no tensor")),
            count if count > MOST_SHARDS => {
                Err(Error::corrupt(format!("the index names {count} files, more than {MOST_SHARDS}")))
            }
            _ => Ok(index),
        }
    }

    /// Names of the files, sorted.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.files.values().map(String::as_str).collect()
    }

    /// Checks that the files, given by name with the names of their tensors, hold exactly the tensors that the index says, each in
    /// its file and in no other.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the file and the first tensor at fault.
    pub fn check<'a, T>(&self, shards: impl IntoIterator<Item = (&'a str, T)>) -> Result<()>
    where
        T: IntoIterator<Item = &'a str>,
    {
        let mut found: HashMap<&str, &str> = HashMap::new();
        for (file, tensors) in shards {
            for tensor in tensors {
                let (name, here) = (shown(tensor), shown(file));
                if let Some(other) = found.insert(tensor, file) {
                    let other = shown(other);
                    return Err(Error::corrupt(format!("tensor `{name}` is in `{other}` and in `{here}`")));
                }
                match self.files.get(tensor) {
                    None => {
                        let what = format!("`{here}` holds tensor `{name}`, which the index does not name");
                        return Err(Error::corrupt(what));
                    }
                    Some(said) if said != file => {
                        let said = shown(said);
                        let what = format!("tensor `{name}` is in `{here}`; the index says it is in `{said}`");
                        return Err(Error::corrupt(what));
                    }
                    Some(_) => {}
                }
            }
        }
        match self.files.iter().find(|(name, _)| !found.contains_key(name.as_str())) {
            None => Ok(()),
            Some((name, file)) => {
                let (name, file) = (shown(name), shown(file));
                Err(Error::corrupt(format!("`{file}` has no tensor `{name}`, which the index says it has")))
            }
        }
    }
}

/// Whether a name is one of a file in the folder itself.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let single =
        matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name);
    single && !name.contains(['\\', '\0'])
}

/// An index as written. What else it says (the total size, which programs count in different ways) is not needed.
struct Raw {
    weight_map: WeightMap,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `weight_map`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut weight_map = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "weight_map" {
                map.next_value::<IgnoredAny>()?;
            } else if weight_map.replace(map.next_value()?).is_some() {
                return Err(A::Error::duplicate_field("weight_map"));
            }
        }
        Ok(Raw { weight_map: weight_map.ok_or_else(|| A::Error::missing_field("weight_map"))? })
    }
}

/// Tensor to file, no tensor twice.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

struct WeightMapVisitor;

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
        let mut files = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let file =
                map.next_value::<String>().map_err(|e| A::Error::custom(format!("tensor `{}`: {e}", shown(&name))))?;
            if files.contains_key(&name) {
                return Err(A::Error::custom(format!("tensor `{}` is named twice", shown(&name))));
            }
            files.insert(name, file);
        }
        Ok(WeightMap(files))
    }
}
