use std::fs;

use barycenter_core::checkpoint::{Dtype, TensorSpec, Writer};
use clap::Parser;

use super::*;
use crate::exit::Usage;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: AverageArguments,
}

/// A folder with checkpoints of a weight, a running statistic and a counter.
struct Files(tempfile::TempDir);

impl Files {
    fn new(rows: &[([f32; 3], i64)]) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        for (index, (weights, count)) in rows.iter().enumerate() {
            files.write(&index.to_string(), weights, *count);
        }
        files
    }

    fn write(&self, name: &str, weights: &[f32], count: i64) {
        let spec = |name: &str, dtype, shape: &[usize]| TensorSpec { name: name.into(), dtype, shape: shape.to_vec() };
        let specs = vec![
            spec("bn.num_batches_tracked", Dtype::I64, &[]),
            spec("bn.running_mean", Dtype::F32, &[weights.len()]),
            spec("weight", Dtype::F32, &[weights.len()]),
        ];
        let file = fs::File::create(self.path(name)).unwrap();
        let mut writer = Writer::new(file, specs, &BTreeMap::new()).unwrap();
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        writer.write("bn.num_batches_tracked", &count.to_le_bytes()).unwrap();
        writer.write("bn.running_mean", &bytes).unwrap();
        writer.write("weight", &bytes).unwrap();
        writer.finish().unwrap();
    }

    /// Makes a folder of a file: weights in two shards, configuration, and something that is not carried.
    fn folder(&self, name: &str) {
        let folder = self.path(&format!("{name}-folder"));
        fs::create_dir(&folder).unwrap();
        let whole = CheckpointFile::open(self.path(name)).unwrap();
        for (file, tensors) in [
            ("one.safetensors", ["weight", "bn.running_mean"].as_slice()),
            ("two.safetensors", &["bn.num_batches_tracked"]),
        ] {
            whole
                .select(tensors.iter().copied())
                .unwrap()
                .write_to(fs::File::create(folder.join(file)).unwrap())
                .unwrap();
        }
        let map = r#"{"weight_map": {"weight": "one.safetensors", "bn.running_mean": "one.safetensors",
            "bn.num_batches_tracked": "two.safetensors"}}"#;
        fs::write(folder.join("model.safetensors.index.json"), map).unwrap();
        fs::write(folder.join("config.json"), format!(r#"{{"from": "{name}"}}"#)).unwrap();
        fs::write(folder.join("tokenizer.model"), b"\0tokens").unwrap();
        fs::write(folder.join("optimizer.pt"), "no").unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn average(&self, names: &[&str], options: &[&str]) -> anyhow::Result<Summary> {
        let files = names.iter().map(|name| self.path(name).display().to_string());
        let out = self.path("out").display().to_string();
        let words = ["average".to_owned()].into_iter().chain(files).chain(["--quiet".into(), "--out".into(), out]);
        let line = Line::try_parse_from(words.chain(options.iter().map(ToString::to_string)))?;
        average(&line.arguments)
    }

    fn result(&self, tensor: &str) -> Vec<f32> {
        CheckpointFile::open(self.path("out")).unwrap().read_f32(tensor).unwrap()
    }
}

#[test]
fn equal_files_come_back_bit_for_bit() {
    let row = ([0.1, -1e-30, 3.0e7], 7);
    let files = Files::new(&[row, row, row]);
    let averaged = files.average(&["0", "1", "2"], &[]).unwrap();
    assert_eq!(fs::read(files.path("out")).unwrap(), fs::read(files.path("0")).unwrap());
    assert_eq!((averaged.averaged_tensors, averaged.copied_tensors), (2, 1));
    assert_eq!(averaged.digest_blake3, blake3::hash(&fs::read(files.path("out")).unwrap()).to_hex().to_string());
}

#[test]
fn floats_are_averaged_and_integers_are_the_last_files() {
    let files = Files::new(&[([1.0, 2.0, 3.0], 5), ([3.0, 2.0, -3.0], 9)]);
    files.average(&["0", "1"], &[]).unwrap();
    assert_eq!(files.result("weight"), [2.0, 2.0, 0.0]);
    assert_eq!(files.result("bn.running_mean"), [2.0, 2.0, 0.0]);
    let out = CheckpointFile::open(files.path("out")).unwrap();
    assert_eq!(out.bytes("bn.num_batches_tracked").unwrap(), 9i64.to_le_bytes());
}

#[test]
fn weights_weigh_and_may_be_negative() {
    let files = Files::new(&[([1.0, 0.0, 0.0], 0), ([0.0, 1.0, 0.0], 0), ([0.0, 0.0, 1.0], 0)]);
    files.average(&["0", "1", "2"], &["--weights", "-0.5,0.25,1.25"]).unwrap();
    assert_eq!(files.result("weight"), [-0.5, 0.25, 1.25]);
}

#[test]
fn weights_that_do_not_fit_are_wrong_usage() {
    let files = Files::new(&[([1.0; 3], 0), ([2.0; 3], 0)]);
    for (weights, told) in
        [("0.5,0.4", "sum to 0.9"), ("1", "1 weights were given for 2 files"), ("NaN,1", "sum to NaN")]
    {
        let error = files.average(&["0", "1"], &["--weights", weights]).unwrap_err();
        assert!(error.downcast_ref::<Usage>().is_some() && error.to_string().contains(told), "{error}");
    }
}

#[test]
fn tensors_go_by_the_first_pattern_that_names_them() {
    let files = Files::new(&[([1.0, 2.0, 3.0], 5), ([3.0, 2.0, -3.0], 9)]);
    let averaged = files.average(&["0", "1"], &["--tensor", "bn.*=copy", "--tensor", "*=average"]);
    assert!(averaged.is_ok_and(|averaged| averaged.copied_tensors == 2));
    assert_eq!(files.result("weight"), [2.0, 2.0, 0.0]);
    assert_eq!(files.result("bn.running_mean"), [3.0, 2.0, -3.0]);
    fs::remove_file(files.path("out")).unwrap();
    for (rule, told) in [
        ("head.*=copy", "no tensor has such a name"),
        ("bn.*=reject", "is rejected"),
        ("bn.*=recompute", "cannot be recomputed"),
        ("bn.num*=average", "is I64 and cannot be averaged"),
    ] {
        let error = files.average(&["0", "1"], &["--tensor", rule]).unwrap_err();
        assert!(error.downcast_ref::<Usage>().is_some() && error.to_string().contains(told), "{error}");
    }
}

#[test]
fn the_result_has_another_element_type_when_asked() {
    let files = Files::new(&[([1.0, 2.0, 3.0], 5), ([3.0, 2.5, -3.0], 9)]);
    files.average(&["0", "1"], &["--dtype", "bf16"]).unwrap();
    assert_eq!(files.result("weight"), [2.0, 2.25, 0.0]);
    let out = CheckpointFile::open(files.path("out")).unwrap();
    assert_eq!(out.tensor("weight").unwrap().dtype, Dtype::Bf16);
    assert_eq!(out.tensor("bn.num_batches_tracked").unwrap().dtype, Dtype::I64);
}

#[test]
fn a_file_that_is_there_is_never_replaced() {
    let files = Files::new(&[([1.0; 3], 0), ([2.0; 3], 0)]);
    fs::write(files.path("out"), "precious").unwrap();
    let error = files.average(&["0", "1"], &[]).unwrap_err();
    assert!(error.to_string().contains("is there already"), "{error}");
    assert_eq!(fs::read(files.path("out")).unwrap(), b"precious");
}

#[test]
fn bad_candidates_are_refused_by_name_and_leave_nothing() {
    let files = Files::new(&[([1.0; 3], 0), ([1.0, f32::NAN, 1.0], 0)]);
    files.write("short", &[1.0, 2.0], 0);
    fs::write(files.path("torn"), &fs::read(files.path("0")).unwrap()[..40]).unwrap();
    for (other, told) in
        [("1", "bn.running_mean"), ("short", "bn.running_mean"), ("torn", "torn"), ("absent", "absent")]
    {
        let error = files.average(&["0", other], &[]).unwrap_err().to_string();
        assert!(error.contains(told) && error.contains(files.path(other).to_str().unwrap()), "{other}: {error}");
    }
    assert_eq!(fs::read_dir(files.0.path()).unwrap().count(), 4, "no output and no temporary file");
}

/// Names in a folder, sorted.
fn names(folder: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn folders_give_a_folder_with_all_that_the_last_one_needs() {
    let files = Files::new(&[([1.0, 2.0, 3.0], 5), ([3.0, 2.0, -3.0], 9)]);
    files.folder("0");
    files.folder("1");
    let averaged = files.average(&["0-folder", "1-folder"], &[]).unwrap();
    assert_eq!(names(&files.path("out")), ["config.json", "model.safetensors", "tokenizer.model"]);
    assert_eq!(averaged.carried, ["config.json", "tokenizer.model"]);
    assert_eq!(fs::read(files.path("out/config.json")).unwrap(), fs::read(files.path("1-folder/config.json")).unwrap());
    assert_eq!(fs::read(files.path("out/tokenizer.model")).unwrap(), b"\0tokens");
    let out = CheckpointFile::open(files.path("out/model.safetensors")).unwrap();
    assert_eq!(out.read_f32("weight").unwrap(), [2.0, 2.0, 0.0]);
    assert_eq!(out.bytes("bn.num_batches_tracked").unwrap(), 9i64.to_le_bytes());
}

#[test]
fn a_folder_is_written_as_a_file_where_the_name_says_so() {
    let files = Files::new(&[([1.0, 2.0, 3.0], 5), ([3.0, 2.0, -3.0], 9)]);
    files.folder("0");
    files.folder("1");
    let out = files.path("m.safetensors").display().to_string();
    let words = ["average", "--quiet", "--out", &out].map(str::to_owned).into_iter();
    let words = words.chain(["0-folder", "1-folder"].map(|name| files.path(name).display().to_string()));
    let mixed = Line::try_parse_from(words).unwrap();
    average(&mixed.arguments).unwrap();
    assert_eq!(CheckpointFile::open(&out).unwrap().read_f32("weight").unwrap(), [2.0, 2.0, 0.0]);
}

#[test]
fn a_sharded_result_reads_as_the_same_model() {
    let files = Files::new(&[([1.0, 2.0, 3.0], 5), ([3.0, 2.0, -3.0], 9)]);
    let averaged = files.average(&["0", "1"], &["--shard-size", "20"]).unwrap();
    let expected =
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"];
    assert_eq!(names(&files.path("out")), expected);
    assert_eq!(averaged.files.len(), 2);
    for file in &averaged.files {
        let bytes = fs::read(files.path("out").join(&file.name)).unwrap();
        assert_eq!(
            (file.size_bytes, &file.digest_blake3),
            (bytes.len() as u64, &blake3::hash(&bytes).to_hex().to_string())
        );
    }
    let out = checkpoint::open(files.path("out"), &OpenOptions::default()).unwrap();
    assert_eq!(out.read_f32("weight").unwrap(), [2.0, 2.0, 0.0]);
    assert_eq!(out.layout().tensors.len(), 3);
}

#[test]
fn a_failed_folder_leaves_nothing() {
    let files = Files::new(&[([1.0; 3], 0), ([2.0; 3], 0)]);
    files.folder("0");
    files.folder("1");
    fs::remove_file(files.path("1-folder/two.safetensors")).unwrap();
    let error = files.average(&["0-folder", "1-folder"], &[]).unwrap_err().to_string();
    assert!(error.contains("two.safetensors"), "{error}");
    assert_eq!(names(files.0.path()), ["0", "0-folder", "1", "1-folder"]);
}

#[test]
fn pytorch_files_are_averaged_into_safetensors() {
    let fixture =
        |name: &str| format!("{}/../barycenter-core/tests/fixtures/pytorch/{name}.pt", env!("CARGO_MANIFEST_DIR"));
    let files = Files::new(&[]);
    let out = files.path("m.safetensors").display().to_string();
    let line = |paths: &[String], key: &[&str]| {
        let words = ["average", "--quiet", "--out", &out].map(str::to_owned).into_iter().chain(paths.iter().cloned());
        Line::try_parse_from(words.chain(key.iter().map(ToString::to_string))).unwrap()
    };
    let ambiguous = average(&line(&[fixture("several"), fixture("flat")], &[]).arguments).unwrap_err();
    assert!(ambiguous.to_string().contains("`ema`"), "{ambiguous}");
    average(&line(&[fixture("several"), fixture("nested")], &["--key", "model"]).arguments).unwrap();
    let (out, one) = (CheckpointFile::open(&out).unwrap(), checkpoint::open(fixture("flat"), &OpenOptions::default()));
    assert_eq!(out.bytes("weight").unwrap(), one.unwrap().bytes("weight").unwrap());
    assert_eq!(out.layout().metadata["format"], "pt");
}

/// A PEFT folder with one module of this rank, factors filled with one number each.
fn peft(folder: &Path, rank: usize, [a, b]: [f32; 2], config: &str) -> PathBuf {
    let path = folder.join(format!("rank{rank}-{a}-{b}"));
    fs::create_dir(&path).unwrap();
    fs::write(path.join("adapter_config.json"), config).unwrap();
    let spec = |name: &str, shape: [usize; 2]| TensorSpec {
        name: format!("base_model.model.q.{name}.weight"),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    let specs = vec![spec("lora_A", [rank, 3]), spec("lora_B", [2, rank])];
    let file = fs::File::create(path.join("adapter_model.safetensors")).unwrap();
    let mut writer = Writer::new(file, specs.clone(), &BTreeMap::new()).unwrap();
    for (spec, value) in specs.iter().zip([a, b]) {
        writer.write(&spec.name, &value.to_le_bytes().repeat(spec.shape.iter().product())).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn average_adapters_in(folder: &Path, files: &[&Path], options: &[&str]) -> anyhow::Result<(PathBuf, Summary)> {
    let out = folder.join("out");
    let files = files.iter().map(|file| file.to_str().unwrap());
    let words = ["average"].into_iter().chain(files).chain(["--out", out.to_str().unwrap()]);
    let line = Line::try_parse_from(words.chain(options.iter().copied()))?;
    let goal = line.arguments.lora.unwrap();
    average_adapters(&line.arguments, goal).map(|summary| (out, summary))
}

#[test]
fn adapters_are_averaged_by_their_products_and_their_scales() {
    let folder = tempfile::tempdir().unwrap();
    // 8/2 · (1·2·2) = 16 and 4/√4 · (4·1·3) = 24 in every entry.
    let first = peft(folder.path(), 2, [1.0, 2.0], r#"{"r": 2, "lora_alpha": 8, "target_modules": ["q"]}"#);
    let second = peft(folder.path(), 4, [1.0, 3.0], r#"{"r": 4, "lora_alpha": 4, "use_rslora": true}"#);
    let files = [first.as_path(), second.as_path()];
    let (out, summary) = average_adapters_in(folder.path(), &files, &["--lora", "delta"]).unwrap();
    let delta = CheckpointFile::open(&out).unwrap().read_f32("q.weight").unwrap();
    assert_eq!(delta, [20.0; 6]);
    assert_eq!(summary.lora.unwrap().modules, 1);
    fs::remove_file(&out).unwrap();

    let (out, summary) = average_adapters_in(folder.path(), &files, &["--lora", "adapter", "--rank", "1"]).unwrap();
    assert!(summary.lora.unwrap().relative_error < 1e-6, "every entry alike is rank one");
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"]), (&1.into(), &1.into()));
    let file = CheckpointFile::open(out.join("adapter_model.safetensors")).unwrap();
    let product = |row: usize, column: usize| {
        let (a, b) = ("base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight");
        file.read_f32(b).unwrap()[row] * file.read_f32(a).unwrap()[column]
    };
    assert!((0..6).all(|e| (product(e / 3, e % 3) - 20.0).abs() < 1e-4));
}

#[test]
fn adapters_that_are_no_products_are_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let good = peft(folder.path(), 2, [1.0, 2.0], r#"{"r": 2, "lora_alpha": 8}"#);
    let dora = peft(folder.path(), 2, [1.0, 3.0], r#"{"r": 2, "lora_alpha": 8, "use_dora": true}"#);
    let mixed = peft(folder.path(), 2, [1.0, 4.0], r#"{"r": 2, "lora_alpha": 8, "rank_pattern": {"q": 4}}"#);
    let turned = peft(folder.path(), 2, [1.0, 5.0], r#"{"r": 2, "lora_alpha": 8, "fan_in_fan_out": true}"#);
    for (other, told) in [(&dora, "use_dora"), (&mixed, "rank_pattern"), (&turned, "fan_in_fan_out")] {
        let error = average_adapters_in(folder.path(), &[&good, other], &["--lora", "adapter"]).unwrap_err();
        assert!(error.downcast_ref::<Usage>().is_some() && error.to_string().contains(told), "{error}");
    }
}
