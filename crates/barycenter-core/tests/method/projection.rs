//! The projection: codec, centre, norms, the two passes, the cache file.

use barycenter_core::{
    blocks::{Blocks, Granularity},
    checkpoint::Dtype,
    projection::{GROUP, Projection, is_projection, quantise, unpack},
};
use proptest::prelude::*;

use crate::sample::{
    Random, TENSORS, averaged, blocks, build, candidates, candidates_of, dot, gradient, reconstruct, some_x, values,
    zeros,
};

const BITS: [u8; 5] = [1, 2, 4, 8, 32];

#[test]
fn at_x_zero_the_weights_are_the_mean() {
    let values = values(5, 1);
    let projection = build(&candidates_of(&values, Dtype::F32), Granularity::Layer, 4);
    let weights = reconstruct(&projection, &[0.0; 10]);
    assert_eq!(weights, projection.centre());
    for (t, tensor) in weights.iter().enumerate() {
        for (e, w) in tensor.iter().enumerate() {
            let mean = values.iter().map(|candidate| candidate[t][e]).sum::<f64>() / 5.0;
            assert!((f64::from(*w) - mean).abs() <= 6e-8 * mean.abs());
        }
    }
}

#[test]
fn coefficients_and_x_say_the_same() {
    let projection = build(&candidates(4, 3), Granularity::Tensor, 32);
    let a = projection.coefficients(&some_x(&projection, 4));
    let back = projection.coefficients(&projection.x_from_coefficients(&a));
    assert!(a.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-12));
}

#[test]
fn unquantised_weights_are_the_combination_that_the_coefficients_name() {
    let values = values(4, 5);
    let projection = build(&candidates_of(&values, Dtype::F32), Granularity::Layer, 32);
    let x = some_x(&projection, 6);
    let (weights, a) = (reconstruct(&projection, &x), projection.coefficients(&x));
    for (t, tensor) in weights.iter().enumerate() {
        let l = blocks(Granularity::Layer).block_of(t);
        for (e, w) in tensor.iter().enumerate() {
            let sum: f64 = (0..4).map(|i| a[i * 2 + l] * values[i][t][e]).sum();
            assert!((f64::from(*w) - sum).abs() < 1e-5, "{w} {sum}");
        }
    }
}

#[test]
fn a_norm_spans_all_tensors_of_its_block() {
    let values = values(3, 7);
    let projection = build(&candidates_of(&values, Dtype::F32), Granularity::Model, 1);
    for (i, r) in projection.norms().iter().enumerate() {
        let centre = projection.centre();
        let pairs = values[i].iter().flatten().zip(centre.iter().flatten());
        let norm = pairs.map(|(w, c)| (w - f64::from(*c)).powi(2)).sum::<f64>().sqrt();
        assert!((r - norm).abs() < 1e-6 * norm, "{r} {norm}");
    }
}

#[test]
fn a_direction_of_few_bits_goes_as_far_along_its_deviation_as_the_exact_one() {
    let values = values(4, 11);
    for (bits, granularity) in BITS.into_iter().zip([Granularity::Model, Granularity::Layer].into_iter().cycle()) {
        let projection = build(&candidates_of(&values, Dtype::F32), granularity, bits);
        let blocks = projection.block_count();
        for (i, candidate) in values.iter().enumerate() {
            let minus = |(w, c): (&f64, &f32)| (w - f64::from(*c)) as f32;
            let pairs = candidate.iter().zip(projection.centre());
            let deviation: Vec<Vec<f32>> = pairs.map(|(w, c)| w.iter().zip(&c).map(minus).collect()).collect();
            let along = &projection.project(&deviation)[i * blocks..][..blocks];
            for (along, r) in along.iter().zip(&projection.norms()[i * blocks..]) {
                assert!((along - r).abs() < 1e-4 * r, "{bits} bits: {along} along a deviation of {r}");
            }
        }
    }
}

