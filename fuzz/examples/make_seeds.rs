//! Writes `seeds/`: small files of every kind, good ones and nearly good ones.

use std::{collections::BTreeMap, fs, path::Path};

use barycenter_core::{
    blocks::{Blocks, Granularity},
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer},
    fit::FitState,
    projection::{Member, Projection, Revision},
};

fn main() {
    safetensors();
    dataset();
    projection();
    fit_state();
    index();
    pickle();
}

fn seed(reader: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(reader);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
}

/// The bytes of a file whose tensors hold small numbers of their type's size.
fn file(tensors: &[(&str, Dtype, &[usize])], metadata: &[(&str, &str)]) -> Vec<u8> {
    let spec = |(name, dtype, shape): &(&str, Dtype, &[usize])| TensorSpec {
        name: (*name).into(),
        dtype: *dtype,
        shape: shape.to_vec(),
    };
    let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
    let metadata: BTreeMap<String, String> = metadata.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, specs.clone(), &metadata).unwrap();
    for spec in &specs {
        let data: Vec<u8> = (0..spec.size_bytes()).map(|i| (i * 7 % 64) as u8).collect();
        writer.write(&spec.name, &data).unwrap();
    }
    writer.finish().unwrap();
    bytes
}

fn raw(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

fn safetensors() {
    let every: Vec<(&str, Dtype, &[usize])> = Dtype::ALL.map(|dtype| (dtype.name(), dtype, &[2, 3][..])).to_vec();
    seed("safetensors", "every_dtype", &file(&every, &[("format", "pt")]));
    seed("safetensors", "scalar_and_empty", &file(&[("s", Dtype::F32, &[]), ("e", Dtype::F16, &[0, 4])], &[]));
    seed("safetensors", "nothing", &raw("{}", 0));
    seed("safetensors", "gap", &raw(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#, 2));
    let overflow = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,0]}}"#;
    seed("safetensors", "overflow", &raw(overflow, 0));
    seed("safetensors", "nested", &raw(&format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500)), 0));
    seed("safetensors", "long_claim", &u64::MAX.to_le_bytes());
}

fn dataset() {
    let metadata = [("scale", "1/255"), ("mean", "0.5"), ("std", "0.25,0.25,0.25")];
    let images = [("inputs", Dtype::U8, &[2, 3, 4, 4][..]), ("labels", Dtype::I64, &[2])];
    let mut bytes = file(&images, &metadata);
    let end = bytes.len();
    bytes[end - 16..].fill(0);
    seed("dataset", "images", &bytes);
    let mut bytes = file(&[("inputs", Dtype::F32, &[2, 5]), ("labels", Dtype::I64, &[2])], &[]);
    let end = bytes.len();
    bytes[end - 16..].fill(0);
    seed("dataset", "rows", &bytes);
    seed("dataset", "labels_missing", &file(&images[..1], &metadata));
    seed("dataset", "bad_scale", &file(&images, &[("scale", "1/0"), ("std", "0")]));
}

fn projection() {
    let tensors = [("a.weight", Dtype::F32, &[300][..]), ("a.bias", Dtype::F32, &[5])];
    let mut candidates = Vec::new();
    for i in 0..3 {
        let mut bytes = file(&tensors, &[]);
        let end = bytes.len();
        bytes[end - 7] = i;
        candidates.push(CheckpointFile::from_bytes(bytes).unwrap());
    }
    let names: Vec<String> = tensors.iter().map(|tensor| tensor.0.to_owned()).collect();
    let sizes = [("a.weight".to_owned(), 300), ("a.bias".to_owned(), 5)];
    for bits in [1, 2, 4, 8, 32] {
        let blocks = Blocks::new(&sizes, if bits == 2 { Granularity::Tensor } else { Granularity::Model });
        let built = Projection::build(&candidates, &names, &blocks, bits, &mut |_, _| Ok(())).unwrap();
        projection_seed(&format!("{bits}_bits"), &built);
        let members = vec![Member::Stays(1), Member::Comes(&candidates[1])];
        let revision = Revision { members, dropped: vec![(0, &candidates[0])] };
        if let Some(revised) = built.revised(&revision).unwrap() {
            projection_seed(&format!("{bits}_bits_revised"), &revised);
        }
    }
}

fn projection_seed(name: &str, projection: &Projection) {
    let folder = tempfile::tempdir().unwrap();
    projection.save(folder.path().join("p")).unwrap();
    let bytes = fs::read(folder.path().join("p")).unwrap();
    seed("projection", name, &bytes[..bytes.len() - 32]);
}

fn fit_state() {
    for (name, second) in [("adamw", vec![0.5; 4]), ("sgd", vec![])] {
        let numbers = vec![0.25; 4];
        let state = FitState { step: 7, seed: 1, theta: numbers.clone(), first_moment: numbers, second_moment: second };
        let bytes = state.to_bytes();
        seed("fit_state", name, &bytes[..bytes.len() - 32]);
    }
    seed("fit_state", "long_claim", &[&b"BARYFIT2"[..], &[255; 32]].concat());
}

fn index() {
    let whole = r#"{"metadata": {"total_size": 24}, "weight_map": {"x": "a", "y": "a", "z": "b"}}"#;
    seed("index", "whole", whole.as_bytes());
    seed("index", "outside", whole.replace("\"b\"", "\"../b\"").as_bytes());
    seed("index", "twice", whole.replace("\"y\"", "\"x\"").as_bytes());
    seed("index", "escaped", whole.replace("\"z\"", "\"\\u007a\"").as_bytes());
    seed("index", "nothing", b"{}");
}

/// The pickles of the fixtures, out of their archives where they lie there as they are.
fn pickle() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/barycenter-core/tests/fixtures");
    for folder in ["pytorch", "hostile"] {
        for entry in fs::read_dir(fixtures.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let start = bytes.windows(9).position(|window| window == b"/data.pkl").map(|at| at + 9);
            let rest = start.and_then(|start| bytes.get(start..)).unwrap_or_default();
            let end = rest.windows(4).position(|window| window == b"PK\x07\x08" || window == b"PK\x03\x04");
            if let Some(end) = end.filter(|end| *end < 4000) {
                let start = rest.windows(2).position(|window| window[0] == 0x80 && window[1] < 6).unwrap_or(0);
                seed("pickle", name, &rest[start..end.max(start)]);
            }
        }
    }
}
