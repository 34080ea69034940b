//! One function for each reader: takes the bytes of a file, reads all that the reader accepts, never panics.
//!
//! The fuzz targets call these; `crates/barycenter-core/tests/seeds.rs` calls them on every seed in `make test`.

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
};

use barycenter_core::{
    checkpoint::{CheckpointFile, Index, OpenOptions, check_candidates, check_finite, open},
    data::{Augmentation, Dataset, Epoch},
    fit::FitState,
    projection::Projection,
};

/// Elements read of each tensor.
const READ: usize = 64;

/// A safetensors file: header, every tensor's bytes and first elements, the checks before an average.
pub fn safetensors(bytes: &[u8]) {
    if let Ok(file) = CheckpointFile::from_bytes(bytes.to_vec()) {
        read_all(&file);
    }
}

/// The index of a sharded checkpoint, alone and beside two shards, `a` with tensors `x` and `y` and `b` with `z`.
pub fn index(bytes: &[u8]) {
    if Index::parse(bytes).is_err() {
        return;
    }
    with_folder(|folder| {
        let shard = |names: &[&str]| {
            let entry = |(i, name): (usize, &&str)| {
                format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{},{}]}}"#, 8 * i, 8 * i + 8)
            };
            let header = format!("{{{}}}", names.iter().enumerate().map(entry).collect::<Vec<_>>().join(","));
            [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; 8 * names.len()]].concat()
        };
        fs::write(folder.join("a"), shard(&["x", "y"])).expect("the folder can be written");
        fs::write(folder.join("b"), shard(&["z"])).expect("the folder can be written");
        fs::write(folder.join("index.json"), bytes).expect("the folder can be written");
        if let Ok(file) = open(folder.join("index.json"), &OpenOptions::default()) {
            read_all(&file);
        }
    });
}

/// A PyTorch file: its archive, its pickle, its tensors, with a key and without.
pub fn pytorch(bytes: &[u8]) {
    for key in [None, Some("a.b")] {
        if let Ok(file) = CheckpointFile::from_pytorch(bytes.to_vec(), key) {
            read_all(&file);
            let mut written = Vec::new();
            file.write_to(&mut written).unwrap();
            read_all(&CheckpointFile::from_bytes(written).expect("what is written can be read"));
        }
    }
}

/// A pickle, wrapped into an archive with two storages of 64 bytes and no checksums to guess.
pub fn pickle(bytes: &[u8]) {
    let storage: Vec<u8> = (0..64).collect();
    pytorch(&stored(&[("x/data.pkl", bytes), ("x/data/0", &storage), ("x/data/1", &storage)]));
}

/// A zip archive of these entries, uncompressed.
pub fn stored(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let (size, start) = ((data.len() as u32).to_le_bytes(), (out.len() as u32).to_le_bytes());
        // Version, flags, method, time, date and checksum (all 0), two sizes, lengths of name and extra field.
        let mut fields = vec![0; 14];
        fields.extend([size, size].concat());
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend([0; 2]);
        out.extend([b"PK\x03\x04", &fields[..], name.as_bytes(), data].concat());
        directory.extend([b"PK\x01\x02\0\0", &fields[..], &[0; 10], &start, name.as_bytes()].concat());
    }
    let (count, size, start) = (entries.len() as u16, directory.len() as u32, out.len() as u32);
    out.extend(directory);
    out.extend([b"PK\x05\x06\0\0\0\0", &count.to_le_bytes()[..], &count.to_le_bytes()].concat());
    out.extend([&size.to_le_bytes()[..], &start.to_le_bytes(), &[0; 2]].concat());
    out
}

/// A dataset: samples and labels.
pub fn dataset(bytes: &[u8]) {
    with_file(bytes, |path| {
        if let Ok(dataset) = Dataset::open(path, None) {
            let indices: Vec<usize> = (0..dataset.len().min(2)).collect();
            if dataset.sample_shape().iter().product::<usize>() < 1 << 16 {
                dataset.batch(&indices, Augmentation::default(), Epoch { seed: 1, number: 0 }).unwrap();
            }
            let _ = dataset.check_labels(10);
        }
    });
}