#[test]
fn the_geometry_of_candidates_is_that_of_their_deviations() {
    let mut values = values(5, 13);
    let mut random = Random(14);
    values[4] = values[1].iter().map(|tensor| tensor.iter().map(|w| w + 1e-3 * random.gaussian()).collect()).collect();
    let mean = |t: usize, e: usize| values.iter().map(|candidate| candidate[t][e]).sum::<f64>() / 5.0;
    let product = |i: usize, j: usize| -> f64 {
        let tensors = (0..TENSORS.len()).flat_map(|t| (0..TENSORS[t].1).map(move |e| (t, e)));
        tensors.map(|(t, e)| (values[i][t][e] - mean(t, e)) * (values[j][t][e] - mean(t, e))).sum()
    };
    for (bits, tolerance) in [(32, 1e-5), (8, 1e-3), (4, 0.02)] {
        let geometry = build(&candidates_of(&values, Dtype::F32), Granularity::Layer, bits).geometry();
        for (i, row) in geometry.gram.iter().enumerate() {
            for (j, found) in row.iter().enumerate() {
                let exact = product(i, j);
                let most = tolerance * (product(i, i) * product(j, j)).sqrt();
                assert!((found - exact).abs() <= most, "{bits} bits, {i} {j}: {found} for {exact}");
            }
        }
        // Four independent points, one of them twice: three directions, one of them heavier.
        assert!((2.5..3.05).contains(&geometry.effective_rank), "{}", geometry.effective_rank);
        let pairs: Vec<_> = geometry.near_duplicates.iter().map(|pair| (pair.first, pair.second)).collect();
        assert_eq!(pairs, [(1, 4)], "{bits} bits");
    }
}

#[test]
fn equal_candidates_have_null_deviations_and_finite_coefficients() {
    for bits in BITS {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
            let one = &values(1, 8)[0];
            let projection = build(&candidates_of(&vec![one.clone(); 7], dtype), Granularity::Tensor, bits);
            assert!(projection.norms().iter().all(|r| *r == 0.0));
            assert!(projection.project(&gradient(&mut Random(1))).iter().all(|g| *g == 0.0));
            let x = some_x(&projection, 9);
            assert!(projection.coefficients(&x).iter().all(|a| (a - 1.0 / 7.0).abs() < 1e-15));
            assert_eq!(reconstruct(&projection, &x), projection.centre());
            let stored = candidates_of(std::slice::from_ref(one), dtype);
            let names = averaged();
            let first: Vec<Vec<f32>> = names.iter().map(|name| stored[0].read_f32(name).unwrap()).collect();
            assert_eq!(projection.centre(), first);
        }
    }
}

#[test]
fn a_number_beyond_32_bits_names_the_candidate_that_has_it() {
    let refusal = |values: &[Vec<Vec<f64>>]| {
        let files = candidates_of(values, Dtype::F64);
        let built = Projection::build(&files, &averaged(), &blocks(Granularity::Model), 1, &mut |_, _| Ok(()));
        built.unwrap_err().to_string()
    };
    let mut values = values(3, 12);
    values[2][2][5] = 1e39;
    let message = refusal(&values);
    assert!(message.contains("tensor `head.weight` of candidate 2 (from 0) is not finite in 32 bits"), "{message}");
    // Here the numbers are ones of 32 bits, their centre as well, and a step of 1 bit is not.
    for (candidate, values) in values.iter_mut().enumerate() {
        for (e, value) in values[0].iter_mut().enumerate() {
            *value = [3e38, -3e38, 0.0][candidate] * if e % 2 == 0 { 1.0 } else { -1.0 };
        }
    }
    let message = refusal(&values);
    assert!(message.contains("`conv.weight`: the deviation of candidate 0 (from 0) is too large"), "{message}");
}

#[test]
fn a_frozen_tensor_stays_as_it_is() {
    let mut values = values(4, 10);
    for i in 1..4 {
        values[i][1] = values[0][1].clone();
    }
    let projection = build(&candidates_of(&values, Dtype::F32), Granularity::Tensor, 4);
    let x = some_x(&projection, 11);
    assert_eq!(reconstruct(&projection, &x)[1], projection.centre()[1]);
    assert!(projection.coefficients(&x).iter().all(|a| a.is_finite()));
    assert!((projection.coefficients(&x)[1] - 0.25).abs() < 1e-15);
}

#[test]
fn a_gradient_that_is_not_finite_is_seen_even_where_nothing_can_move() {
    let one = values(1, 8)[0].clone();
    let projection = build(&candidates_of(&vec![one; 3], Dtype::F32), Granularity::Model, 4);
    let mut g = zeros();
    g[2][5] = f32::NAN;
    assert!(projection.project(&g).iter().any(|value| value.is_nan()));
}

