use serde_json::json;

use super::*;
use crate::output;

#[test]
fn a_report_is_a_line_for_each_method() {
    let evaluation = |method: &str, loss: f64| {
        json!({"method": method, "select": {"loss": loss, "accuracy": 0.9123}, "test": {"loss": loss + 0.01, "accuracy": 0.9},
            "select_difference_from_uniform": [-0.01, 0.002]})
    };
    let report: Report = serde_json::from_value(json!({
        "chosen": "twa", "verdict": "averaging gained", "evaluations": [evaluation("uniform", 0.31), evaluation("twa", 0.2987)],
        "best_step": 10, "steps": 20, "as_fitted_select_loss": 0.3, "fit_samples": 8, "select_samples": 2,
        "select_overlaps_fit": false, "not_averaged": [], "phases": [], "projection_bytes": 1, "projection_cached": false
    }))
    .unwrap();
    insta::assert_snapshot!(output::list(REPORT_COLUMNS, report_rows(&report), false));
}