/// A projection file, given without its digest: guessing one is beyond any fuzzer.
pub fn projection(content: &[u8]) {
    with_file(&with_digest(content), |path| {
        if let Ok(projection) = Projection::load(path) {
            let again = path.with_extension("again");
            projection.save(&again).unwrap();
            assert!(std::fs::read(path).unwrap() == std::fs::read(&again).unwrap(), "what is read is written again");
        }
    });
}

/// The saved state of a fit, given without its digest, and as it is.
pub fn fit_state(content: &[u8]) {
    let _ = FitState::from_bytes(content);
    let bytes = with_digest(content);
    if let Ok(state) = FitState::from_bytes(&bytes) {
        assert!(state.to_bytes() == bytes, "what is read is written again");
    }
}

fn read_all(file: &CheckpointFile) {
    for tensor in &file.layout().tensors {
        let bytes = file.bytes(&tensor.name).unwrap();
        assert_eq!(bytes.len(), tensor.elements() * tensor.dtype.size());
        let count = tensor.elements().min(READ);
        let (mut wide, mut narrow) = (vec![0.0; count], vec![0.0; count]);
        assert_eq!(file.fill_f64(&tensor.name, 0, &mut wide).is_ok(), tensor.dtype.is_averageable());
        assert_eq!(file.fill_f32(&tensor.name, 0, &mut narrow).is_ok(), tensor.dtype.is_averageable());
    }
    let candidates = std::slice::from_ref(file);
    let names = ["a".to_owned()];
    let _ = check_finite(candidates, &names);
    assert!(check_candidates(candidates, &names).is_err(), "one candidate is no candidate set");
}

fn with_digest(content: &[u8]) -> Vec<u8> {
    [content, blake3::hash(content).as_bytes()].concat()
}

thread_local! {
    static FOLDER: RefCell<tempfile::TempDir> = RefCell::new(tempfile::tempdir().expect("a folder can be made"));
}

fn with_folder(read: impl FnOnce(&Path)) {
    FOLDER.with_borrow(|folder| read(folder.path()));
}

/// Calls `read` with the path of a file of these bytes.
fn with_file(bytes: &[u8], read: impl FnOnce(&Path)) {
    with_folder(|folder| {
        let path = folder.join("file");
        fs::write(&path, bytes).expect("the folder can be written");
        read(&path);
    });
}

/// A reader and the folders of files to begin with.
pub struct Reader {
    /// Name of its target.
    pub name: &'static str,
    /// What reads the bytes.
    pub read: fn(&[u8]),
    /// Folders, from the top of the repository.
    pub seeds: &'static [&'static str],
}

/// Every reader.
pub const READERS: [Reader; 7] = [
    Reader { name: "safetensors", read: safetensors, seeds: &["fuzz/seeds/safetensors"] },
    Reader { name: "index", read: index, seeds: &["fuzz/seeds/index"] },
    Reader {
        name: "pytorch",
        read: pytorch,
        seeds: &["crates/barycenter-core/tests/fixtures/pytorch", "crates/barycenter-core/tests/fixtures/hostile"],
    },
    Reader { name: "pickle", read: pickle, seeds: &["fuzz/seeds/pickle"] },
    Reader { name: "dataset", read: dataset, seeds: &["fuzz/seeds/dataset"] },
    Reader { name: "projection", read: projection, seeds: &["fuzz/seeds/projection"] },
    Reader { name: "fit_state", read: fit_state, seeds: &["fuzz/seeds/fit_state"] },
];

/// The seeds of a reader, by path.
pub fn seeds(reader: &Reader, root: &Path) -> Vec<PathBuf> {
    let folder = |folder: &&str| fs::read_dir(root.join(folder)).expect("the folder of seeds is there");
    let mut paths: Vec<PathBuf> =
        reader.seeds.iter().flat_map(folder).map(|entry| entry.expect("the folder can be read").path()).collect();
    paths.sort();
    paths
}