#[test]
fn packed_directions_point_where_the_unquantised_ones_do() {
    let exact = build(&candidates(3, 18), Granularity::Model, 32);
    for (bits, least) in [(1, 0.795), (2, 0.935), (4, 0.993), (8, 0.9999)] {
        let packed = build(&candidates(3, 18), Granularity::Model, bits);
        for i in 0..3 {
            let mut x = [0.0; 3];
            x[i] = 100.0;
            let moved = |projection: &Projection| -> Vec<Vec<f32>> {
                let centre = projection.centre();
                let pairs = reconstruct(projection, &x).into_iter().zip(centre);
                pairs.map(|(w, c)| w.iter().zip(c).map(|(w, c)| w - c).collect()).collect()
            };
            let (u, q) = (moved(&exact), moved(&packed));
            let cosine = dot(&u, &q) / (dot(&u, &u) * dot(&q, &q)).sqrt();
            assert!(cosine >= least, "{bits} bits: {cosine}");
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let projection = build(&candidates(5, 19), Granularity::Layer, 4);
            let g = projection.project(&gradient(&mut Random(20)));
            let weights = reconstruct(&projection, &some_x(&projection, 21));
            let bits: Vec<u64> = g.iter().map(|v| v.to_bits()).collect();
            (projection, bits, weights)
        })
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn the_columns_of_all_ranks_make_the_whole() {
    for bits in BITS {
        let projection = build(&candidates(4, 8), Granularity::Layer, bits);
        let (gradient, x) = (gradient(&mut Random(9)), some_x(&projection, 10));
        let (slope, weights) = (projection.project(&gradient), reconstruct(&projection, &x));
        // Five chunks of columns: with seven ranks some have none.
        for ranks in [1, 2, 3, 7] {
            let columns = projection.columns_by_rank(ranks);
            let mut sums = vec![0.0; slope.len()];
            let mut gathered: Vec<Vec<f32>> = weights.iter().map(|tensor| vec![f32::NAN; tensor.len()]).collect();
            for own in &columns {
                let part = projection.project_columns(&gradient, own);
                sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                projection.reconstruct_columns(&x, own, &mut gathered);
            }
            assert_eq!(gathered, weights, "{ranks} ranks, {bits} bits");
            let distance = sums.iter().zip(&slope).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let longest = slope.iter().fold(0.0_f64, |longest, g| longest.max(g.abs()));
            assert!(distance <= 1e-12 * longest, "{ranks} ranks, {bits} bits: {distance:e}");
        }
    }
}

#[test]
fn memory_is_what_the_formula_says() {
    let sizes = TENSORS.map(|(_, size)| size);
    for bits in BITS {
        let projection = build(&candidates(5, 22), Granularity::Layer, bits);
        assert_eq!(projection.held_bytes(), Projection::memory_bytes(5, &sizes, bits), "{bits} bits");
    }
    // Four bits an element and 3 % for scales, beside the centre.
    assert_eq!(Projection::memory_bytes(32, &[25_600_000], 4), 32 * 100_000 * 132 + 4 * 25_600_000);
}

#[test]
fn building_can_be_stopped_after_a_tensor() {
    let mut seen = Vec::new();
    let result =
        Projection::build(&candidates(2, 23), &averaged(), &blocks(Granularity::Model), 4, &mut |done, all| {
            seen.push((done, all));
            if done == 2 { Err(barycenter_core::Error::Stopped) } else { Ok(()) }
        });
    assert!(matches!(result, Err(barycenter_core::Error::Stopped)));
    assert_eq!(seen, [(1, 4), (2, 4)]);
}

#[test]
fn tensors_that_make_no_sense_are_refused() {
    let refusal = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let sizes: Vec<(String, usize)> = names.iter().map(|name| (name.clone(), 256)).collect();
        let blocks = Blocks::new(&sizes, Granularity::Tensor);
        Projection::build(&candidates(2, 23), &names, &blocks, 4, &mut |_, _| Ok(())).unwrap_err().to_string()
    };
    assert!(refusal(&[]).contains("no tensor"));
    assert!(refusal(&["head.bias", "head.bias"]).contains("`head.bias` is named twice"));
    assert!(refusal(&["tail.bias"]).contains("`tail.bias`"));
}

#[test]
fn bits_that_are_not_offered_are_refused() {
    let result = Projection::build(&candidates(2, 24), &averaged(), &blocks(Granularity::Model), 3, &mut |_, _| Ok(()));
    assert!(result.unwrap_err().to_string().contains("bits: 3"));
}

