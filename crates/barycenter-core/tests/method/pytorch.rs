//! `PyTorch` files: good ones, unfit ones, hostile ones.

use std::{collections::BTreeSet, fs, path::PathBuf};

use barycenter_core::{
    Error,
    checkpoint::{CheckpointFile, OpenOptions, open},
};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR")))
}

fn read(name: &str, key: Option<&str>) -> Result<CheckpointFile, Error> {
    open(fixture(name), &OpenOptions { key: key.map(str::to_owned) })
}

fn refusal(name: &str, key: Option<&str>) -> String {
    read(name, key).expect_err(name).to_string()
}

fn assert_same(found: &CheckpointFile, expected: &CheckpointFile) {
    assert_eq!(found.layout().tensors.len(), expected.layout().tensors.len());
    for tensor in &expected.layout().tensors {
        let name = &tensor.name;
        let other = found.tensor(name).unwrap();
        assert_eq!((other.dtype, &other.shape), (tensor.dtype, &tensor.shape), "{name}");
        assert!(found.bytes(name).unwrap() == expected.bytes(name).unwrap(), "{name}");
    }
}

#[test]
fn every_dtype_and_every_view_reads_as_pytorch_sees_it() {
    let expected = read("pytorch/views_expected.safetensors", None).unwrap();
    for protocol in 2..=5 {
        let found = read(&format!("pytorch/views_protocol{protocol}.pt"), None).unwrap();
        assert_same(&found, &expected);
        let first: Vec<&str> = found.layout().tensors.iter().take(3).map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(first, ["f64", "f32", "f16"], "the order of the state dict is kept");
    }
}

#[test]
fn a_converted_file_is_safetensors_with_the_same_tensors() {
    let converted = |bytes: &mut Vec<u8>| read("pytorch/views_protocol2.pt", None).unwrap().write_to(bytes).unwrap();
    let mut bytes = Vec::new();
    let written = converted(&mut bytes);
    assert_eq!(written.size_bytes, bytes.len() as u64);
    let file = CheckpointFile::from_bytes(bytes).unwrap();
    assert_same(&file, &read("pytorch/views_expected.safetensors", None).unwrap());
    assert_eq!(file.layout().metadata["format"], "pt");
}

#[test]
fn the_only_state_dict_is_found_and_any_can_be_chosen() {
    let expected = read("pytorch/small_expected.safetensors", None).unwrap();
    for (name, key) in [
        ("flat", None),
        ("no_checksums", None),
        ("nested", None),
        ("nested", Some("model")),
        ("deep", None),
        ("deep", Some("model.state_dict")),
        ("several", Some("model")),
        ("opaque_beside", None),
        ("bad_nested_beside", Some("more")),
    ] {
        let found = read(&format!("pytorch/{name}.pt"), key).unwrap_or_else(|e| panic!("{name}: {e}"));
        if name != "bad_nested_beside" {
            assert_same(&found, &expected);
        }
    }
    let several = refusal("pytorch/several.pt", None);
    assert!(several.contains("`ema`") && several.contains("`model`") && several.contains("several.pt"), "{several}");
    let absent = refusal("pytorch/nested.pt", Some("modle"));
    assert!(absent.contains("`modle`") && absent.contains("`model`"), "{absent}");
    let ema = read("pytorch/several.pt", Some("ema")).unwrap();
    assert_eq!(ema.read_f32("bias").unwrap()[0], expected.read_f32("bias").unwrap()[0] + 1.0);
}

#[test]
fn what_cannot_be_taken_is_refused_by_name() {
    for (name, key, told) in [
        ("bad_complex", None, "tensor `weight`: its elements are `torch.ComplexFloatStorage`"),
        ("bad_fnuz", None, "tensor `weight`: its elements are `torch.float8_e4m3fnuz`"),
        ("bad_sparse", None, "`torch._utils._rebuild_sparse_tensor`"),
        ("bad_quantised", None, "`torch._utils._rebuild_qtensor`"),
        ("bad_nested_beside", None, "`more` is a dict"),
        ("bad_name", None, "a tensor is named by"),
        ("bad_module", None, "pickled object of `torch.nn.modules.linear.Linear`"),
        ("bad_module_inside", None, "`net` is a pickled object of `torch.nn.modules.linear.Linear`"),
        ("bad_module_inside", Some("net"), "`net` is a pickled object of `torch.nn.modules.linear.Linear`"),
        ("bad_one_tensor", None, "a tensor, not a state dict"),
        ("bad_no_tensors", None, "a dict without tensors"),
        ("nested", Some("epoch"), "`epoch` is a plain value, not a state dict"),
        ("bad_legacy", None, "before PyTorch 1.6"),
        ("bad_script", None, "TorchScript"),
    ] {
        let message = refusal(&format!("pytorch/{name}.pt"), key);
        assert!(message.contains(told) && message.contains(name), "{name}: {message}");
    }
    let message = refusal("pytorch/small_expected.safetensors", Some("model"));
    assert!(message.contains("no keys"), "{message}");
}

/// Hostile files that read well, because what is wrong in them lies beside the state dict and is not looked into.
const HARMLESS: [&str; 2] = ["billion_laughs", "list_in_itself"];

