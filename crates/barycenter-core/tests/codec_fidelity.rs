//! How true packed directions are, beside the reference method's own quantiser (nblt/TWA, branch `journal`): one range for all
//! candidates of a block, `2^b` evenly spaced levels from its least to its largest value, each number to the nearest.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, path::Path};

use barycenter_core::{
    blocks::{Blocks, Granularity},
    checkpoint::{CheckpointFile, Dtype, TensorSpec, Writer},
    data::Draws,
    network::NetworkSpec,
    projection::Projection,
};

/// What section 4 of the method asks for on Gaussian rows, by bits.
const LEAST_ON_GAUSSIAN: [(u8, f64); 4] = [(1, 0.795), (2, 0.935), (4, 0.993), (8, 0.9999)];

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The reference's quantiser on the unit directions of one block.
fn min_max(directions: &[Vec<f64>], bits: u8) -> Vec<Vec<f64>> {
    let all = || directions.iter().flatten().copied();
    let (least, largest) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let step = (largest - least) / f64::from((1_u32 << bits) - 1);
    let level = |value: &f64| least + ((value - least) / step).round() * step;
    directions.iter().map(|direction| direction.iter().map(level).collect()).collect()
}

/// Directions of the whole model as one block: one vector a candidate, at so many bits.
fn directions(candidates: &[CheckpointFile], names: &[String], bits: u8) -> Vec<Vec<f64>> {
    let sizes: Vec<_> = names.iter().map(|n| (n.clone(), candidates[0].tensor(n).unwrap().elements())).collect();
    let blocks = Blocks::new(&sizes, Granularity::Model);
    let projection = Projection::build(candidates, names, &blocks, bits, &mut |_, _| Ok(())).unwrap();
    let centre = projection.centre();
    (0..candidates.len())
        .map(|i| {
            let mut x = vec![0.0; candidates.len()];
            // Far enough that the rounding of the weights to f32 is small beside it.
            x[i] = 1e3;
            let mut weights = centre.clone();
            projection.reconstruct(&x, &mut weights);
            let pairs = weights.iter().flatten().zip(centre.iter().flatten());
            pairs.map(|(w, c)| f64::from(*w) - f64::from(*c)).collect()
        })
        .collect()
}

/// Mean cosines with the exact directions, ours and the reference's, by bits.
fn cosines(candidates: &[CheckpointFile], names: &[String]) -> Vec<(u8, f64, f64)> {
    let mut exact = directions(candidates, names, 32);
    for direction in &mut exact {
        let norm = direction.iter().map(|v| v * v).sum::<f64>().sqrt();
        for value in direction {
            *value /= norm;
        }
    }
    let mean = |found: &[Vec<f64>]| {
        found.iter().zip(&exact).map(|(found, exact)| cosine(found, exact)).sum::<f64>() / exact.len() as f64
    };
    let of_bits = |(bits, _)| (bits, mean(&directions(candidates, names, bits)), mean(&min_max(&exact, bits)));
    LEAST_ON_GAUSSIAN.map(of_bits).to_vec()
}

fn gaussian(n: usize, elements: usize) -> Vec<CheckpointFile> {
    let candidate = |i| {
        let mut draws = Draws::keyed(&[5, i as u64, 0]);
        let spec = TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![elements] };
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, vec![spec], &BTreeMap::new()).unwrap();
        let data: Vec<u8> = (0..elements).flat_map(|_| (draws.normal() as f32).to_le_bytes()).collect();
        writer.write("w", &data).unwrap();
        writer.finish().unwrap();
        CheckpointFile::from_bytes(bytes).unwrap()
    };
    (0..n).map(candidate).collect()
}

#[test]
fn on_gaussian_rows_directions_are_as_true_as_the_method_asks_and_truer_than_the_references() {
    let found = cosines(&gaussian(4, 100_000), &["w".to_owned()]);
    for ((bits, ours, references), (_, least)) in found.into_iter().zip(LEAST_ON_GAUSSIAN) {
        assert!(ours >= least, "{bits} bits: {ours}");
        assert!(ours > references - 1e-5, "{bits} bits: {ours}, the reference's {references}");
    }
}

#[test]
fn on_the_deviations_of_real_checkpoints_directions_are_truer_than_the_references() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("BARYCENTER_DATA").map_or(beside, Into::into).join("cifar10-resnet20");
    if !folder.is_dir() {
        println!("no real checkpoints at {}: nothing checked (BARYCENTER_DATA names their folder)", folder.display());
        return;
    }
    let open = |epoch| CheckpointFile::open(folder.join(format!("epoch-{epoch:03}.safetensors"))).unwrap();
    let candidates: Vec<_> = (9..25).map(open).collect();
    let network = NetworkSpec::ResnetCifar { depth: 20, classes: 10 }.build().unwrap();
    let names: Vec<_> = network.parameters().iter().map(|tensor| tensor.name.clone()).collect();
    for (bits, ours, references) in cosines(&candidates, &names) {
        println!("{bits} bits: cosine {ours:.5}, the reference's {references:.5}");
        assert!(ours > references, "{bits} bits: {ours}, the reference's {references}");
    }
}
