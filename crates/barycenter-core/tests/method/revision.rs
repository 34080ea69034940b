//! Projections whose candidates come and go.

use barycenter_core::{
    Error,
    blocks::{Blocks, Granularity},
    checkpoint::{CheckpointFile, Dtype},
    fit::{Fit, FitOptions, Optimiser},
    objective::{BatchLoss, Objective},
    projection::{Change, Member, Projection, Revision},
};

use crate::sample::{
    Random, blocks, build, candidates, candidates_of, dot, file, gradient, reconstruct, some_x, values, zeros,
};

const BITS: [u8; 5] = [1, 2, 4, 8, 32];

/// Those that stay of so many, in order, then those that come.
fn revision<'a>(
    n: usize,
    dropped: Vec<(usize, &'a CheckpointFile)>,
    added: impl IntoIterator<Item = &'a CheckpointFile>,
) -> Revision<'a> {
    let stays = (0..n).filter(|i| dropped.iter().all(|(gone, _)| gone != i)).map(Member::Stays);
    Revision { members: stays.chain(added.into_iter().map(Member::Comes)).collect(), dropped }
}

/// The last `n` of a sliding window over these candidates that began with the first `n` of them and moved on one at a time.
fn slid(files: &[CheckpointFile], n: usize, bits: u8) -> Projection {
    let mut projection = build(&files[..n], Granularity::Layer, bits);
    for (dropped, added) in files.iter().zip(&files[n..]) {
        projection =
            projection.revised(&revision(n, vec![(0, dropped)], [added])).unwrap().expect("the centre stays near");
    }
    projection
}

/// The same grown from its first three to all.
fn grown(files: &[CheckpointFile], bits: u8) -> Projection {
    let first = build(&files[..3], Granularity::Layer, bits);
    first.revised(&revision(3, Vec::new(), &files[3..])).unwrap().expect("the centre stays near")
}

#[test]
fn unquantised_weights_of_a_revised_projection_are_the_combination_that_the_coefficients_name() {
    let values = values(7, 40);
    let files = candidates_of(&values, Dtype::F32);
    for (projection, first) in [(slid(&files, 4, 32), 3), (grown(&files, 32), 0)] {
        let x = some_x(&projection, 41);
        let (weights, a) = (reconstruct(&projection, &x), projection.coefficients(&x));
        for (t, tensor) in weights.iter().enumerate() {
            let l = blocks(Granularity::Layer).block_of(t);
            for (e, w) in tensor.iter().enumerate() {
                let sum: f64 = (first..7).map(|i| a[(i - first) * 2 + l] * values[i][t][e]).sum();
                assert!((f64::from(*w) - sum).abs() < 1e-5, "{w} {sum}");
            }
        }
    }
}

#[test]
fn the_centre_of_a_revised_projection_is_the_mean_of_its_candidates() {
    let files = candidates(40, 42);
    let (slid, anew) = (slid(&files, 5, 4), build(&files[35..], Granularity::Layer, 4));
    for (a, b) in slid.centre().iter().flatten().zip(anew.centre().iter().flatten()) {
        assert!((a - b).abs() < 1e-6 * (1.0 + b.abs()), "{a} {b}");
    }
    assert_eq!(reconstruct(&slid, &[0.0; 10]), slid.centre(), "at X = 0 the weights are the centre");
}

#[test]
fn norms_of_a_revised_projection_are_those_of_one_built_anew() {
    let files = candidates(9, 43);
    for bits in BITS {
        let tolerance = if bits == 32 { 1e-4 } else { 2e-2 };
        for (revised, first) in [(slid(&files, 5, bits), 4), (grown(&files, bits), 0)] {
            let anew = build(&files[first..], Granularity::Layer, bits);
            for (a, b) in revised.norms().iter().zip(anew.norms()) {
                assert!((a / b - 1.0).abs() < tolerance, "{bits} bits: {a} {b}");
            }
        }
    }
}

