//! Files written, read and compared.

use std::collections::BTreeMap;

use barycenter_core::checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer, check_candidates, check_finite};
use safetensors::SafeTensors;

use crate::sample::{Random, Sample, file, file_bytes};

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("step-{i}")).collect()
}

fn tensors() -> Vec<Sample<'static>> {
    vec![
        ("w", Dtype::F32, vec![2, 2], vec![1.0, -2.0, 0.5, 3.0]),
        ("h", Dtype::F16, vec![2], vec![1.0, -2.0]),
        ("count", Dtype::I64, vec![], vec![5.0]),
    ]
}

#[test]
fn other_programs_read_what_is_written() {
    let bytes = file_bytes(&tensors(), &[("format", "pt")]);
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let w = read.tensor("w").unwrap();
    assert_eq!((w.dtype(), w.shape()), (safetensors::Dtype::F32, &[2, 2][..]));
    assert_eq!(w.data()[4..8], (-2f32).to_le_bytes());
    assert_eq!(read.tensor("count").unwrap().data(), 5_i64.to_le_bytes());
}

#[test]
fn a_writer_says_size_and_digest_of_what_it_wrote() {
    let spec = TensorSpec { name: "w".into(), dtype: Dtype::U8, shape: vec![3] };
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, vec![spec], &BTreeMap::new()).unwrap();
    writer.write("w", &[1, 2, 3]).unwrap();
    let written = writer.finish().unwrap();
    assert_eq!(written.size_bytes, bytes.len() as u64);
    assert_eq!(written.digest_blake3, blake3::hash(&bytes).to_hex().to_string());
}

#[test]
fn a_writer_takes_every_tensor_once_in_order_and_whole() {
    let spec = |name: &str| TensorSpec { name: name.into(), dtype: Dtype::U8, shape: vec![1] };
    let open = || Writer::new(Vec::new(), vec![spec("a"), spec("b")], &BTreeMap::new()).unwrap();
    assert!(open().write("b", &[0]).unwrap_err().to_string().contains("`b`"));
    assert!(open().write("a", &[0, 0]).unwrap_err().to_string().contains("1 bytes, 2"));
    let mut half = open();
    half.write("a", &[0]).unwrap();
    assert!(half.finish().unwrap_err().to_string().contains("`b`"));
    assert!(Writer::new(Vec::new(), vec![spec("a"), spec("a")], &BTreeMap::new()).is_err());
}

#[test]
fn a_file_on_disk_reads_as_the_same_bytes_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    std::fs::write(&path, file_bytes(&tensors(), &[])).unwrap();
    let (mapped, held) = (CheckpointFile::open(&path).unwrap(), file(&tensors()));
    assert_eq!(mapped.layout(), held.layout());
    assert_eq!(mapped.read_f32("w").unwrap(), [1.0, -2.0, 0.5, 3.0]);
    assert_eq!(mapped.read_f32("h").unwrap(), [1.0, -2.0]);
    assert!(mapped.read_f32("count").unwrap_err().to_string().contains("I64"));
    assert!(mapped.read_f32("gone").unwrap_err().to_string().contains("`gone`"));
    let mut part = [0.0; 2];
    mapped.fill_f32("w", 1, &mut part).unwrap();
    assert_eq!(part, [-2.0, 0.5]);
    assert!(mapped.fill_f32("w", 3, &mut part).is_err());
}

#[test]
fn a_damaged_file_is_refused_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    std::fs::write(&path, [0; 4]).unwrap();
    assert!(CheckpointFile::open(&path).unwrap_err().to_string().contains("w.safetensors"));
    std::fs::write(&path, []).unwrap();
    assert!(CheckpointFile::open(&path).unwrap_err().to_string().contains("empty"));
}

#[test]
fn one_candidate_is_no_candidate_set() {
    let message = check_candidates(&[file(&tensors())], &names(1)).unwrap_err().to_string();
    assert!(message.contains("at least 2"), "{message}");
    check_candidates(&[file(&tensors()), file(&tensors())], &names(2)).unwrap();
}

#[test]
fn the_first_difference_names_candidate_and_tensor() {
    let changed = |change: &dyn Fn(&mut Vec<Sample<'static>>)| {
        let mut other = tensors();
        change(&mut other);
        let set = [file(&tensors()), file(&tensors()), file(&other)];
        let message = check_candidates(&set, &names(3)).unwrap_err().to_string();
        assert!(message.contains("`step-2`"), "{message}");
        message
    };
    let shape = changed(&|t| t[0].2 = vec![4]);
    assert!(shape.contains("`w` has shape [4]") && shape.contains("[2, 2]"), "{shape}");
    assert!(changed(&|t| t[1].1 = Dtype::Bf16).contains("`h` is BF16"));
    assert!(changed(&|t| drop(t.remove(0))).contains("no tensor `w`"));
    assert!(changed(&|t| t.push(("z", Dtype::U8, vec![], vec![0.0]))).contains("a tensor `z`"));
    assert!(changed(&|t| t[0].0 = "v").contains('`'));
}

#[test]
fn the_first_tensors_that_differ_are_listed_and_the_others_counted() {
    let many = |range: std::ops::Range<usize>, shape: usize| -> Vec<(String, usize)> {
        range.map(|i| (format!("t{i}"), shape)).collect()
    };
    let file_of = |tensors: &[(String, usize)]| {
        let samples = tensors.iter().map(|(name, size)| (name.as_str(), Dtype::U8, vec![*size], vec![0.0; *size]));
        file(&samples.collect::<Vec<_>>())
    };
    let set = [file_of(&many(0..5, 1)), file_of(&[many(0..1, 2), many(2..9, 1)].concat())];
    let message = check_candidates(&set, &names(2)).unwrap_err().to_string();
    let told = "candidate `step-1` tensor `t0` has shape [2], in `step-0` [1]; has no tensor `t1`, which `step-0` has; \
        has a tensor `t5`, which `step-0` has not; has a tensor `t6`, which `step-0` has not; \
        has a tensor `t7`, which `step-0` has not; and 1 more";
    assert_eq!(message, told);
}

#[test]
fn numbers_that_are_not_finite_are_found_in_every_float_type() {
    for dtype in [Dtype::F8E4M3, Dtype::F8E5M2, Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::F64] {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut values: Vec<f64> = Random(1).gaussians(600_000).into_iter().map(f64::from).collect();
            let good = file(&[("w", dtype, vec![600_000], values.clone())]);
            values[599_998] = bad;
            let set = [good, file(&[("w", dtype, vec![600_000], values)])];
            let message = check_finite(&set, &names(2)).unwrap_err().to_string();
            assert!(message.contains("`step-1`") && message.contains("`w`") && message.contains("599998"), "{message}");
        }
    }
    check_finite(&[file(&tensors())], &names(1)).unwrap();
}
