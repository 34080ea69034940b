//! Every seed of the fuzz targets through its reader: the short form of `make fuzz`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../fuzz/src/lib.rs"]
mod readers;

use std::path::Path;

#[test]
fn no_seed_of_any_reader_makes_it_panic() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for reader in readers::READERS {
        let seeds = readers::seeds(&reader, &root);
        assert!(!seeds.is_empty(), "{} has seeds", reader.name);
        for seed in seeds {
            println!("{}: {}", reader.name, seed.display());
            (reader.read)(&std::fs::read(seed).unwrap());
        }
    }
}

#[test]
fn every_reader_has_a_target() {
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/targets");
    let mut found: Vec<String> = std::fs::read_dir(targets)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut names = readers::READERS.map(|reader| reader.name);
    names.sort_unstable();
    assert_eq!(found, names);
}

#[test]
fn the_archive_that_wraps_a_pickle_is_one_that_the_reader_takes() {
    let pickle = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/pickle/stride_negative"));
    let file = readers::stored(&[("x/data.pkl", &pickle.unwrap())]);
    let refused = barycenter_core::checkpoint::CheckpointFile::from_pytorch(file, None).unwrap_err().to_string();
    assert!(refused.contains("a stride is no count"), "{refused}");
}