/// How every other hostile file is refused.
const REFUSED: &[(&str, &str)] = &[
    ("args_no_tuple", "no tuple of arguments"),
    ("below_the_mark", "a value is missing"),
    ("big_endian", "big-endian"),
    ("build_system", "given a state"),
    ("call_a_number", "a plain value is called"),
    ("deep_dicts", "`a` is a dict, not a tensor"),
    ("deep_lists", "not a state dict"),
    ("deep_marks", "a value is missing"),
    ("deep_tuples", "not a state dict"),
    ("deflate_bomb", "times the bytes of the file"),
    ("dict_in_itself", "without tensors"),
    ("dimensions", "65 dimensions"),
    ("directory_beyond", "not a whole zip archive"),
    ("empty_pickle", "1 bytes are asked for, 0 are left"),
    ("encrypted", "encrypted"),
    ("entry_beyond", "entry `x/data.pkl` lies outside the file"),
    ("fill_a_number", "cannot be filled"),
    ("huge_bytes", "bytes are asked for"),
    ("huge_string", "2147483647 bytes are asked for"),
    ("huge_string_64", "bytes are asked for"),
    ("key_without_value", "a key has no value"),
    ("memo_bomb", "a list, not a state dict"),
    ("named_by_number", "named by a plain value"),
    ("named_by_tensor", "named by a tensor"),
    ("named_twice", "`w` is there twice"),
    ("negative_length", "a length of -1"),
    ("no_args", "takes 6 or 7 arguments, not 0"),
    ("no_end", "0 are left"),
    ("no_mark", "a mark is missing"),
    ("no_pickle", "without `data.pkl`"),
    ("no_storage", "no storage"),
    ("nothing_on_stack", "a value is missing"),
    ("nothing_remembered", "nothing was remembered under 7"),
    ("offset_beyond", "`w`: it reaches to element 5 of a storage of 4"),
    ("offset_negative", "its offset is no count"),
    ("offset_overflow", "`w`: it reaches to element"),
    ("only_the_end", "not a whole zip archive"),
    ("opcode_extension", "opcode 0x82"),
    ("opcode_inst", "opcode 0x69"),
    ("opcode_of_protocol_0", "opcode 0x49"),
    ("parameter_of_nothing", "takes a tensor"),
    ("pickle_bomb", "more than 67108864"),
    ("protocol_6", "protocol 6"),
    ("reduce_system", "a pickled object of `os.system`"),
    ("reduce_system_in_state_dict", "`w` is a pickled object of `os.system`"),
    ("shared_bomb", "times the bytes of the file"),
    ("short_args", "takes 6 or 7 arguments, not 1"),
    ("size_beyond_64_bits", "a size is no count"),
    ("size_negative", "a size is no count"),
    ("size_overflow", "more elements than a file can hold"),
    ("size_zero_hides_overflow", "more elements than a file can hold"),
    ("storage_count", "its storage has 16 bytes, not 1099511627776 elements"),
    ("storage_kind", "its elements are `torch.QInt8Storage`"),
    ("storage_missing", "entry `x/data/7` is missing"),
    ("storage_no_tuple", "persistent id is no tuple"),
    ("storage_outside", "entry `x/data/../../../etc/passwd` is missing"),
    ("storage_short", "1 parts, not 5"),
    ("stride_negative", "a stride is no count"),
    ("stride_zero_bomb", "times the bytes of the file"),
    ("strides_beyond", "`w`: it reaches to element 5 of a storage of 4"),
    ("strides_overflow", "more elements than a file can hold"),
    ("strides_too_few", "2 sizes and 1 strides"),
    ("text_not_utf8", "not UTF-8"),
    ("truncated", "not a whole zip archive"),
    ("two_entries", "two entries `x/data/0`"),
    ("two_pickles", "several `data.pkl`"),
    ("unknown_method", "compressed in an unknown way"),
    ("wrong_checksum", "does not match its checksum"),
    ("wrong_size", "does not uncompress to its size"),
];

#[test]
fn a_hostile_file_is_refused_and_nothing_is_run() {
    let result =
        |name: &str| read(&format!("hostile/{name}.pt"), None).map_or_else(|e| e.to_string(), |_| "read".into());
    let expected = REFUSED.iter().copied().chain(HARMLESS.map(|name| (name, "read")));
    let surprises: Vec<String> = expected
        .map(|(name, told)| (name, told, result(name)))
        .filter(|(_, told, found)| !found.contains(told))
        .map(|(name, told, found)| format!("{name}: expected `{told}`, found `{found}`"))
        .collect();
    assert!(surprises.is_empty(), "{surprises:#?}");
    let known: BTreeSet<&str> = REFUSED.iter().map(|(name, _)| *name).chain(HARMLESS).collect();
    for entry in fs::read_dir(fixture("hostile")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(known.contains(name.as_str()), "{name} has no expectation");
    }
    assert!(!fixture("run_by_a_pickle").exists() && !PathBuf::from("run_by_a_pickle").exists());
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = fs::read(fixture("pytorch/flat.pt")).unwrap();
    for end in 0..whole.len() {
        assert!(CheckpointFile::from_pytorch(whole[..end].to_vec(), None).is_err(), "{end} bytes");
    }
}

#[test]
fn a_changed_byte_never_panics_and_never_passes_as_other_weights() {
    let whole = fs::read(fixture("pytorch/flat.pt")).unwrap();
    let expected = read("pytorch/small_expected.safetensors", None).unwrap();
    for at in 0..whole.len() {
        for bit in [1, 16, 128] {
            let mut changed = whole.clone();
            changed[at] ^= bit;
            // What the checksums do not cover (times, names of folders, padding) changes nothing that is read.
            if let Ok(file) = CheckpointFile::from_pytorch(changed, None) {
                assert_same(&file, &expected);
            }
        }
    }
}
