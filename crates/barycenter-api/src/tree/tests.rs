use proptest::prelude::*;

use super::*;

fn tree_digest(bytes: &[u8], part_size: u64) -> String {
    let plan = PartPlan::new(bytes.len() as u64, part_size).unwrap();
    let values: Vec<_> = (1..=plan.part_count())
        .map(|number| {
            let range = plan.range(number).unwrap();
            let mut hasher = plan.hasher(number).unwrap();
            // However the part arrives.
            for chunk in bytes[range.start as usize..range.end as usize].chunks(700) {
                hasher.update(chunk);
            }
            hasher.finish()
        })
        .collect();
    plan.digest(&values).unwrap()
}

proptest! {
    #[test]
    fn the_digest_from_parts_is_that_of_the_whole(
        size in prop_oneof![1_usize..3000, 1_usize..200_000],
        part in 0_u32..8,
        seed: u8,
    ) {
        let bytes: Vec<u8> = (0..size).map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ seed).collect();
        prop_assert_eq!(tree_digest(&bytes, 1024 << part), blake3::hash(&bytes).to_hex().to_string());
    }
}

#[test]
fn sizes_at_the_edges_of_chunks_and_parts_are_right() {
    for part_size in [1024, 2048, 8192] {
        for parts in 1..=9_usize {
            for off in [-1_isize, 0, 1] {
                let bytes = vec![7; (parts * part_size as usize).checked_add_signed(off).unwrap()];
                assert_eq!(tree_digest(&bytes, part_size), blake3::hash(&bytes).to_hex().to_string(), "{parts} {off}");
            }
        }
    }
}

#[test]
fn a_file_is_read_once_into_its_tree() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let bytes: Vec<u8> = (0..50_000_u32).map(|i| i as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let tree = FileTree::read(&path, 8192).unwrap();
    assert_eq!(tree.digest_blake3, blake3::hash(&bytes).to_hex().to_string());
    assert_eq!(tree.chaining_values.len(), 7);
    std::fs::write(&path, []).unwrap();
    assert_eq!(FileTree::read(&path, 8192).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn a_plan_tells_where_its_parts_lie() {
    let plan = PartPlan::new(2500, 1024).unwrap();
    assert_eq!(plan.part_count(), 3);
    assert_eq!(
        [0, 1, 3, 4, u64::MAX].map(|number| plan.range(number)),
        [None, Some(0..1024), Some(2048..2500), None, None]
    );
    for (size, part) in [(0, 1024), (10, 0), (10, 512), (10, 3000)] {
        assert_eq!(PartPlan::new(size, part), None);
    }
}

#[test]
fn the_usual_part_size_keeps_the_parts_few() {
    assert_eq!(usual_part_bytes(1), 16 << 20);
    assert_eq!(usual_part_bytes(MAX_PARTS * (16 << 20)), 16 << 20);
    assert_eq!(usual_part_bytes(MAX_PARTS * (16 << 20) + 1), 32 << 20);
}
