use serde_json::{Value, json};

use super::*;
use crate::output;

const ID: &str = "0190f3a8-0000-7000-8000-000000000001";
const TIME: &str = "2026-01-01T00:00:00Z";

fn evaluation(method: &str, loss: f64, accuracy: Option<f64>) -> Value {
    let evaluated = |loss: f64| accuracy.map_or(json!({"loss": loss}), |a| json!({"loss": loss, "accuracy": a}));
    json!({"method": method, "select": evaluated(loss), "test": evaluated(loss + 0.01),
        "select_difference_from_uniform": [-0.01, 0.002]})
}

fn job(objective: &Value, accuracy: Option<f64>) -> Job {
    let mut evaluations = vec![evaluation("uniform", 0.31, accuracy), evaluation("twa", 0.2987, accuracy)];
    evaluations[0].as_object_mut().unwrap().remove("test");
    let spec = json!({"candidate_set_id": ID, "network": {"kind": "mlp", "features": [2, 3]}, "data": {"fit": "val"},
        "objective": objective});
    let estimate = json!({"projection_bytes": 1, "vector_bytes": 1, "activation_bytes": 1, "dataset_bytes": 1,
        "process_bytes": 1, "total_bytes": 5});
    let report = json!({
        "chosen": "twa", "verdict": "averaging gained", "evaluations": evaluations,
        "fit": {"best_step": 10, "steps": 20, "as_fitted_select_loss": 0.3}, "fit_samples": 8, "select_samples": 2, "select_overlaps_fit": false,
        "not_averaged": [], "phases": [{"phase": "fetch", "seconds": 0.42}, {"phase": "fit", "seconds": 12.0}],
        "projection_bytes": 1,
        "projection": {"projection_key": "p", "source": "extended", "fetched": true, "revisions": 3, "seconds": 0.44}
    });
    serde_json::from_value(json!({
        "job_id": ID, "run_id": ID, "state": "succeeded", "cancel_requested": false, "spec": spec, "estimate": estimate,
        "attempts": [], "report": report, "artifact_id": ID, "created_at": TIME, "finished_at": TIME
    }))
    .unwrap()
}

fn table(objective: &Value, accuracy: Option<f64>) -> String {
    let job = job(objective, accuracy);
    let (columns, rows) = super::report(&job, job.report.as_ref().unwrap());
    output::list(&columns, rows, false)
}

#[test]
fn a_report_is_a_line_for_each_method() {
    let job = job(&json!({"kind": "cross_entropy"}), Some(0.9123));
    assert_eq!(phases(job.report.as_ref().unwrap()), "time: fetch 0.4 s, fit 12.0 s");
    let found = job.report.as_ref().unwrap().projection.as_ref().unwrap();
    let line = "projection: extended, from what the server had, 3 revisions since it was built, 0.4 s";
    assert_eq!(projection(found), line);
    insta::assert_snapshot!(table(&json!({"kind": "cross_entropy"}), Some(0.9123)));
}

#[test]
fn the_candidates_geometry_is_a_line() {
    let geometry = |pairs: serde_json::Value| -> Geometry {
        serde_json::from_value(
            json!({"gram": [[1.0, 0.0], [0.0, 1.0]], "effective_rank": 0.98, "near_duplicates": pairs}),
        )
        .unwrap()
    };
    let pair = json!({"first": ID, "second": ID, "distance": 0.1});
    assert_eq!(super::geometry(&geometry(json!([]))), "candidates: effective rank 1.0 of 1, no near-duplicates");
    assert!(super::geometry(&geometry(json!([pair]))).ends_with(&format!("near-duplicates: {ID} and {ID}")));
    assert!(super::geometry(&geometry(json!([pair, pair]))).contains("2 pairs of near-duplicates, the closest"));
}

#[test]
fn a_report_of_a_regression_has_a_dash_for_each_accuracy() {
    insta::assert_snapshot!(table(&json!({"kind": "squared_error"}), None));
}

#[test]
fn a_report_of_tokens_has_perplexities() {
    insta::assert_snapshot!(table(&json!({"kind": "next_token"}), Some(0.5)));
}
