//! The binary under the limits that a shell gives it.

use std::{collections::BTreeMap, fs::File, path::PathBuf, process::Command};

use barycenter_core::checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer};

#[test]
fn more_checkpoints_are_averaged_than_a_shell_lets_programs_open() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = (0..80).map(|i| folder.path().join(format!("{i}.safetensors"))).collect();
    for (i, path) in paths.iter().enumerate() {
        let spec = TensorSpec { name: "weight".to_owned(), dtype: Dtype::F32, shape: vec![1] };
        let mut writer = Writer::new(File::create(path).unwrap(), vec![spec], &BTreeMap::new()).unwrap();
        writer.write("weight", &(i as f32).to_le_bytes()).unwrap();
        writer.finish().unwrap();
    }
    let out = folder.path().join("average.safetensors");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -S -n 64 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_barycenter"), "average", "--out"]);
    let ran = command.arg(&out).args(&paths).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(CheckpointFile::open(&out).unwrap().read_f32("weight").unwrap(), [39.5]);
}
