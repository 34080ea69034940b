//! The numbers of a spec, which need nothing but themselves.

use barycenter_api::{Basis, Constraint, Granularity, MethodSpec, OptimiserSpec, PoolingSpec, ScheduleSpec, TwaSpec};

use super::Faults;

const BITS: [u8; 5] = [1, 2, 4, 8, 32];
const MAX_EPOCHS: u32 = 1000;
const MAX_BATCH_SIZE: u32 = 65_536;
const MAX_RANKS: u32 = 64;
/// Steps that a fit comes nearest to where nobody says how many passes it makes.
const DEFAULT_STEPS: f64 = 200.0;
const DEFAULT_EPOCHS: std::ops::RangeInclusive<f64> = 1.0..=20.0;
/// Samples a batch of evaluation where the method has no batches of its own.
const EVALUATION_BATCH: usize = 128;
/// One block moves the whole model, so its rate may be larger (measured on the ResNet-20 test case).
const SGD_RATE_OF_ONE_BLOCK: f64 = 0.1;
const SGD_RATE_OF_MANY_BLOCKS: f64 = 0.01;

/// What of a method a job's memory depends on.
pub(super) struct MethodSizes {
    pub(super) granularity: Granularity,
    pub(super) bits: u8,
    pub(super) batch_size: usize,
    pub(super) ranks: usize,
}

/// Fills in the passes over so many samples, and says what memory depends on.
pub(super) fn sizes(method: &mut MethodSpec, fit_samples: u64) -> MethodSizes {
    let MethodSpec::Twa(twa) = method else {
        return MethodSizes { granularity: Granularity::Model, bits: 1, batch_size: EVALUATION_BATCH, ranks: 1 };
    };
    let steps_per_epoch = fit_samples.div_ceil(u64::from(twa.batch_size)).max(1) as f64;
    let epochs = (DEFAULT_STEPS / steps_per_epoch).round().clamp(*DEFAULT_EPOCHS.start(), *DEFAULT_EPOCHS.end());
    twa.epochs.get_or_insert(epochs as u32);
    MethodSizes {
        granularity: twa.granularity,
        bits: twa.bits,
        batch_size: twa.batch_size as usize,
        ranks: twa.ranks as usize,
    }
}

/// Checks the method; `candidates` is their number, where the set is known.
pub(super) fn resolve(method: &mut MethodSpec, candidates: Option<usize>, faults: &mut Faults) {
    match method {
        MethodSpec::Twa(twa) => resolve_twa(twa, faults),
        MethodSpec::Fixed { weights } => {
            const FIELD: &str = "method.weights";
            let sound = candidates.is_none_or(|n| n == weights.len());
            let n = candidates.unwrap_or_default();
            faults.check(sound, FIELD, || format!("{} weights do not fit {n} candidates", weights.len()));
            let sum: f64 = weights.iter().sum();
            let sound = weights.iter().all(|weight| weight.is_finite()) && sum.abs() >= f64::EPSILON;
            faults.check(sound, FIELD, || "must be finite numbers that do not sum to 0".into());
        }
        MethodSpec::Ema { decay } => check_unit(*decay, "method.decay", faults),
        MethodSpec::Uniform {}
        | MethodSpec::Schedule { .. }
        | MethodSpec::BestSuffix {}
        | MethodSpec::Greedy {}
        | MethodSpec::LineSearch {} => {}
    }
}

fn resolve_twa(twa: &mut TwaSpec, faults: &mut Faults) {
    faults.check(BITS.contains(&twa.bits), "method.bits", || format!("must be 1, 2, 4, 8 or 32, not {}", twa.bits));
    if let Some(epochs) = twa.epochs {
        check_count(epochs, MAX_EPOCHS, "method.epochs", faults);
    }
    check_count(twa.batch_size, MAX_BATCH_SIZE, "method.batch_size", faults);
    check_count(twa.ranks, MAX_RANKS.min(twa.batch_size.max(1)), "method.ranks", faults);
    faults.check(twa.history_every >= 1, "method.history_every", || "must be at least 1".into());
    faults.check(twa.patience != Some(0), "method.patience", || "must be at least 1".into());
    let clip = twa.clip_norm.unwrap_or(1.0);
    faults.check(is_above_zero(clip), "method.clip_norm", || format!("must be above 0, not {clip}"));
    let rho = twa.sam_rho;
    faults.check(is_not_negative(rho), "method.sam_rho", || format!("must be at least 0, not {rho}"));
    let default = if twa.granularity == Granularity::Model { SGD_RATE_OF_ONE_BLOCK } else { SGD_RATE_OF_MANY_BLOCKS };
    check_optimiser(&mut twa.optimiser, default, faults);
    if let ScheduleSpec::Cosine { warm_up } | ScheduleSpec::Linear { warm_up } = twa.schedule {
        let sound = (0.0..=1.0).contains(&warm_up);
        faults.check(sound, "method.schedule.warm_up", || format!("must lie in [0, 1], not {warm_up}"));
    }
    resolve_form(twa, faults);
}

