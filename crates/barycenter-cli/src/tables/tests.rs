use barycenter_api::History;
use serde_json::json;

use super::*;
use crate::output;

const ID: &str = "0190f3a8-0000-7000-8000-000000000001";

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

#[test]
fn a_history_in_csv_has_every_number_to_the_last_bit() {
    let third = 1.0_f64 / 3.0;
    let history: History = serde_json::from_value(json!({
        "candidates": [{"checkpoint_id": ID, "step": 5}, {"checkpoint_id": ID, "step": 6}], "blocks": ["a", "b, c"],
        "snapshots": [{"step": 0, "epoch": 0.0, "learning_rate": 0.1, "fit_loss": null, "select_loss": 0.5,
            "coefficients": [[third, 0.5], [1.0 - third, 0.5]]}]
    }))
    .unwrap();
    let text = csv_page(&history, true).unwrap();
    insta::assert_snapshot!(text);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let first = reader.records().next().unwrap().unwrap();
    assert_eq!(first[8].parse::<f64>().unwrap().to_bits(), third.to_bits());
    assert_eq!(csv_page(&history, false).unwrap().lines().count(), 4);
}
