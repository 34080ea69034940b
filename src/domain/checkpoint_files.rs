//! Files of a checkpoint that has several.

use std::collections::BTreeMap;

use super::name::shown;

/// Most files of one checkpoint.
pub const MAX_FILES: usize = 4096;
/// Most files beside weights and index.
const MAX_OTHERS: usize = 256;
/// Largest file that is no weights file.
pub const MAX_OTHER_BYTES: u64 = 64 << 20;
const MAX_NAME_BYTES: usize = 200;
/// Endings of files that may hold a program and would be run by whoever loads them.
const PICKLES: [&str; 6] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"];

/// The name of the file of a checkpoint that is one file.
pub const SINGLE: &str = "model.safetensors";

/// A file by its name in the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// Name.
    pub name: String,
    /// Digest.
    pub digest_blake3: String,
    /// Size.
    pub size_bytes: u64,
}

/// What a file is to its checkpoint; its name says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A safetensors file.
    Weights,
    /// Which weights file holds which tensor.
    Index,
    /// Anything else.
    Other,
}

impl FileKind {
    /// The kind that a name tells.
    pub fn of(name: &str) -> Self {
        match name {
            _ if name.ends_with(".safetensors") => Self::Weights,
            _ if name.ends_with(".safetensors.index.json") => Self::Index,
            _ => Self::Other,
        }
    }
}

/// How many files a checkpoint has, and their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Several {
    /// Number of files.
    pub count: u64,
    /// Their bytes together.
    pub size_bytes: u64,
}

/// Files that make no checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidFiles {
    /// `files`, `files[3].name` or `files.<name>`.
    pub field: String,
    /// What is wrong with it.
    pub detail: String,
}

/// Files whose names and sizes are sound, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileList(Vec<NamedFile>);

impl FileList {
    /// Checks names, number and sizes.
    pub fn new(mut files: Vec<NamedFile>) -> Result<Self, InvalidFiles> {
        if files.len() > MAX_FILES {
            return Err(invalid("files", format!("holds {} files; at most {MAX_FILES} are taken", files.len())));
        }
        let mut seen = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            check_name(&file.name).map_err(|detail| invalid(format!("files[{index}].name"), detail))?;
            // What differs in case alone is one file on some disks.
            if let Some(other) = seen.insert(file.name.to_ascii_lowercase(), &file.name) {
                return Err(of_file(&file.name, format!("has the name of `{other}`, capitals aside")));
            }
            if FileKind::of(&file.name) != FileKind::Weights && file.size_bytes > MAX_OTHER_BYTES {
                let detail =
                    format!("has {} bytes; what is no weights file has at most {MAX_OTHER_BYTES}", file.size_bytes);
                return Err(of_file(&file.name, detail));
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let list = Self(files);
        list.check_kinds()?;
        Ok(list)
    }

    fn check_kinds(&self) -> Result<(), InvalidFiles> {
        let count = |kind| self.of_kind(kind).count();
        match (count(FileKind::Weights), count(FileKind::Index)) {
            (0, _) => return Err(invalid("files", "holds no safetensors file".to_owned())),
            (several @ 2.., 0) => {
                let detail = format!("holds {several} safetensors files and no index `*.safetensors.index.json`");
                return Err(invalid("files", detail));
            }
            (_, 2..) => return Err(invalid("files", "holds more than one index".to_owned())),
            _ => {}
        }
        if count(FileKind::Other) > MAX_OTHERS {
            return Err(invalid("files", format!("holds more than {MAX_OTHERS} files beside the weights")));
        }
        Ok(())
    }

    /// Every file, by name.
    pub fn iter(&self) -> impl Iterator<Item = &NamedFile> {
        self.0.iter()
    }

    /// Those of a kind, by name.
    pub fn of_kind(&self, kind: FileKind) -> impl Iterator<Item = &NamedFile> {
        self.0.iter().filter(move |file| FileKind::of(&file.name) == kind)
    }

    /// How many they are.
    pub fn several(&self) -> Several {
        let size_bytes = self.0.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size_bytes));
        Several { count: self.0.len() as u64, size_bytes }
    }
}