#[test]
fn a_saved_projection_comes_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.projection");
    for bits in BITS {
        let projection = build(&candidates(3, 25), Granularity::Layer, bits);
        projection.save(&path).unwrap();
        assert!(Projection::load(&path).unwrap() == projection, "{bits} bits");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_damaged_projection_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.projection");
    build(&candidates(2, 26), Granularity::Model, 1).save(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let head = (0..200).chain((200..good.len()).step_by(997));
    for place in head {
        let mut bytes = good.clone();
        bytes[place] ^= 0x10;
        std::fs::write(&path, &bytes).unwrap();
        let error = Projection::load(&path).unwrap_err();
        assert!(matches!(error, barycenter_core::Error::Corrupt(_)), "byte {place}: {error}");
    }
    for end in [0, 7, 60, 150, good.len() - 33, good.len() - 1] {
        std::fs::write(&path, &good[..end]).unwrap();
        assert!(matches!(Projection::load(&path).unwrap_err(), barycenter_core::Error::Corrupt(_)), "{end} bytes");
    }
}

#[test]
fn a_projection_is_told_by_its_first_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.projection");
    build(&candidates(2, 28), Granularity::Model, 4).save(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    assert!(is_projection(&good) && is_projection(&good[..12]));
    let mut of_another_version = good.clone();
    of_another_version[8] ^= 1;
    for wrong in [&good[..11], &of_another_version, b"a file of another kind"] {
        assert!(!is_projection(wrong));
    }
}

#[test]
fn gaussian_rows_keep_their_direction_at_every_scale() {
    for deviation in [1e-30, 1e-3, 1.0, 1e6] {
        for (bits, least) in [(1_u8, 0.795), (2, 0.935), (4, 0.993), (8, 0.9999)] {
            let mut random = Random(27);
            let (mut product, mut length, mut coded) = (0.0, 0.0, 0.0);
            for _ in 0..400 {
                let values: Vec<f32> = (0..GROUP).map(|_| (deviation * random.gaussian()) as f32).collect();
                let mut codes = vec![0; 32 * usize::from(bits)];
                let scale = quantise(&values, bits, &mut codes);
                for (v, q) in values.iter().zip(unpack(&codes, bits, scale)) {
                    let (v, q) = (f64::from(*v), f64::from(q));
                    product += v * q;
                    length += v * v;
                    coded += q * q;
                }
            }
            let cosine = product / (length * coded).sqrt();
            assert!(cosine >= least, "{bits} bits at {deviation}: {cosine}");
        }
    }
}

#[test]
fn at_eight_bits_one_large_value_in_a_group_is_not_cut_off() {
    let mut values = Random(28).gaussians(GROUP);
    values[100] = 30.0;
    let mut codes = vec![0; GROUP];
    let scale = quantise(&values, 8, &mut codes);
    let found = unpack(&codes, 8, scale)[100];
    assert!((found - 30.0).abs() < 0.3, "{found}");
}

/// Every code of a group, in order, so that packing is undone by unpacking: level `k + ½` at Δ = 1 gives `k` back.
fn packed_by_hand(codes: &[u8], bits: u8) -> Vec<u8> {
    let (bits, words) = (usize::from(bits), if bits == 1 { 8 } else { 16 });
    let mut packed = vec![0; 32 * bits];
    for (element, code) in codes.iter().enumerate() {
        let (run, place) = (element / (words * 32 / bits), element % (words * 32 / bits));
        let (slot, word) = (place / words, place % words);
        packed[4 * (run * words + word) + slot * bits / 8] |= code << (slot * bits % 8);
    }
    packed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_code_comes_back_from_its_place(
        bits in prop::sample::select(vec![1_u8, 2, 4, 8]),
        bytes in proptest::collection::vec(any::<u8>(), GROUP),
    ) {
        let codes: Vec<u8> = bytes.iter().map(|byte| byte >> (8 - bits)).collect();
        let half_levels = f32::from(1_u16 << (bits - 1));
        let levels = unpack(&packed_by_hand(&codes, bits), bits, 1.0);
        for (code, level) in codes.iter().zip(levels) {
            prop_assert_eq!(f32::from(*code), level - 0.5 + half_levels);
        }
    }

    #[test]
    fn quantising_never_makes_a_group_longer_and_never_turns_it_round(
        bits in prop::sample::select(vec![1_u8, 2, 4, 8]),
        values in proptest::collection::vec(-1e3f32..1e3, 1..=GROUP),
        exponent in -25_i32..25,
    ) {
        let values: Vec<f32> = values.iter().map(|v| v * 10f32.powi(exponent)).collect();
        let mut codes = vec![0; 32 * usize::from(bits)];
        let scale = quantise(&values, bits, &mut codes);
        let decoded = unpack(&codes, bits, scale);
        let length: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
        let error: f64 = values.iter().zip(decoded).map(|(v, q)| (f64::from(*v) - f64::from(q)).powi(2)).sum();
        prop_assert!(scale.is_finite() && scale >= 0.0);
        prop_assert!(error <= length * (1.0 + 1e-6), "{error} {length}");
    }
}
