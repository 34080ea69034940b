//! The numbers of a spec, which need nothing but themselves.

use barycenter_api::{Granularity, OptimiserSpec, ScheduleSpec, TwaSpec};

use super::Faults;

const BITS: [u8; 5] = [1, 2, 4, 8, 32];
const MAX_EPOCHS: u32 = 1000;
const MAX_BATCH_SIZE: u32 = 65_536;
/// One block moves the whole model, so its rate may be larger (measured on the ResNet-20 test case).
const RATE_OF_ONE_BLOCK: f64 = 0.1;
const RATE_OF_MANY_BLOCKS: f64 = 0.01;

/// Checks the method and fills in the learning rate.
pub(super) fn resolve(twa: &mut TwaSpec, faults: &mut Faults) {
    faults.check(BITS.contains(&twa.bits), "method.bits", || format!("must be 1, 2, 4, 8 or 32, not {}", twa.bits));
    check_count(twa.epochs, MAX_EPOCHS, "method.epochs", faults);
    check_count(twa.batch_size, MAX_BATCH_SIZE, "method.batch_size", faults);
    faults.check(twa.history_every >= 1, "method.history_every", || "must be at least 1".into());
    let default = if twa.granularity == Granularity::Model { RATE_OF_ONE_BLOCK } else { RATE_OF_MANY_BLOCKS };
    check_optimiser(&mut twa.optimiser, default, faults);
    if let ScheduleSpec::Cosine { warm_up } = twa.schedule {
        let sound = (0.0..=1.0).contains(&warm_up);
        faults.check(sound, "method.schedule.warm_up", || format!("must lie in [0, 1], not {warm_up}"));
    }
}

fn check_optimiser(optimiser: &mut OptimiserSpec, default_rate: f64, faults: &mut Faults) {
    let (learning_rate, weight_decay) = match optimiser {
        OptimiserSpec::Adamw { learning_rate, betas, epsilon, weight_decay } => {
            for (index, beta) in betas.iter().enumerate() {
                check_unit(*beta, &format!("method.optimiser.betas.{index}"), faults);
            }
            let sound = epsilon.is_finite() && *epsilon > 0.0;
            faults.check(sound, "method.optimiser.epsilon", || format!("must be above 0, not {epsilon}"));
            (learning_rate, weight_decay)
        }
        OptimiserSpec::Sgd { learning_rate, momentum, weight_decay } => {
            check_unit(*momentum, "method.optimiser.momentum", faults);
            (learning_rate, weight_decay)
        }
    };
    let rate = *learning_rate.get_or_insert(default_rate);
    let sound = rate.is_finite() && rate > 0.0;
    faults.check(sound, "method.optimiser.learning_rate", || format!("must be above 0, not {rate}"));
    let sound = weight_decay.is_finite() && *weight_decay >= 0.0;
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
        let mut faults = Faults::default();
        resolve(&mut twa, &mut faults);
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
            assert_eq!(faulty_fields(|twa| twa.epochs = epochs), ["method.epochs"]);
        }
        for batch_size in [0, 65_537] {
            assert_eq!(faulty_fields(|twa| twa.batch_size = batch_size), ["method.batch_size"]);
        }
        assert_eq!(faulty_fields(|twa| twa.history_every = 0), ["method.history_every"]);
        for warm_up in [-0.1, 1.1, f64::NAN] {
            let fields = faulty_fields(|twa| twa.schedule = ScheduleSpec::Cosine { warm_up });
            assert_eq!(fields, ["method.schedule.warm_up"]);
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
    fn the_learning_rate_depends_on_the_granularity_unless_told() {
        for (granularity, given, expected) in [
            (Granularity::Model, None, 0.1),
            (Granularity::Tensor, None, 0.01),
            (Granularity::Elements(4096), None, 0.01),
            (Granularity::Model, Some(0.5), 0.5),
        ] {
            let optimiser = OptimiserSpec::Sgd { learning_rate: given, momentum: 0.9, weight_decay: 0.0 };
            let mut twa = TwaSpec { granularity, optimiser, ..TwaSpec::default() };
            resolve(&mut twa, &mut Faults::default());
            let expected = OptimiserSpec::Sgd { learning_rate: Some(expected), momentum: 0.9, weight_decay: 0.0 };
            assert_eq!(twa.optimiser, expected);
        }
    }
}
