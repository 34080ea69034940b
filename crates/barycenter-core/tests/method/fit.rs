//! The fit: it finds what it should, resumes exactly and refuses nonsense.

use barycenter_core::{
    Error, Result,
    blocks::Granularity,
    checkpoint::Dtype,
    fit::{Fit, FitOptions, FitState, Optimiser, Schedule},
    objective::{BatchLoss, Objective},
    projection::Projection,
};
use proptest::prelude::*;

use crate::sample::{Random, build, candidates, candidates_of, values};

/// ½ ‖w − target‖² in every step; NaN from the step `spoilt` on.
struct Quadratic {
    target: Vec<Vec<f32>>,
    spoilt: Option<u64>,
}

impl Objective for Quadratic {
    fn steps_per_epoch(&self) -> u64 {
        1
    }

    fn loss_and_gradient(&mut self, weights: &[Vec<f32>], step: u64) -> Result<BatchLoss> {
        let gradient: Vec<Vec<f32>> =
            weights.iter().zip(&self.target).map(|(w, t)| w.iter().zip(t).map(|(w, t)| w - t).collect()).collect();
        let loss = 0.5 * gradient.iter().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>();
        let spoilt = self.spoilt.is_some_and(|from| step >= from);
        Ok(BatchLoss { loss: if spoilt { f64::NAN } else { loss }, rows: 1.0, gradient })
    }
}

fn adamw() -> Optimiser {
    Optimiser::default()
}

fn sgd() -> Optimiser {
    Optimiser::Sgd { momentum: 0.9, weight_decay: 0.0 }
}

fn options(optimiser: Optimiser, learning_rate: f64, steps: u64) -> FitOptions {
    FitOptions { optimiser, learning_rate: Some(learning_rate), ..FitOptions::plain(steps, 7) }
}

/// Coefficients that sum to 1 in each of two blocks, one of them negative.
const WANTED: [f64; 8] = [0.7, 0.25, -0.3, 0.25, 0.5, 0.1, 0.1, 0.4];

fn quadratic(projection: &Projection) -> Quadratic {
    let mut target = projection.centre();
    projection.reconstruct(&projection.x_from_coefficients(&WANTED), &mut target);
    Quadratic { target, spoilt: None }
}

#[test]
fn the_optimum_inside_the_affine_hull_is_found() {
    for bits in [4, 32] {
        let projection = build(&candidates(4, 30), Granularity::Layer, bits);
        for (optimiser, learning_rate, steps) in [(sgd(), 0.05, 400), (adamw(), 0.5, 1500)] {
            let mut objective = quadratic(&projection);
            let mut fit = Fit::new(&projection, options(optimiser, learning_rate, steps), None).unwrap();
            let first = fit.step(&mut objective).unwrap().loss;
            let mut last = first;
            while !fit.is_done() {
                last = fit.step(&mut objective).unwrap().loss;
            }
            assert!(last < 1e-6 * first, "{optimiser:?} {bits} bits: {first} {last}");
            for (found, wanted) in fit.coefficients().iter().zip(WANTED) {
                assert!((found - wanted).abs() < 1e-3, "{optimiser:?} {bits} bits: {found} {wanted}");
            }
        }
    }
}

#[test]
fn a_fit_resumed_from_saved_bytes_ends_bit_for_bit_as_one_never_stopped() {
    let projection = build(&candidates(4, 31), Granularity::Layer, 4);
    for optimiser in [adamw(), sgd()] {
        let options = options(optimiser, 0.1, 30);
        let mut whole = Fit::new(&projection, options.clone(), None).unwrap();
        while !whole.is_done() {
            whole.step(&mut quadratic(&projection)).unwrap();
        }
        for stop in [0, 1, 13, 29] {
            let mut first = Fit::new(&projection, options.clone(), None).unwrap();
            for _ in 0..stop {
                first.step(&mut quadratic(&projection)).unwrap();
            }
            let saved = first.state().to_bytes();
            drop(first);
            let state = FitState::from_bytes(&saved).unwrap();
            let mut second = Fit::resume(&projection, options.clone(), state).unwrap();
            while !second.is_done() {
                second.step(&mut quadratic(&projection)).unwrap();
            }
            assert_eq!(second.state().to_bytes(), whole.state().to_bytes(), "stopped after {stop} steps");
        }
    }
}

#[test]
fn a_step_reports_its_number_rate_and_loss() {
    let projection = build(&candidates(4, 32), Granularity::Layer, 8);
    let mut fit = Fit::new(&projection, options(adamw(), 0.1, 10), None).unwrap();
    let report = fit.step(&mut quadratic(&projection)).unwrap();
    assert_eq!((report.step, report.learning_rate), (0, 0.05));
    assert!(report.loss > 0.0);
    assert_eq!(fit.step(&mut quadratic(&projection)).unwrap().learning_rate, 0.1);
}

#[test]
fn a_loss_or_gradient_that_is_not_finite_names_the_step_and_changes_nothing() {
    let projection = build(&candidates(4, 33), Granularity::Model, 32);
    let mut fit = Fit::new(&projection, options(sgd(), 0.1, 10), None).unwrap();
    let mut nan = Quadratic { target: projection.centre(), spoilt: Some(2) };
    fit.step(&mut nan).unwrap();
    fit.step(&mut nan).unwrap();
    let before = fit.state().clone();
    let objectives: [(&str, &mut dyn Objective); 2] =
        [("the loss", &mut nan), ("the gradient", &mut Infinite(projection.centre()))];
    for (word, objective) in objectives {
        let message = fit.step(objective).unwrap_err().to_string();
        assert!(message.contains("step 2") && message.contains(word), "{message}");
        assert_eq!(*fit.state(), before);
    }
}