#[test]
fn a_candidate_that_lies_where_the_anchor_is_has_the_norm_of_the_way_to_the_centre() {
    let mut values = values(4, 55);
    let at = values[0].clone();
    // The first is the mean of the first three.
    values[2] = values[1].iter().zip(&at).map(|(w, c)| w.iter().zip(c).map(|(w, c)| 2.0 * c - w).collect()).collect();
    let files = candidates_of(&values, Dtype::F64);
    let first = build(&files[..3], Granularity::Layer, 4);
    let grown = first.clone().revised(&revision(3, Vec::new(), [&files[3]])).unwrap().unwrap();
    for l in 0..2 {
        assert!(first.norms()[l] < 1e-4 * first.norms()[2 + l]);
        let tensors = (0..values[0].len()).filter(|t| blocks(Granularity::Layer).block_of(*t) == l);
        let square = tensors.flat_map(|t| values[3][t].iter().zip(&at[t])).map(|(w, c)| (w - c).powi(2)).sum::<f64>();
        assert!((grown.norms()[l] / (square.sqrt() / 4.0) - 1.0).abs() < 1e-3, "block {l}");
    }
}

#[test]
fn directions_of_a_revised_projection_point_where_those_built_anew_do() {
    let files = candidates(9, 44);
    for (bits, least) in [(1, 0.6), (2, 0.85), (4, 0.98), (8, 0.999), (32, 0.99999)] {
        let (revised, anew) = (grown(&files, bits), build(&files, Granularity::Layer, bits));
        for i in 0..9 {
            let direction = |projection: &Projection| -> Vec<Vec<f32>> {
                let mut x = vec![0.0; 18];
                x[2 * i..2 * i + 2].fill(1.0);
                let mut direction = reconstruct(projection, &x);
                for (d, c) in direction.iter_mut().flatten().zip(projection.centre().iter().flatten()) {
                    *d -= c;
                }
                direction
            };
            let (a, b) = (direction(&revised), direction(&anew));
            let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
            assert!(cosine > least, "{bits} bits, candidate {i}: {cosine}");
        }
    }
}

#[test]
fn the_two_passes_over_a_revised_projection_are_each_others_transpose() {
    let files = candidates(6, 45);
    for bits in BITS {
        let projection = grown(&files, bits);
        let (x, g) = (some_x(&projection, 46), gradient(&mut Random(47)));
        let mut moved = reconstruct(&projection, &x);
        for (w, c) in moved.iter_mut().flatten().zip(projection.centre().iter().flatten()) {
            *w -= c;
        }
        let projected: f64 = projection.project(&g).iter().zip(&x).map(|(p, x)| p * x).sum();
        let length = (dot(&moved, &moved) * dot(&g, &g)).sqrt();
        assert!((dot(&moved, &g) - projected).abs() < 1e-4 * length, "{bits} bits");
    }
}

/// ½ ‖w − target‖².
struct Quadratic(Vec<Vec<f32>>);

impl Objective for Quadratic {
    fn steps_per_epoch(&self) -> u64 {
        1
    }

    fn loss_and_gradient(&mut self, weights: &[Vec<f32>], _step: u64) -> barycenter_core::Result<BatchLoss> {
        let gradient: Vec<Vec<f32>> =
            weights.iter().zip(&self.0).map(|(w, t)| w.iter().zip(t).map(|(w, t)| w - t).collect()).collect();
        Ok(BatchLoss { loss: 0.5 * dot(&gradient, &gradient), rows: 1.0, gradient })
    }
}

#[test]
fn a_fit_on_a_revised_projection_finds_what_one_on_a_new_one_does() {
    let values = values(6, 48);
    let files = candidates_of(&values, Dtype::F32);
    let wanted = [0.7, 0.25, -0.3, 0.25, 0.5, 0.1, 0.1, 0.4, 0.2, -0.1, -0.2, 0.1];
    let mut target = zeros();
    let anew = build(&files, Granularity::Layer, 32);
    anew.reconstruct(&anew.x_from_coefficients(&wanted), &mut target);
    for projection in [grown(&files, 32), grown(&files, 4)] {
        let optimiser = Optimiser::Sgd { momentum: 0.9, weight_decay: 0.0 };
        let options = FitOptions { optimiser, learning_rate: Some(0.05), ..FitOptions::plain(400, 1) };
        let mut fit = Fit::new(&projection, options, None).unwrap();
        while !fit.is_done() {
            fit.step(&mut Quadratic(target.clone())).unwrap();
        }
        let distance = fit.coefficients().iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(distance < 0.02, "{} bits: {distance}", projection.bits());
    }
}

