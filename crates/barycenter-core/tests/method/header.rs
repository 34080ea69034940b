//! Headers from strangers.

use barycenter_core::checkpoint::{CheckpointFile, DEFAULT_HEADER_LIMIT, Dtype, Layout, header_length};
use proptest::prelude::*;

use crate::sample::file_bytes;

fn refusal(header: &str) -> String {
    Layout::parse(header.as_bytes()).unwrap_err().to_string()
}

#[track_caller]
fn refused(header: &str, words: &[&str]) {
    let message = refusal(header);
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

fn small_file() -> Vec<u8> {
    let tensors = [
        ("a.weight", Dtype::F32, vec![2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        ("a.count", Dtype::I64, vec![], vec![7.0]),
        ("empty", Dtype::F16, vec![0, 4], vec![]),
        ("b", Dtype::Bf16, vec![3], vec![0.5, -1.0, 2.0]),
    ];
    file_bytes(&tensors, &[("format", "pt")])
}

#[test]
fn a_valid_file_is_laid_out_as_its_header_says() {
    let bytes = small_file();
    let layout = Layout::of_file(&bytes, DEFAULT_HEADER_LIMIT).unwrap();
    let names: Vec<&str> = layout.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a.weight", "a.count", "empty", "b"]);
    assert_eq!(layout.total_bytes, bytes.len() as u64);
    assert_eq!(layout.header_bytes % 8, 0);
    assert_eq!(layout.metadata["format"], "pt");
    assert_eq!(layout.find("a.weight").unwrap().elements(), 6);
    assert_eq!(layout.find("a.count").unwrap().elements(), 1);
}

#[test]
fn a_claim_of_a_hundred_megabytes_is_refused_with_the_number() {
    let message = header_length(100_000_000_u64.to_le_bytes(), DEFAULT_HEADER_LIMIT).unwrap_err().to_string();
    assert!(message.contains("100000000") && message.contains("33554432"), "{message}");
    assert!(header_length([0; 8], DEFAULT_HEADER_LIMIT).is_err());
    assert_eq!(header_length(64_u64.to_le_bytes(), DEFAULT_HEADER_LIMIT).unwrap(), 64);
}

#[test]
fn a_truncated_file_is_refused() {
    let bytes = small_file();
    for end in 0..bytes.len() {
        assert!(CheckpointFile::from_bytes(bytes[..end].to_vec()).is_err(), "{end} bytes are no file");
    }
    let message = CheckpointFile::from_bytes(bytes[..bytes.len() - 1].to_vec()).unwrap_err().to_string();
    assert!(message.contains("truncated"), "{message}");
}

#[test]
fn a_file_that_goes_on_after_its_last_tensor_is_refused() {
    let mut bytes = small_file();
    bytes.extend([0; 3]);
    let message = CheckpointFile::from_bytes(bytes).unwrap_err().to_string();
    assert!(message.contains("3 bytes after its last tensor"), "{message}");
}

#[test]
fn a_header_longer_than_its_file_is_refused() {
    let mut bytes = small_file();
    bytes[..8].copy_from_slice(&1_000_000_u64.to_le_bytes());
    let message = CheckpointFile::from_bytes(bytes).unwrap_err().to_string();
    assert!(message.contains("1000000"), "{message}");
}

#[test]
fn what_is_wrong_with_a_tensor_is_said_with_its_name() {
    let one = |body: &str| format!(r#"{{"w":{body}}}"#);
    refused(&one(r#"{"dtype":"F4","shape":[2],"data_offsets":[0,1]}"#), &["`w`", "unknown dtype `F4`"]);
    refused(&one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#), &["`w`", "8 bytes", "4"]);
    refused(&one(r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#), &["`w`", "before its start"]);
    refused(&one(r#"{"dtype":"F32","shape":[2],"data_offsets":[4,12]}"#), &["`w`", "not at 0"]);
    refused(&one(r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#), &["`w`"]);
    refused(&one(r#"{"dtype":"F32","shape":[2]}"#), &["`w`", "data_offsets"]);
    refused(&one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}"#), &["`w`", "unknown field `x`"]);
    refused(&one(r#"{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}"#), &["`w`", "duplicate"]);
    let huge = r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#;
    refused(&one(huge), &["`w`", "more elements"]);
    let hidden = r#"{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}"#;
    refused(&one(hidden), &["`w`", "more elements"]);
}

#[test]
fn tensors_must_lie_one_after_the_other() {
    let two = |start: u64, end: u64| {
        let first = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
        format!(r#"{{{first},"b":{{"dtype":"F32","shape":[2],"data_offsets":[{start},{end}]}}}}"#)
    };
    assert!(Layout::parse(two(8, 16).as_bytes()).is_ok());
    refused(&two(4, 12), &["`b`", "overlaps `a`"]);
    refused(&two(0, 8), &["overlaps"]);
    refused(&two(12, 20), &["4 unused bytes", "`a`", "`b`"]);
}

#[test]
fn a_name_or_key_used_twice_is_refused() {
    let tensor = r#"{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    refused(&format!(r#"{{"w":{tensor},"w":{tensor}}}"#), &["`w`", "twice"]);
    refused(r#"{"__metadata__":{"k":"1","k":"2"}}"#, &["metadata", "`k`", "twice"]);
    refused(r#"{"__metadata__":{"k":1}}"#, &["metadata", "`k`"]);
    refused(r#"{"__metadata__":[]}"#, &["metadata"]);
    refused("[]", &["`{`"]);
    refused("{} x", &["not valid"]);
}

#[test]
fn messages_stay_short_and_printable() {
    let name = "\\u0007".repeat(10_000);
    let message = refusal(&format!(r#"{{"{name}":{{"dtype":"F4","shape":[],"data_offsets":[0,0]}}}}"#));
    assert!(message.len() < 2_000 && !message.contains('\u{7}'), "{message}");
}

#[test]
fn the_digest_depends_on_names_types_and_shapes_alone() {
    let f32s = |name, shape: &[usize], fill: f64| {
        let bytes = file_bytes(&[(name, Dtype::F32, shape.to_vec(), vec![fill; shape.iter().product()])], &[]);
        Layout::of_file(&bytes, DEFAULT_HEADER_LIMIT).unwrap().digest()
    };
    assert_eq!(f32s("w", &[2, 3], 1.0), f32s("w", &[2, 3], 5.0));
    assert_ne!(f32s("w", &[2, 3], 1.0), f32s("w", &[3, 2], 1.0));
    assert_ne!(f32s("w", &[2, 3], 1.0), f32s("v", &[2, 3], 1.0));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Layout::of_file(&bytes, DEFAULT_HEADER_LIMIT);
        let _ = Layout::parse(&bytes);
    }

    #[test]
    fn no_change_of_a_valid_file_makes_the_reader_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = small_file();
        let header = Layout::of_file(&bytes, DEFAULT_HEADER_LIMIT).unwrap().header_bytes as usize;
        for (place, value) in changes {
            bytes[place.index(header)] = value;
        }
        // What is still accepted must be readable to its last byte.
        if let Ok(file) = CheckpointFile::from_bytes(bytes) {
            for tensor in &file.layout().tensors {
                prop_assert_eq!(file.bytes(&tensor.name).unwrap().len(), tensor.elements() * tensor.dtype.size());
            }
        }
    }

    #[test]
    fn no_words_of_the_format_make_the_reader_panic(
        words in proptest::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"w\"", "\"dtype\"", "\"F32\"", "\"shape\"", "\"data_offsets\"",
            "\"__metadata__\"", "0", "4", "18446744073709551615", "-1", "1e99", "null",
        ]), 0..40),
    ) {
        let _ = Layout::parse(format!("{{{}", words.concat()).as_bytes());
    }
}
