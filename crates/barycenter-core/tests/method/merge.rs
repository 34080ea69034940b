//! Exact materialisation.

use std::collections::BTreeMap;

use barycenter_core::{
    blocks::{Blocks, Granularity},
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer, Written},
    merge::{MergePlan, Policy, merge, policies, weights},
};

use crate::sample::{Random, Sample, file, file_bytes};

fn fixture(name: &str) -> CheckpointFile {
    CheckpointFile::open(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn read_f64(file: &CheckpointFile, name: &str) -> Vec<f64> {
    let mut values = vec![0.0; file.tensor(name).unwrap().elements()];
    file.fill_f64(name, 0, &mut values).unwrap();
    values
}

fn merged(
    candidates: &[CheckpointFile],
    coefficients: &[f64],
    policies: &BTreeMap<String, Policy>,
) -> (Vec<u8>, Written) {
    let mut bytes = Vec::new();
    let written = merge(candidates, coefficients, policies, None, &mut bytes, &mut |_, _| Ok(())).unwrap();
    (bytes, written)
}

fn tensors(seed: u64) -> Vec<Sample<'static>> {
    let mut random = Random(seed);
    let mut values = |count: usize| -> Vec<f64> { (0..count).map(|_| random.gaussian()).collect() };
    vec![
        ("d", Dtype::F64, vec![40], values(40)),
        ("s", Dtype::F32, vec![20_000], values(20_000)),
        ("h", Dtype::F16, vec![1000], values(1000)),
        ("b", Dtype::Bf16, vec![1000], values(1000)),
        ("count", Dtype::I64, vec![], vec![seed as f64]),
    ]
}

fn float_names() -> Vec<String> {
    ["d", "s", "h", "b"].map(str::to_owned).to_vec()
}

fn one_block(candidates: &[CheckpointFile]) -> BTreeMap<String, Policy> {
    let sizes: Vec<(String, usize)> =
        float_names().into_iter().map(|n| (n.clone(), candidates[0].tensor(&n).unwrap().elements())).collect();
    policies(candidates.last().unwrap(), &float_names(), &Blocks::new(&sizes, Granularity::Model)).unwrap()
}

/// Distance to the next number of the type.
fn ulp(dtype: Dtype, value: f64) -> f64 {
    let (digits, least) = match dtype {
        Dtype::F16 => (10, -24),
        Dtype::Bf16 => (7, -133),
        Dtype::F32 => (23, -149),
        _ => (52, -1074),
    };
    2f64.powi((value.abs().log2().floor() as i32).saturating_sub(digits).max(least))
}

#[test]
fn a_merge_agrees_with_plain_float64_arithmetic_of_another_program() {
    let candidates: Vec<_> = (0..3).map(|i| fixture(&format!("merge_{i}.safetensors"))).collect();
    let expected = fixture("merge_expected.safetensors");
    let averaged = ["a.weight", "a.bias", "b.weight", "b.bias"].map(str::to_owned);
    let sizes = averaged.clone().map(|name| (name.clone(), candidates[0].tensor(&name).unwrap().elements()));
    let blocks = Blocks::new(&sizes, Granularity::Layer);
    let policies = policies(&candidates[2], &averaged, &blocks).unwrap();
    let (bytes, written) = merged(&candidates, &read_f64(&expected, "coefficients"), &policies);
    assert_eq!(written.digest_blake3, blake3::hash(&bytes).to_hex().to_string());
    let merged = CheckpointFile::from_bytes(bytes).unwrap();
    for name in &averaged {
        let dtype = merged.tensor(name).unwrap().dtype;
        for (found, wanted) in read_f64(&merged, name).into_iter().zip(read_f64(&expected, name)) {
            assert!((found - wanted).abs() <= ulp(dtype, wanted), "{name} {dtype}: {found} {wanted}");
        }
    }
    assert_eq!(merged.bytes("b.count").unwrap(), 102_i64.to_le_bytes());
    assert_eq!(merged.layout(), candidates[2].layout());
    assert_eq!(merged.layout().metadata["step"], "2");
}

#[test]
fn copies_of_one_checkpoint_give_it_back_bit_for_bit() {
    let original = file_bytes(&tensors(3), &[("format", "pt")]);
    for n in [2, 3, 7, 10, 49] {
        let candidates: Vec<_> = (0..n).map(|_| CheckpointFile::from_bytes(original.clone()).unwrap()).collect();
        let (bytes, _) = merged(&candidates, &weights::uniform(n), &one_block(&candidates));
        assert!(bytes == original, "{n} copies");
    }
    let candidates: Vec<_> = (0..3).map(|_| CheckpointFile::from_bytes(original.clone()).unwrap()).collect();
    assert!(merged(&candidates, &[2.3, -1.4, 0.1], &one_block(&candidates)).0 == original, "affine coefficients");
}

#[test]
fn copies_of_every_eight_bit_number_give_it_back_and_averages_are_rounded_once() {
    let (codes, finite) =
        (0..=u8::MAX, |dtype, code: u8| code & 0x7f <= if dtype == Dtype::F8E4M3 { 0x7e } else { 0x7b });
    for dtype in [Dtype::F8E4M3, Dtype::F8E5M2] {
        let codes: Vec<u8> = codes.clone().filter(|code| finite(dtype, *code)).collect();
        let spec = TensorSpec { name: "w".into(), dtype, shape: vec![codes.len()] };
        let bytes_of = |codes: &[u8]| {
            let mut bytes = Vec::new();
            let mut writer = Writer::new(&mut bytes, vec![spec.clone()], &BTreeMap::new()).unwrap();
            writer.write("w", codes).unwrap();
            writer.finish().unwrap();
            bytes
        };
        let original = bytes_of(&codes);
        let policies = BTreeMap::from([("w".to_owned(), Policy::Average { block: 0 })]);
        for n in [2, 3, 7, 10, 49] {
            let candidates: Vec<_> = (0..n).map(|_| CheckpointFile::from_bytes(original.clone()).unwrap()).collect();
            assert!(merged(&candidates, &weights::uniform(n), &policies).0 == original, "{dtype}, {n} copies");
        }
        let mut turned = codes.clone();
        turned.rotate_left(3);
        let pair = [original, bytes_of(&turned)].map(|bytes| CheckpointFile::from_bytes(bytes).unwrap());
        let averaged = CheckpointFile::from_bytes(merged(&pair, &[0.5, 0.5], &policies).0).unwrap();
        let (a, b, found) = (read_f64(&pair[0], "w"), read_f64(&pair[1], "w"), read_f64(&averaged, "w"));
        for ((a, b), found) in a.iter().zip(&b).zip(found) {
            let middle = (a + b) / 2.0;
            let nearest = read_f64(&pair[0], "w").into_iter().map(|v| (v - middle).abs()).fold(f64::INFINITY, f64::min);
            assert!((found - middle).abs() <= nearest, "{dtype}: {a} and {b} give {found}");
        }
    }
}

#[test]
fn the_weights_of_one_candidate_give_that_candidate() {
    let candidates = [1, 2, 3].map(|seed| file(&tensors(seed)));
    let (bytes, _) = merged(&candidates, &weights::single(3, 1), &one_block(&candidates));
    let merged = CheckpointFile::from_bytes(bytes).unwrap();
    for name in float_names() {
        assert_eq!(merged.bytes(&name).unwrap(), candidates[1].bytes(&name).unwrap(), "{name}");
    }
    // What is not averaged comes from the last candidate, whoever has the weight.
    assert_eq!(merged.bytes("count").unwrap(), 3_i64.to_le_bytes());
}

#[test]
fn the_order_of_the_candidates_does_not_matter_beyond_rounding() {
    let (candidates, permuted) = ([1, 2, 3].map(|s| file(&tensors(s))), [3, 1, 2].map(|s| file(&tensors(s))));
    let (a, _) = merged(&candidates, &[0.5, 0.8, -0.3], &one_block(&candidates));
    let (b, _) = merged(&permuted, &[-0.3, 0.5, 0.8], &one_block(&permuted));
    let (a, b) = (CheckpointFile::from_bytes(a).unwrap(), CheckpointFile::from_bytes(b).unwrap());
    for name in float_names() {
        let dtype = a.tensor(&name).unwrap().dtype;
        for (a, b) in read_f64(&a, &name).into_iter().zip(read_f64(&b, &name)) {
            assert!((a - b).abs() <= ulp(dtype, a).max(1e-15), "{name}: {a} {b}");
        }
    }
}

#[test]
fn recomputed_values_and_own_weights_take_the_place_of_coefficients() {
    let candidates = [1, 2].map(|seed| file(&tensors(seed)));
    let mut policies = one_block(&candidates);
    policies.insert("h".to_owned(), Policy::Provided(vec![0.25; 1000]));
    policies.insert("s".to_owned(), Policy::Weighted(weights::single(2, 0)));
    policies.insert("b".to_owned(), Policy::Copy);
    let (bytes, _) = merged(&candidates, &[0.9, 0.1], &policies);
    let merged = CheckpointFile::from_bytes(bytes).unwrap();
    assert!(merged.read_f32("h").unwrap().iter().all(|v| *v == 0.25));
    assert_eq!(merged.bytes("s").unwrap(), candidates[0].bytes("s").unwrap());
    assert_eq!(merged.bytes("b").unwrap(), candidates[1].bytes("b").unwrap());
}

#[test]
fn floating_point_tensors_are_written_in_another_type_when_asked_and_rounded_once() {
    let candidates = [1, 2].map(|seed| file(&tensors(seed)));
    let mut policies = one_block(&candidates);
    policies.insert("b".to_owned(), Policy::Copy);
    policies.insert("h".to_owned(), Policy::Provided(vec![0.1; 1000]));
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let mut bytes = Vec::new();
        let written = merge(&candidates, &[0.7, 0.3], &policies, Some(dtype), &mut bytes, &mut |_, _| Ok(())).unwrap();
        assert_eq!(written.size_bytes, bytes.len() as u64);
        let merged = CheckpointFile::from_bytes(bytes).unwrap();
        assert_eq!(merged.tensor("count").unwrap().dtype, Dtype::I64, "integers stay what they are");
        let exact = |name: &str| -> Vec<f64> {
            let of = candidates.each_ref().map(|candidate| read_f64(candidate, name));
            match name {
                "b" => of[1].clone(),
                "h" => vec![0.1; 1000],
                _ => of[0].iter().zip(&of[1]).map(|(a, b)| 0.7 * a + 0.3 * b).collect(),
            }
        };
        for name in float_names() {
            assert_eq!(merged.tensor(&name).unwrap().dtype, dtype);
            for (found, exact) in read_f64(&merged, &name).into_iter().zip(exact(&name)) {
                let most = 0.5 * ulp(dtype, exact) + 1e-15;
                assert!((found - exact).abs() <= most, "{name} as {dtype}: {found} for {exact}");
            }
        }
    }
    let refused = merge(&candidates, &[0.5, 0.5], &policies, Some(Dtype::I32), Vec::new(), &mut |_, _| Ok(()));
    assert!(refused.unwrap_err().to_string().contains("I32 is no floating-point type"));
}