#[test]
fn a_saved_revised_projection_comes_back_whole_and_goes_on_as_it_would_have() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.projection");
    let files = candidates(8, 49);
    for bits in BITS {
        let projection = grown(&files[..6], bits);
        projection.save(&path).unwrap();
        let loaded = Projection::load(&path).unwrap();
        assert!(loaded == projection, "{bits} bits");
        assert_eq!(loaded.revisions(), 1);
        let next = revision(6, vec![(1, &files[1])], [&files[6], &files[7]]);
        assert!(loaded.revised(&next).unwrap() == projection.clone().revised(&next).unwrap(), "{bits} bits");
    }
}

#[test]
fn a_centre_that_went_far_asks_for_a_projection_that_is_built_anew() {
    let mut values = values(8, 50);
    for (moved, candidate) in values.iter_mut().enumerate() {
        candidate.iter_mut().flatten().for_each(|w| *w += 0.2 * moved as f64);
    }
    let files = candidates_of(&values, Dtype::F32);
    let first = build(&files[..4], Granularity::Layer, 4);
    let grown = first.clone().revised(&revision(4, Vec::new(), [&files[4]])).unwrap();
    assert!(grown.is_some(), "one more moves the mean by a tenth of the way");
    let dropped = files[..4].iter().enumerate().collect();
    assert!(first.revised(&revision(4, dropped, &files[4..])).unwrap().is_none());
}

#[test]
fn a_revision_that_makes_no_sense_is_refused() {
    let files = candidates(3, 51);
    let projection = build(&files, Granularity::Layer, 4);
    let stays = |places: &[usize]| places.iter().copied().map(Member::Stays).collect::<Vec<_>>();
    let refusal = |members: Vec<Member<'_>>, dropped: Vec<(usize, &CheckpointFile)>| match projection
        .clone()
        .revised(&Revision { members, dropped })
    {
        Err(Error::Input(message)) => message,
        other => panic!("{other:?}"),
    };
    assert!(refusal(stays(&[0, 1, 2]), vec![(3, &files[0])]).contains("candidate 3"));
    assert!(refusal(stays(&[0, 2]), vec![(1, &files[1]), (1, &files[1])]).contains("candidate 1"));
    assert!(refusal(stays(&[0, 1, 1]), vec![(2, &files[1])]).contains("candidate 1"));
    assert!(refusal(stays(&[0, 1]), vec![]).contains("candidate 2 (from 0) neither stays nor goes"));
    assert!(refusal(stays(&[2]), vec![(0, &files[0]), (1, &files[1])]).contains("at least 2"));
}

#[test]
fn candidates_of_a_revised_set_stand_where_the_set_has_them() {
    let files = candidates(5, 52);
    for bits in BITS {
        let first = build(&files[..4], Granularity::Layer, bits);
        let behind = first.clone().revised(&revision(4, vec![(1, &files[1])], [&files[4]])).unwrap().unwrap();
        let order = [Member::Comes(&files[4]), Member::Stays(3), Member::Stays(0), Member::Stays(2)];
        let mixed = Revision { members: order.to_vec(), dropped: vec![(1, &files[1])] };
        let mixed = first.revised(&mixed).unwrap().unwrap();
        assert_eq!(mixed.centre(), behind.centre(), "{bits} bits");
        for (row, place) in [3, 2, 0, 1].into_iter().enumerate() {
            for l in 0..2 {
                let (a, b) = (mixed.norms()[row * 2 + l], behind.norms()[place * 2 + l]);
                assert!((a / b - 1.0).abs() < 1e-6, "{bits} bits, candidate {row}: {a} {b}");
            }
        }
    }
}

