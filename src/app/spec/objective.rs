//! The loss of a spec, which goes with the kind of its data.

use barycenter_api::ObjectiveSpec;

use super::{Faults, method::check_unit};
use crate::domain::dataset::DatasetKind;

/// Checks the loss's numbers.
pub(super) fn check(objective: Option<&ObjectiveSpec>, faults: &mut Faults) {
    let smoothing = match objective {
        Some(ObjectiveSpec::CrossEntropy { label_smoothing } | ObjectiveSpec::NextToken { label_smoothing }) => {
            *label_smoothing
        }
        Some(ObjectiveSpec::SquaredError {}) | None => 0.0,
    };
    check_unit(smoothing, "objective.label_smoothing", faults);
}

/// Checks the loss against the fit data, and fills it in where there is none.
pub(super) fn resolve(objective: &mut Option<ObjectiveSpec>, fit: &str, kind: DatasetKind, faults: &mut Faults) {
    let given = objective.get_or_insert_with(|| match kind {
        DatasetKind::Labels => ObjectiveSpec::CrossEntropy { label_smoothing: 0.0 },
        DatasetKind::Targets { .. } => ObjectiveSpec::SquaredError {},
        DatasetKind::Tokens => ObjectiveSpec::NextToken { label_smoothing: 0.0 },
    });
    let (name, needed) = match given {
        ObjectiveSpec::CrossEntropy { .. } => ("cross_entropy", "labels"),
        ObjectiveSpec::SquaredError {} => ("squared_error", "targets"),
        ObjectiveSpec::NextToken { .. } => ("next_token", "tokens"),
    };
    faults.check(needed == kind.name(), "objective.kind", || {
        format!("`{name}` needs a dataset with `{needed}`; `{fit}` has `{}`", kind.name())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [DatasetKind; 3] = [DatasetKind::Labels, DatasetKind::Targets { count: 2 }, DatasetKind::Tokens];

    #[test]
    fn label_smoothing_must_leave_the_label_something() {
        for label_smoothing in [-0.1, 1.0, f64::NAN] {
            for objective in
                [ObjectiveSpec::CrossEntropy { label_smoothing }, ObjectiveSpec::NextToken { label_smoothing }]
            {
                let mut faults = Faults::default();
                check(Some(&objective), &mut faults);
                assert_eq!(faults.0[0].field, "objective.label_smoothing");
            }
        }
    }

    #[test]
    fn an_absent_objective_follows_the_kind_of_the_fit_data() {
        let expected = [
            ObjectiveSpec::CrossEntropy { label_smoothing: 0.0 },
            ObjectiveSpec::SquaredError {},
            ObjectiveSpec::NextToken { label_smoothing: 0.0 },
        ];
        for (kind, expected) in KINDS.into_iter().zip(expected) {
            let (mut objective, mut faults) = (None, Faults::default());
            resolve(&mut objective, "val", kind, &mut faults);
            assert_eq!(objective, Some(expected));
            assert!(faults.0.is_empty());
        }
    }

    #[test]
    fn an_objective_of_another_kind_is_refused() {
        for (at, kind) in KINDS.into_iter().enumerate() {
            for (other, objective) in [
                ObjectiveSpec::CrossEntropy { label_smoothing: 0.1 },
                ObjectiveSpec::SquaredError {},
                ObjectiveSpec::NextToken { label_smoothing: 0.1 },
            ]
            .into_iter()
            .enumerate()
            {
                let mut faults = Faults::default();
                resolve(&mut Some(objective), "val", kind, &mut faults);
                let fields: Vec<&str> = faults.0.iter().map(|fault| fault.field.as_str()).collect();
                assert_eq!(fields, if at == other { vec![] } else { vec!["objective.kind"] });
            }
        }
    }
}
