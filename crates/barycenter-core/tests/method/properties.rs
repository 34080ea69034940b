//! What holds for every candidate set, at all bits and granularities.

use barycenter_core::{blocks::Granularity, checkpoint::Dtype};
use proptest::prelude::*;

use crate::sample::{Random, blocks, build, candidates, candidates_of, dot, gradient, reconstruct, some_x, values};

fn bits() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![1, 2, 4, 8, 32])
}

fn granularity() -> impl Strategy<Value = Granularity> {
    prop::sample::select(vec![
        Granularity::Model,
        Granularity::Layer,
        Granularity::Tensor,
        Granularity::Elements(1_000),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn coefficients_sum_to_one_in_every_block(seed: u64, n in 2_usize..9, bits in bits(), granularity in granularity()) {
        let projection = build(&candidates(n, seed), granularity, bits);
        let a = projection.coefficients(&some_x(&projection, !seed));
        for l in 0..projection.block_count() {
            let sum: f64 = a.iter().skip(l).step_by(projection.block_count()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-12, "{granularity} {l}: {sum}");
        }
    }

    #[test]
    fn the_two_passes_are_transposes(seed: u64, n in 2_usize..9, bits in bits(), granularity in granularity()) {
        let projection = build(&candidates(n, seed), granularity, bits);
        let (g, x) = (gradient(&mut Random(!seed)), some_x(&projection, seed ^ 1));
        let left: f64 = projection.project(&g).iter().zip(&x).map(|(p, x)| p * x).sum();
        let weights = reconstruct(&projection, &x);
        let pairs = weights.iter().zip(projection.centre());
        let moved: Vec<Vec<f32>> = pairs.map(|(w, c)| w.iter().zip(c).map(|(w, c)| w - c).collect()).collect();
        let right = dot(&g, &moved);
        // Weights are rounded to f32 where they are: of a step that is small beside the centre more is lost than of a large one.
        let centre = projection.centre();
        let bound = 1e-6 * dot(&moved, &moved).sqrt() + 1e-8 * dot(&centre, &centre).sqrt();
        prop_assert!((left - right).abs() < bound * dot(&g, &g).sqrt(), "{left} {right}");
    }

    #[test]
    fn permuted_candidates_have_permuted_gradients_and_the_same_weights(
        seed: u64,
        order in Just((0..5).collect::<Vec<usize>>()).prop_shuffle(),
        bits in bits(),
        granularity in granularity(),
    ) {
        let values = values(5, seed);
        let permuted: Vec<_> = order.iter().map(|i| values[*i].clone()).collect();
        let a = build(&candidates_of(&values, Dtype::F32), granularity, bits);
        let b = build(&candidates_of(&permuted, Dtype::F32), granularity, bits);
        let (g, x) = (gradient(&mut Random(!seed)), some_x(&a, seed ^ 1));
        let rows = |matrix: &[f64]| -> Vec<f64> {
            let blocks = blocks(granularity).len();
            order.iter().flat_map(|i| matrix[i * blocks..(i + 1) * blocks].to_vec()).collect()
        };
        let length = dot(&g, &g).sqrt();
        for (a, b) in rows(&a.project(&g)).iter().zip(b.project(&g)) {
            prop_assert!((a - b).abs() < 1e-6 * length, "{a} {b}");
        }
        let (wa, wb) = (reconstruct(&a, &x), reconstruct(&b, &rows(&x)));
        prop_assert!(wa.iter().flatten().zip(wb.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