#[test]
fn a_change_tells_who_stays_and_who_goes_also_among_equal_candidates() {
    let change = Change::between(&["a", "b", "a", "c"], &["c", "d", "a", "a", "a"]);
    assert_eq!(change.stays, [Some(3), None, Some(0), Some(2), None]);
    assert_eq!(change.dropped, [1]);
}

/// One long tensor and one that is shorter than a group, of each of so many candidates.
fn long_candidates(n: usize, dtype: Dtype) -> Vec<CheckpointFile> {
    let mut random = Random(53);
    let mut drawn = |len: usize| random.gaussians(len).into_iter().map(f64::from).collect::<Vec<_>>();
    let tensors = |_| [("bias", dtype, vec![7], drawn(7)), ("weight", dtype, vec![100_037], drawn(100_037))];
    (0..n).map(tensors).map(|tensors| file(&tensors)).collect()
}

#[test]
fn a_revision_does_not_depend_on_the_number_of_threads() {
    let sizes = [("bias".to_owned(), 7), ("weight".to_owned(), 100_037)];
    let names = sizes.each_ref().map(|(name, _)| name.clone());
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let files = long_candidates(9, dtype);
        let run = |threads: usize, bits: u8| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let blocks = Blocks::new(&sizes, Granularity::Tensor);
                let first = Projection::build(&files[..4], &names, &blocks, bits, &mut |_, _| Ok(())).unwrap();
                // It grows twice, the second time on the room that it got, stays as large, shrinks, and is put into another order.
                let grown = first.revised(&revision(4, Vec::new(), [&files[4]])).unwrap().unwrap();
                let larger = grown.clone().revised(&revision(5, Vec::new(), &files[5..8])).unwrap().unwrap();
                let slid = larger.clone().revised(&revision(8, vec![(2, &files[2])], [&files[8]])).unwrap().unwrap();
                let gone = vec![(0, &files[0]), (4, &files[5]), (5, &files[6])];
                let shrunk = slid.clone().revised(&revision(8, gone, [])).unwrap().unwrap();
                let members = [4, 1, 0, 3, 2].map(Member::Stays).to_vec();
                let turned = shrunk.clone().revised(&Revision { members, dropped: Vec::new() }).unwrap().unwrap();
                [grown, larger, slid, shrunk, turned]
            })
        };
        for bits in BITS {
            // More threads take more at once: eight take all there is.
            let all = run(8, bits);
            assert!([1, 2, 3].into_iter().all(|threads| run(threads, bits) == all), "{bits} bits");
        }
    }
}

#[test]
fn a_revised_projection_may_be_stopped_on_its_way_to_the_disk_and_leaves_nothing_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    let projection = grown(&candidates(6, 54), 32);
    let mut pieces = Vec::new();
    let mut note = |written, bytes| {
        pieces.push((written, bytes));
        Ok(())
    };
    projection.save_in_pieces(&path, &mut note).unwrap();
    assert!(pieces.is_sorted() && pieces.iter().all(|(_, bytes)| *bytes == projection.held_bytes()));
    let size = std::fs::metadata(&path).unwrap().len();
    assert_eq!(pieces.last().unwrap().0, size - 32, "all but the digest");
    assert!(Projection::load(&path).unwrap() == projection);

    std::fs::remove_file(&path).unwrap();
    for stopped_at in 0..pieces.len() {
        let mut left = stopped_at;
        let mut stop = |_, _| left.checked_sub(1).map(|fewer| left = fewer).ok_or(Error::Stopped);
        assert!(matches!(projection.save_in_pieces(&path, &mut stop), Err(Error::Stopped)));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "after {stopped_at} pieces");
    }
}

#[test]
fn a_candidate_that_comes_with_a_number_beyond_32_bits_is_named() {
    let mut values = values(5, 56);
    values[4][2][5] = 1e39;
    let files = candidates_of(&values, Dtype::F64);
    let first = build(&files[..3], Granularity::Layer, 4);
    let message = first.revised(&revision(3, Vec::new(), [&files[3], &files[4]])).unwrap_err().to_string();
    assert!(message.contains("tensor `head.weight` of candidate 4 (from 0) is not finite in 32 bits"), "{message}");
}