#[test]
fn what_cannot_be_merged_is_refused_by_name() {
    let candidates = [1, 2].map(|seed| file(&tensors(seed)));
    let refusal = |coefficients: &[f64], policies: &BTreeMap<String, Policy>| {
        merge(&candidates, coefficients, policies, None, Vec::new(), &mut |_, _| Ok(())).unwrap_err().to_string()
    };
    let good = one_block(&candidates);
    let with = |name: &str, policy: Policy| {
        let mut changed = good.clone();
        changed.insert(name.to_owned(), policy);
        changed
    };
    assert!(refusal(&[0.5, 0.5], &with("count", Policy::Average { block: 0 })).contains("`count` is I64"));
    assert!(refusal(&[0.5, 0.5], &with("h", Policy::Provided(vec![1.0]))).contains("`h`"));
    assert!(refusal(&[0.5, 0.5], &with("h", Policy::Average { block: 1 })).contains("block 1"));
    assert!(refusal(&[0.5, 0.5, 0.5], &good).contains("3 coefficients"));
    assert!(refusal(&[f64::NAN, 0.5], &good).contains("not finite"));
    let mut missing = good.clone();
    missing.remove("h");
    assert!(refusal(&[0.5, 0.5], &missing).contains("`h` has no policy"));
}

#[test]
fn a_merge_can_be_stopped_after_a_tensor() {
    let candidates = [1, 2].map(|seed| file(&tensors(seed)));
    let policies = one_block(&candidates);
    let stopped =
        merge(&candidates, &[0.5, 0.5], &policies, None, Vec::new(), &mut |_, _| Err(barycenter_core::Error::Stopped));
    assert!(matches!(stopped, Err(barycenter_core::Error::Stopped)));
}

