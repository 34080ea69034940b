//! Checkpoints in several files, and what lies beside them.

use std::{fs, path::Path};

use barycenter_core::checkpoint::{Dtype, Index, OpenOptions, Shards, TensorSpec, carried, open};

use crate::sample::file_bytes;

/// A folder with two shards and their index.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let first = file_bytes(&[("a", Dtype::F32, vec![2], vec![1.0, 2.0])], &[("format", "pt")]);
    let second = file_bytes(&[("b", Dtype::F16, vec![1], vec![3.0]), ("c", Dtype::I64, vec![], vec![4.0])], &[]);
    fs::write(folder.path().join("one.safetensors"), first).unwrap();
    fs::write(folder.path().join("two.safetensors"), second).unwrap();
    index(folder.path(), r#""a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors""#);
    folder
}

fn index(folder: &Path, map: &str) {
    let text = format!(r#"{{"metadata": {{"total_size": 18.0}}, "weight_map": {{{map}}}}}"#);
    fs::write(folder.join(Shards::INDEX), text).unwrap();
}

fn refusal(path: &Path) -> String {
    open(path, &OpenOptions::default()).unwrap_err().to_string()
}

#[test]
fn shards_read_as_one_checkpoint_by_folder_and_by_index() {
    let folder = folder();
    for path in [folder.path().to_owned(), folder.path().join(Shards::INDEX)] {
        let file = open(path, &OpenOptions::default()).unwrap();
        assert_eq!(file.read_f32("a").unwrap(), [1.0, 2.0]);
        assert_eq!(file.read_f32("b").unwrap(), [3.0]);
        assert_eq!(file.bytes("c").unwrap(), 4_i64.to_le_bytes());
        assert_eq!((file.layout().total_bytes, file.layout().metadata["format"].as_str()), (18, "pt"));
    }
}

#[test]
fn a_selection_shares_the_bytes_and_is_written_whole() {
    let whole = open(folder().path(), &OpenOptions::default()).unwrap();
    let part = whole.select(["c", "a"]).unwrap();
    assert_eq!(part.layout().tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["c", "a"]);
    assert_eq!(part.bytes("a").unwrap().as_ptr(), whole.bytes("a").unwrap().as_ptr());
    let mut bytes = Vec::new();
    part.write_to(&mut bytes).unwrap();
    let read = barycenter_core::checkpoint::CheckpointFile::from_bytes(bytes).unwrap();
    assert_eq!(read.bytes("c").unwrap(), 4_i64.to_le_bytes());
    assert!(whole.select(["a", "a"]).unwrap_err().to_string().contains("`a`"));
    assert!(whole.select(["z"]).unwrap_err().to_string().contains("`z`"));
}

#[test]
fn an_index_that_does_not_fit_its_files_is_refused_by_tensor() {
    let folder = folder();
    for (map, told) in [
        (
            r#""a": "two.safetensors", "b": "two.safetensors", "c": "one.safetensors""#,
            "tensor `a` is in `one.safetensors`; the index says it is in `two.safetensors`",
        ),
        (
            r#""a": "one.safetensors", "b": "two.safetensors""#,
            "`two.safetensors` holds tensor `c`, which the index does not name",
        ),
        (
            r#""a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors", "d": "two.safetensors""#,
            "`two.safetensors` has no tensor `d`",
        ),
        (r#""a": "one.safetensors", "b": "three.safetensors""#, "three.safetensors"),
        (r#""a": "one.safetensors", "a": "two.safetensors""#, "tensor `a` is named twice"),
        (r#""a": 5"#, "tensor `a`"),
        ("", "names no tensor"),
        (r#""a": "../one.safetensors""#, "which is no name in its folder"),
        (r#""a": "/etc/passwd""#, "which is no name in its folder"),
        (r#""a": "x/one.safetensors""#, "which is no name in its folder"),
        (r#""a": "..""#, "which is no name in its folder"),
        (r#""a": """#, "which is no name in its folder"),
        (r#""a": "..\\one.safetensors""#, "which is no name in its folder"),
        (r#""a": "one.safetensors\u0000""#, "which is no name in its folder"),
    ] {
        index(folder.path(), map);
        let message = refusal(folder.path());
        assert!(message.contains(told), "{map}: {message}");
        assert!(message.contains("one.safetensors") || message.contains(folder.path().to_str().unwrap()), "{message}");
    }
}

#[test]
fn a_tensor_in_two_files_is_refused() {
    let folder = folder();
    let both = [("a", Dtype::F32, vec![1], vec![1.0]), ("b", Dtype::F16, vec![1], vec![1.0])];
    fs::write(folder.path().join("one.safetensors"), file_bytes(&both, &[])).unwrap();
    let message = refusal(folder.path());
    assert!(message.contains("tensor `b` is in `one.safetensors`"), "{message}");
}

#[test]
fn an_index_is_an_object_with_a_weight_map_of_bounded_size() {
    for (text, told) in [
        ("[]", "weight_map"),
        ("{}", "weight_map"),
        (r#"{"weight_map": {"a": "b"}, "weight_map": {"a": "c"}}"#, "duplicate"),
        (r#"{"weight_map": {"a": "b"}} x"#, "trailing"),
    ] {
        let message = Index::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(message.contains(told), "{text}: {message}");
    }
    let map: Vec<String> = (0..10_001).map(|i| format!(r#""t{i}":"f{i}""#)).collect();
    let message = Index::parse(format!(r#"{{"weight_map":{{{}}}}}"#, map.join(",")).as_bytes()).unwrap_err();
    assert!(message.to_string().contains("10001 files"), "{message}");
    assert!(Index::parse(&vec![b' '; (64 << 20) + 1]).unwrap_err().to_string().contains("longer"));
}

#[test]
fn a_folder_gives_the_checkpoint_it_holds_and_no_guess() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refusal(folder.path()).contains("holds no checkpoint"));
    let bytes = |value| file_bytes(&[("a", Dtype::F32, vec![], vec![value])], &[]);
    let read = || open(folder.path(), &OpenOptions::default()).unwrap().read_f32("a").unwrap()[0].to_bits();
    fs::write(folder.path().join("x.safetensors"), bytes(1.0)).unwrap();
    assert_eq!(read(), 1f32.to_bits());
    fs::write(folder.path().join("y.safetensors"), bytes(2.0)).unwrap();
    let message = refusal(folder.path());
    assert!(message.contains("`x.safetensors` and `y.safetensors`"), "{message}");
    fs::write(folder.path().join("model.safetensors"), bytes(3.0)).unwrap();
    assert_eq!(read(), 3f32.to_bits());
}

#[test]
fn files_are_filled_in_order_and_indexed_as_other_programs_expect() {
    let spec = |name: &str, extent| TensorSpec { name: name.into(), dtype: Dtype::F32, shape: vec![extent] };
    let tensors = vec![spec("a", 2), spec("b", 1), spec("c", 9), spec("d", 3), spec("e", 1)];
    let shards = Shards::plan(tensors.clone(), 16).unwrap();
    let found: Vec<(&str, Vec<&str>)> =
        shards.files.iter().map(|(file, group)| (&**file, group.iter().map(|t| &*t.name).collect())).collect();
    let expected = [
        ("model-00001-of-00003.safetensors", vec!["a", "b"]),
        ("model-00002-of-00003.safetensors", vec!["c"]),
        ("model-00003-of-00003.safetensors", vec!["d", "e"]),
    ];
    assert_eq!(found, expected);
    let index: serde_json::Value = serde_json::from_str(&shards.index().unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 64);
    assert_eq!(index["weight_map"]["d"], "model-00003-of-00003.safetensors");
    let single = Shards::plan(tensors.clone(), 64).unwrap();
    assert_eq!((single.files[0].0.as_str(), single.index()), ("model.safetensors", None));
    assert!(Shards::plan(tensors, 0).is_err());
    assert_eq!(Shards::plan(Vec::new(), 1).unwrap().files.len(), 1);
}

#[test]
fn only_plain_files_of_the_folder_itself_are_carried() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| folder.path().join(name);
    for name in ["config.json", "tokenizer.model", "vocab.txt", "chat_template.jinja", "LICENSE"] {
        fs::write(at(name), name).unwrap();
    }
    for name in [
        "model.safetensors",
        "model.safetensors.index.json",
        "optimizer.pt",
        "run.py",
        ".hidden.json",
        "trainer_state.json",
    ] {
        fs::write(at(name), name).unwrap();
    }
    fs::write(outside.path().join("secret.json"), "secret").unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret.json"), at("secret.json")).unwrap();
    std::os::unix::fs::symlink(at("config.json"), at("linked.json")).unwrap();
    std::os::unix::fs::symlink(at("gone"), at("dangling.json")).unwrap();
    fs::create_dir(at("folder.json")).unwrap();
    fs::File::create(at("huge.json")).unwrap().set_len((64 << 20) + 1).unwrap();
    let found = carried(folder.path()).unwrap();
    let names = ["LICENSE", "chat_template.jinja", "config.json", "linked.json", "tokenizer.model", "vocab.txt"];
    assert_eq!(found.names, names);
    let left: Vec<&str> = found.left.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(left, ["dangling.json", "folder.json", "huge.json", "secret.json"]);
    assert_eq!(found.left[3].1, "it is a link out of the folder");
}