/// The fault of one file.
pub fn of_file(name: &str, detail: impl Into<String>) -> InvalidFiles {
    invalid(format!("files.{}", shown(name)), detail.into())
}

fn invalid(field: impl Into<String>, detail: String) -> InvalidFiles {
    InvalidFiles { field: field.into(), detail }
}

/// A name that is safe wherever the checkpoint is written: no folder, nothing hidden, nothing that a shell or a system reads
/// as something else.
fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    match name.chars().next() {
        None => return Err("is empty".to_owned()),
        Some(first) if !(first.is_ascii_alphanumeric() || first == '_') => {
            return Err(format!("`{}` must begin with a letter, a digit or `_`", shown(name)));
        }
        Some(_) => {}
    }
    if !name.chars().all(allowed) {
        return Err(format!("`{}` may hold only ASCII letters, digits, `.`, `_`, `-` and `+`", shown(name)));
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(format!("is longer than {MAX_NAME_BYTES} characters"));
    }
    if name.ends_with('.') {
        return Err(format!("`{name}` must not end with a dot"));
    }
    let lower = name.to_ascii_lowercase();
    if PICKLES.iter().any(|ending| lower.ends_with(ending)) {
        return Err(format!("`{name}` may hold a program: convert it; `barycenter checkpoint push` does"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, size_bytes: u64) -> NamedFile {
        NamedFile { name: name.into(), digest_blake3: "00".repeat(32), size_bytes }
    }

    fn list(names: &[&str]) -> Result<FileList, InvalidFiles> {
        FileList::new(names.iter().map(|name| file(name, 1)).collect())
    }

    #[test]
    fn a_model_as_it_is_published_is_taken() {
        let names = [
            "model-00002-of-00002.safetensors",
            "model-00001-of-00002.safetensors",
            "config.json",
            "LICENSE",
            "model.safetensors.index.json",
            "tokenizer.model",
            "merges.txt",
        ];
        let taken = list(&names).unwrap();
        assert_eq!(taken.several(), Several { count: 7, size_bytes: 7 });
        let weights: Vec<&str> = taken.of_kind(FileKind::Weights).map(|file| file.name.as_str()).collect();
        assert_eq!(weights, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
        list(&["weights.safetensors"]).unwrap();
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused_by_their_place() {
        for bad in [
            "",
            ".",
            "..",
            "../a",
            "a/b",
            "/etc/passwd",
            "a\\b",
            ".hidden",
            "-rf",
            "a b",
            "ä",
            "a\0",
            "a.",
            "C:x",
            "model.bin",
            "state.PT",
            "x.pkl",
            &"a".repeat(201),
        ] {
            let refused = list(&["model.safetensors", bad]).unwrap_err();
            assert_eq!(refused.field, "files[1].name", "{bad}");
        }
    }

    #[test]
    fn what_makes_no_checkpoint_is_refused() {
        let detail = |names: &[&str]| list(names).unwrap_err().detail;
        assert!(detail(&["config.json"]).contains("no safetensors file"));
        assert!(detail(&["a.safetensors", "b.safetensors"]).contains("no index"));
        assert!(
            detail(&["a.safetensors", "a.safetensors.index.json", "b.safetensors.index.json"]).contains("one index")
        );
        assert!(detail(&["a.safetensors", "A.safetensors"]).contains("capitals"));
        let large = FileList::new(vec![file("a.safetensors", 1 << 40), file("b.json", MAX_OTHER_BYTES + 1)]);
        assert_eq!(large.unwrap_err().field, "files.b.json");
        let many = (0..=MAX_OTHERS).map(|i| file(&format!("{i}.json"), 1)).chain([file("a.safetensors", 1)]);
        assert!(FileList::new(many.collect()).unwrap_err().detail.contains("256"));
    }
}