/// Every type, several pieces, tensors that are averaged, copied, provided; numbers that every machine makes alike.
fn of_every_type(seed: u64) -> CheckpointFile {
    let mut random = Random(seed);
    let mut values = |count: usize| -> Vec<f64> { (0..count).map(|_| random.uniform() - 0.5).collect() };
    file(&[
        ("d", Dtype::F64, vec![1021], values(1021)),
        ("s", Dtype::F32, vec![600, 1001], values(600_600)),
        ("h", Dtype::F16, vec![5003], values(5003)),
        ("b", Dtype::Bf16, vec![5003], values(5003)),
        ("e", Dtype::F8E4M3, vec![301], values(301)),
        ("mean", Dtype::F32, vec![64], values(64)),
        ("count", Dtype::I64, vec![], vec![seed as f64]),
    ])
}

fn merged_of_every_type(dtype: Option<Dtype>) -> (Vec<u8>, [CheckpointFile; 3], BTreeMap<String, Policy>) {
    let candidates = [1, 2, 3].map(of_every_type);
    let policies = policies_of_every_type(&candidates);
    let mut bytes = Vec::new();
    merge(&candidates, &coefficients_of_every_type(), &policies, dtype, &mut bytes, &mut |_, _| Ok(())).unwrap();
    (bytes, candidates, policies)
}

