//! A fit that several ranks share comes to what one alone comes to.

use barycenter_core::fit::Sharding;

use super::*;

const SHARDINGS: [Sharding; 2] = [Sharding::Replicated, Sharding::Columns];

fn shared(twa: TwaOptions, ranks: usize, sharding: Sharding) -> AverageOptions {
    with(Method::Twa(TwaOptions { ranks, sharding, ..twa }))
}

fn assert_near(found: &[f64], wanted: &[f64], what: &str) {
    let distance = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    // Each rank rounds its own gradient where it projects it.
    assert!(distance < 1e-4, "{what}: {distance:e}");
}

#[test]
fn ranks_that_share_every_batch_come_to_the_coefficients_of_one() {
    let candidates = noisy(&[0.1, 0.3, 0.5, 0.2]);
    for constraint in [Constraint::Affine, Constraint::Linear] {
        let form = Form { constraint, ..Form::default() };
        let twa = TwaOptions { form, sam_rho: 0.1, ..plain() };
        let alone = run(&candidates, with(Method::Twa(twa.clone())), None, &mut Silent).unwrap();
        // The last batch of an epoch holds 12 samples: of 16 ranks, 4 have none of it.
        for ranks in [2, 3, 16] {
            for sharding in SHARDINGS {
                let outcome = run(&candidates, shared(twa.clone(), ranks, sharding), None, &mut Silent).unwrap();
                let what = format!("{constraint:?}, {ranks} ranks, {sharding:?}");
                assert_near(&outcome.coefficients, &alone.coefficients, &what);
                assert_eq!(outcome.fit.unwrap().ranks, ranks);
            }
        }
    }
}

#[test]
fn a_shared_fit_stopped_anywhere_and_resumed_ends_with_the_bits_of_one_that_was_not() {
    let candidates = noisy(&[0.1, 0.3, 0.5, 0.2]);
    for sharding in SHARDINGS {
        let options = || shared(plain(), 3, sharding);
        let undisturbed = run(&candidates, options(), None, &mut Silent).unwrap();
        for stop_after in [1, 10, 59] {
            let mut stopped = StopAfter { stop_after, state: None };
            assert!(matches!(run(&candidates, options(), None, &mut stopped), Err(Error::Stopped)));
            let state = State::from_bytes(&stopped.state.unwrap()).unwrap();
            let resumed = run(&candidates, options(), Some(state), &mut Silent).unwrap();
            assert_eq!(resumed.coefficients, undisturbed.coefficients, "{sharding:?}, stopped after {stop_after}");
        }
    }
}

#[test]
fn a_step_that_fails_on_the_ranks_fails_the_job_with_its_reason() {
    let candidates = noisy(&[0.1, 0.3, 0.5]);
    for sharding in SHARDINGS {
        let twa = TwaOptions { learning_rate: Some(1e30), ..plain() };
        let error = run(&candidates, shared(twa, 4, sharding), None, &mut Silent).unwrap_err();
        assert!(error.to_string().contains("not finite") || error.to_string().contains("the loss is"), "{error}");
    }
}