#[test]
fn a_fit_of_permuted_candidates_finds_permuted_coefficients() {
    let order = [2, 0, 3, 1];
    let values = values(4, 37);
    let permuted: Vec<_> = order.iter().map(|i| values[*i].clone()).collect();
    let fitted = |values: &[Vec<Vec<f64>>]| {
        let projection = build(&candidates_of(values, Dtype::F32), Granularity::Layer, 4);
        let mut objective = Quadratic { target: projection.centre(), spoilt: None };
        objective.target.iter_mut().flatten().for_each(|w| *w *= 0.9);
        let mut fit = Fit::new(&projection, options(sgd(), 0.05, 60), None).unwrap();
        while !fit.is_done() {
            fit.step(&mut objective).unwrap();
        }
        fit.coefficients()
    };
    let (a, b) = (fitted(&values), fitted(&permuted));
    assert!(a.iter().any(|a| (a - 0.25).abs() > 0.01), "the fit moves: {a:?}");
    for (place, i) in order.iter().enumerate() {
        for l in 0..2 {
            assert!((a[i * 2 + l] - b[place * 2 + l]).abs() < 1e-5, "{a:?} {b:?}");
        }
    }
}

/// A gradient of infinities.
struct Infinite(Vec<Vec<f32>>);

impl Objective for Infinite {
    fn steps_per_epoch(&self) -> u64 {
        1
    }

    fn loss_and_gradient(&mut self, _: &[Vec<f32>], _: u64) -> Result<BatchLoss> {
        let gradient = self.0.iter().map(|part| vec![f32::INFINITY; part.len()]).collect();
        Ok(BatchLoss { loss: 1.0, rows: 1.0, gradient })
    }
}

#[test]
fn a_fit_makes_no_more_steps_than_it_has() {
    let projection = build(&candidates(4, 34), Granularity::Layer, 1);
    let mut fit = Fit::new(&projection, options(adamw(), 0.1, 1), None).unwrap();
    fit.step(&mut quadratic(&projection)).unwrap();
    assert!(fit.is_done());
    assert!(matches!(fit.step(&mut quadratic(&projection)), Err(Error::Input(_))));
}

#[test]
fn options_that_make_no_sense_are_refused_by_name() {
    let projection = build(&candidates(2, 35), Granularity::Model, 1);
    let refusal = |options: FitOptions| Fit::new(&projection, options, None).unwrap_err().to_string();
    assert!(refusal(options(adamw(), -0.1, 5)).contains("learning_rate"));
    assert!(refusal(options(adamw(), f64::NAN, 5)).contains("learning_rate"));
    let betas = Optimiser::AdamW { betas: [0.9, 1.0], epsilon: 1e-8, weight_decay: 0.0 };
    assert!(refusal(options(betas, 0.1, 5)).contains("betas[1]"));
    assert!(refusal(options(Optimiser::Sgd { momentum: 0.9, weight_decay: -1.0 }, 0.1, 5)).contains("weight_decay"));
    let mut warm = options(adamw(), 0.1, 5);
    warm.schedule = Schedule::Cosine { warm_up: 1.5 };
    assert!(refusal(warm).contains("warm_up"));
}

#[test]
fn a_state_of_another_fit_is_refused() {
    let (small, large) =
        (build(&candidates(2, 36), Granularity::Model, 1), build(&candidates(3, 36), Granularity::Model, 1));
    let state = Fit::new(&small, options(adamw(), 0.1, 5), None).unwrap().state().clone();
    assert!(Fit::resume(&large, options(adamw(), 0.1, 5), state.clone()).is_err());
    assert!(Fit::resume(&small, options(sgd(), 0.1, 5), state.clone()).is_err());
    let mut other_seed = options(adamw(), 0.1, 5);
    other_seed.seed = 8;
    assert!(Fit::resume(&small, other_seed, state).unwrap_err().to_string().contains("seed 7"));
}

proptest! {
    #[test]
    fn a_state_survives_its_bytes_and_no_damage_goes_unseen(seed: u64, len in 0_usize..40, flip: prop::sample::Index) {
        let mut random = Random(seed);
        let mut numbers = |count: usize| -> Vec<f64> { (0..count).map(|_| random.gaussian()).collect() };
        let state = FitState {
            step: seed,
            seed: !seed,
            theta: numbers(len),
            first_moment: numbers(len),
            second_moment: numbers(if seed.is_multiple_of(2) { len } else { 0 }),
        };
        let mut bytes = state.to_bytes();
        prop_assert_eq!(&FitState::from_bytes(&bytes).unwrap(), &state);
        prop_assert!(FitState::from_bytes(&bytes[..flip.index(bytes.len())]).is_err());
        let place = flip.index(bytes.len());
        bytes[place] ^= 1;
        prop_assert!(FitState::from_bytes(&bytes).is_err());
    }

    #[test]
    fn no_bytes_make_the_state_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(FitState::from_bytes(&bytes).is_err());
    }
}