fn policies_of_every_type(candidates: &[CheckpointFile; 3]) -> BTreeMap<String, Policy> {
    let averaged = ["d", "s", "h", "b", "e"].map(str::to_owned);
    let sizes = averaged.clone().map(|name| (name.clone(), candidates[0].tensor(&name).unwrap().elements()));
    let blocks = Blocks::new(&sizes, Granularity::Tensor);
    let mut policies = policies(&candidates[2], &averaged, &blocks).unwrap();
    policies.insert("mean".to_owned(), Policy::Provided((0..64).map(|i| f64::from(i) / 7.0).collect()));
    policies
}

/// Three candidates, five blocks; columns sum to 1.
fn coefficients_of_every_type() -> Vec<f64> {
    let rows = [[0.2, 0.7, -0.3, 1.0 / 3.0, 0.0], [0.3, 0.4, 0.9, 1.0 / 3.0, 0.0]];
    let last = (0..5).map(|block| 1.0 - rows[0][block] - rows[1][block]);
    rows.concat().into_iter().chain(last).collect()
}

/// Artifacts whose bytes were dropped are made again by later releases on other machines: a merge that gives other bytes would
/// lose them. What is to change the bytes must be a new rule of merging beside this one.
#[test]
fn the_bytes_of_a_merge_are_a_promise() {
    for (dtype, promised) in [
        (None, "c9fa2c1e25808771e08b630879384a9984edaa74f056015d61c6158a7262e312"),
        (Some(Dtype::F16), "759a546a100aa4e8cd2a176fa710e64660f96664595910be85ebee1bdf96ce01"),
        (Some(Dtype::F8E5M2), "d67f705238b0eba172cf4ac45deede7e8a762da0235618cb6b4ac43e18d73089"),
    ] {
        let found = blake3::hash(&merged_of_every_type(dtype).0).to_hex().to_string();
        assert_eq!(found, promised, "{dtype:?}");
    }
}

#[test]
fn the_bytes_of_a_merge_do_not_depend_on_the_number_of_threads() {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| merged_of_every_type(None).0)
    };
    let one = on(1);
    assert!([2, 3, 8].into_iter().all(|threads| on(threads) == one));
}

#[test]
fn files_on_the_disk_are_merged_to_the_same_bytes_and_one_that_is_cut_meanwhile_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [1, 2, 3].map(|seed| folder.path().join(format!("{seed}.safetensors")));
    for (seed, path) in (1..).zip(&paths) {
        of_every_type(seed).write_to(std::fs::File::create(path).unwrap()).unwrap();
    }
    let candidates = paths.each_ref().map(|path| CheckpointFile::open(path).unwrap());
    let policies = policies_of_every_type(&candidates);
    let again = || {
        let mut bytes = Vec::new();
        let coefficients = coefficients_of_every_type();
        merge(&candidates, &coefficients, &policies, None, &mut bytes, &mut |_, _| Ok(())).map(|_| bytes)
    };
    assert!(again().unwrap() == merged_of_every_type(None).0);
    // The second piece of 1 MiB is the first that is copied, and the cut goes through it.
    std::fs::File::options().write(true).open(&paths[1]).unwrap().set_len(3 << 19).unwrap();
    let error = again().unwrap_err().to_string();
    assert!(error.contains(paths[1].to_str().unwrap()), "{error}");
}

#[test]
fn a_merge_is_made_again_from_its_plan_and_what_was_kept() {
    for dtype in [None, Some(Dtype::Bf16), Some(Dtype::F64)] {
        let (bytes, candidates, policies) = merged_of_every_type(dtype);
        let plan = MergePlan::of(&candidates[2], &policies);
        assert_eq!(plan.kept, ["mean"]);
        let kept = CheckpointFile::from_bytes(bytes.clone()).unwrap();
        let policies = plan.policies(&candidates[2], Some(&kept)).unwrap();
        let mut again = Vec::new();
        let coefficients = coefficients_of_every_type();
        merge(&candidates, &coefficients, &policies, dtype, &mut again, &mut |_, _| Ok(())).unwrap();
        assert!(again == bytes, "{dtype:?}");
        let without = plan.policies(&candidates[2], None).unwrap_err().to_string();
        assert!(without.contains("`mean`"), "{without}");
    }
}