/// Pools what can be pooled, and checks that the parts of the form go together.
fn resolve_form(twa: &mut TwaSpec, faults: &mut Faults) {
    if let PoolingSpec::Partial { strength } = twa.pooling {
        let sound = is_not_negative(strength);
        faults.check(sound, "method.pooling.strength", || format!("must be at least 0, not {strength}"));
    }
    if twa.basis == Basis::Orthonormal {
        let sound = twa.constraint != Constraint::Convex;
        faults.check(sound, "method.basis", || "`orthonormal` does not go with convex coefficients".into());
        if twa.pooling == PoolingSpec::default() {
            twa.pooling = PoolingSpec::None {};
        }
        let sound = twa.pooling == PoolingSpec::None {};
        faults.check(sound, "method.pooling", || "blocks share no `orthonormal` basis".into());
    }
}

fn is_above_zero(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

fn is_not_negative(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

/// Checks the optimiser and fills in SGD's rate; that of AdamW depends on the candidates, and a worker finds it.
fn check_optimiser(optimiser: &mut OptimiserSpec, sgd_rate: f64, faults: &mut Faults) {
    let (learning_rate, weight_decay) = match optimiser {
        OptimiserSpec::Adamw { learning_rate, betas, epsilon, weight_decay } => {
            for (index, beta) in betas.iter().enumerate() {
                check_unit(*beta, &format!("method.optimiser.betas.{index}"), faults);
            }
            let sound = is_above_zero(*epsilon);
            faults.check(sound, "method.optimiser.epsilon", || format!("must be above 0, not {epsilon}"));
            (*learning_rate, weight_decay)
        }
        OptimiserSpec::Sgd { learning_rate, momentum, weight_decay } => {
            check_unit(*momentum, "method.optimiser.momentum", faults);
            (Some(*learning_rate.get_or_insert(sgd_rate)), weight_decay)
        }
    };
    if let Some(rate) = learning_rate {
        let sound = is_above_zero(rate);
        faults.check(sound, "method.optimiser.learning_rate", || format!("must be above 0, not {rate}"));
    }
    let sound = is_not_negative(*weight_decay);
    faults.check(sound, "method.optimiser.weight_decay", || format!("must be at least 0, not {weight_decay}"));
}

fn check_count(value: u32, most: u32, field: &str, faults: &mut Faults) {
    faults.check((1..=most).contains(&value), field, || format!("must be 1 to {most}, not {value}"));
}

pub(super) fn check_unit(value: f64, field: &str, faults: &mut Faults) {
    faults.check((0.0..1.0).contains(&value), field, || format!("must lie in [0, 1), not {value}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty_fields(change: impl FnOnce(&mut TwaSpec)) -> Vec<String> {
        let mut twa = TwaSpec::default();
        change(&mut twa);
        faults_of(MethodSpec::Twa(Box::new(twa)))
    }

    fn faults_of(mut method: MethodSpec) -> Vec<String> {
        let mut faults = Faults::default();
        resolve(&mut method, Some(3), &mut faults);
        faults.0.into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn the_defaults_are_sound() {
        assert!(faulty_fields(|_| {}).is_empty());
    }

    #[test]
    fn every_number_out_of_bounds_is_named() {
        for bits in [0, 3, 16, 33] {
            assert_eq!(faulty_fields(|twa| twa.bits = bits), ["method.bits"]);
        }
        for epochs in [0, 1001] {
            assert_eq!(faulty_fields(|twa| twa.epochs = Some(epochs)), ["method.epochs"]);
        }
        for batch_size in [0, 65_537] {
            assert_eq!(faulty_fields(|twa| twa.batch_size = batch_size), ["method.batch_size"]);
        }
        for ranks in [0, 65] {
            assert_eq!(faulty_fields(|twa| twa.ranks = ranks), ["method.ranks"]);
        }
        assert_eq!(faulty_fields(|twa| (twa.batch_size, twa.ranks) = (8, 9)), ["method.ranks"]);
        assert_eq!(faulty_fields(|twa| twa.history_every = 0), ["method.history_every"]);
        assert_eq!(faulty_fields(|twa| twa.patience = Some(0)), ["method.patience"]);
        assert_eq!(faulty_fields(|twa| twa.clip_norm = Some(0.0)), ["method.clip_norm"]);
        assert_eq!(faulty_fields(|twa| twa.sam_rho = f64::NAN), ["method.sam_rho"]);
        let strength = -1.0;
        assert_eq!(faulty_fields(|twa| twa.pooling = PoolingSpec::Partial { strength }), ["method.pooling.strength"]);
        for warm_up in [-0.1, 1.1, f64::NAN] {
            for schedule in [ScheduleSpec::Cosine { warm_up }, ScheduleSpec::Linear { warm_up }] {
                assert_eq!(faulty_fields(|twa| twa.schedule = schedule), ["method.schedule.warm_up"]);
            }
        }
        let fields = faulty_fields(|twa| {
            twa.optimiser =
                OptimiserSpec::Adamw { learning_rate: Some(0.0), betas: [1.0, -0.5], epsilon: 0.0, weight_decay: -1.0 };
        });
        let of_optimiser = ["betas.0", "betas.1", "epsilon", "learning_rate", "weight_decay"];
        assert_eq!(fields, of_optimiser.map(|name| format!("method.optimiser.{name}")));
        let fields = faulty_fields(|twa| {
            twa.optimiser = OptimiserSpec::Sgd { learning_rate: Some(f64::INFINITY), momentum: 1.0, weight_decay: 0.0 };
        });
        assert_eq!(fields, ["method.optimiser.momentum", "method.optimiser.learning_rate"]);
    }

    #[test]
    fn rules_are_checked_against_the_candidates() {
        assert!(faults_of(MethodSpec::Fixed { weights: vec![1.0, 2.0, 0.0] }).is_empty());
        for weights in [vec![1.0], vec![1.0, -1.0, 0.0], vec![1.0, f64::NAN, 1.0]] {
            assert_eq!(faults_of(MethodSpec::Fixed { weights }), ["method.weights"]);
        }
        assert_eq!(faults_of(MethodSpec::Ema { decay: 1.0 }), ["method.decay"]);
        assert!(faults_of(MethodSpec::Greedy {}).is_empty());
    }

    #[test]
    fn an_orthonormal_basis_is_neither_pooled_nor_convex() {
        let mut method = MethodSpec::Twa(Box::new(TwaSpec { basis: Basis::Orthonormal, ..TwaSpec::default() }));
        resolve(&mut method, Some(3), &mut Faults::default());
        let MethodSpec::Twa(twa) = method else { unreachable!("it was one") };
        assert_eq!(twa.pooling, PoolingSpec::None {}, "the default gives way");
        let fields = faulty_fields(|twa| {
            (twa.basis, twa.constraint) = (Basis::Orthonormal, Constraint::Convex);
            twa.pooling = PoolingSpec::Partial { strength: 1.0 };
        });
        assert_eq!(fields, ["method.basis", "method.pooling"]);
    }

    #[test]
    fn a_fit_makes_about_two_hundred_steps_unless_told() {
        let epochs_of = |epochs, samples| {
            let mut method = MethodSpec::Twa(Box::new(TwaSpec { epochs, ..TwaSpec::default() }));
            sizes(&mut method, samples);
            let MethodSpec::Twa(twa) = method else { unreachable!("it was one") };
            twa.epochs
        };
        for (samples, epochs) in [(100, 20), (5000, 5), (14_000, 2), (1_000_000, 1)] {
            assert_eq!(epochs_of(None, samples), Some(epochs), "{samples} samples");
        }
        assert_eq!(epochs_of(Some(7), 5000), Some(7));
    }

    #[test]
    fn the_learning_rate_of_sgd_depends_on_the_granularity_unless_told() {
        for (granularity, given, expected) in [
            (Granularity::Model, None, 0.1),
            (Granularity::Tensor, None, 0.01),
            (Granularity::Elements(4096), None, 0.01),
            (Granularity::Model, Some(0.5), 0.5),
        ] {
            let optimiser = OptimiserSpec::Sgd { learning_rate: given, momentum: 0.9, weight_decay: 0.0 };
            let mut twa = TwaSpec { granularity, optimiser, ..TwaSpec::default() };
            resolve_twa(&mut twa, &mut Faults::default());
            let expected = OptimiserSpec::Sgd { learning_rate: Some(expected), momentum: 0.9, weight_decay: 0.0 };
            assert_eq!(twa.optimiser, expected);
        }
    }
}
