//! Datasets.

use barycenter_api::{Dataset, Page};
use serde_json::json;
use sqlx::PgPool;

use crate::harness::{
    TestApp,
    files::{dataset, f32s, raw, safetensors},
};

#[sqlx::test]
async fn a_dataset_is_found_by_id_and_by_name_and_read_back(pool: PgPool) {
    let app = TestApp::new(pool);
    let stored: Dataset = app.put("/v1/datasets/val", dataset(5)).await.json(201);
    assert_eq!(
        (stored.sample_count, stored.input_shape.as_slice(), stored.input_dtype.as_str()),
        (5, &[3, 4, 4][..], "U8")
    );
    assert_eq!(json!(stored.normalisation), json!({ "scale": 1.0 / 255.0, "mean": [0.5, 0.4, 0.3], "std": [0.2] }));
    for path in ["/v1/datasets/val".to_owned(), format!("/v1/datasets/{}", stored.dataset_id)] {
        assert_eq!(json!(app.get(&path).await.json::<Dataset>(200)), json!(stored));
        assert_eq!(app.get(&format!("{path}/content")).await.body, dataset(5));
    }
    let page: Page<Dataset> = app.get("/v1/datasets").await.json(200);
    assert_eq!(page.items.len(), 1);
}

#[sqlx::test]
async fn the_same_dataset_again_is_no_error_and_another_is(pool: PgPool) {
    let app = TestApp::new(pool);
    let stored: Dataset = app.put("/v1/datasets/val", dataset(5)).await.json(201);
    let again: Dataset = app.put("/v1/datasets/val", dataset(5)).await.json(200);
    assert_eq!(again.dataset_id, stored.dataset_id);
    app.put("/v1/datasets/val", dataset(6)).await.problem(409, "dataset_differs");
    let problem = app.put("/v1/datasets/val?std=0.3", dataset(5)).await.problem(409, "dataset_differs");
    assert!(problem.detail.contains("normalisation"), "{problem:?}");
    // Equal files under two names are one blob.
    let twin: Dataset = app.put("/v1/datasets/twin?scale=2&mean=0&std=1", dataset(5)).await.json(201);
    assert_eq!(json!(twin.normalisation), json!({ "scale": 2.0, "mean": [0.0], "std": [1.0] }));
    assert_eq!((app.count("datasets").await, app.count("blobs").await), (2, 1));
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_file_that_is_no_dataset_is_refused_by_tensor(pool: PgPool) {
    let app = TestApp::new(pool);
    let labels = |n: usize| raw("labels", "I64", &[n], vec![0; 8 * n]);
    for (tensors, named) in [
        (vec![labels(2)], "inputs"),
        (vec![f32s("inputs", &[2, 3], [0.0; 6])], "labels"),
        (vec![f32s("inputs", &[2, 3], [0.0; 6]), labels(3)], "labels"),
        (vec![f32s("inputs", &[2, 3, 1], [0.0; 6]), labels(2)], "inputs"),
        (vec![f32s("inputs", &[0, 3], []), labels(0)], "inputs"),
        (vec![raw("inputs", "I64", &[2, 1], vec![0; 16]), labels(2)], "inputs"),
        (vec![f32s("inputs", &[2, 3], [0.0; 6]), f32s("labels", &[2], [0.0; 2])], "labels"),
    ] {
        let problem = app.put("/v1/datasets/val", safetensors(&tensors)).await.problem(422, "invalid_file");
        assert!(problem.detail.contains(named), "{problem:?}");
    }
    let poisoned = [f32s("inputs", &[1, 2], [0.0, f32::INFINITY]), labels(1)];
    app.put("/v1/datasets/val", safetensors(&poisoned)).await.problem(422, "not_finite");
    app.assert_nothing_stored().await;
}

#[sqlx::test]
async fn a_bad_name_or_normalisation_is_refused_by_field(pool: PgPool) {
    let app = TestApp::new(pool);
    for (path, field) in [
        ("0190f3a8-0000-7000-8000-000000000001", "dataset"),
        ("a%20b", "dataset"),
        ("val?scale=1/0", "scale"),
        ("val?mean=0,0", "mean"),
        ("val?std=0", "std"),
        ("val?std=nan", "std"),
    ] {
        let problem = app.put(&format!("/v1/datasets/{path}"), dataset(2)).await.problem(422, "invalid_field");
        assert_eq!(problem.errors[0].field, field, "{problem:?}");
    }
    app.put("/v1/datasets/val?sdt=1", dataset(2)).await.problem(400, "invalid_query");
    app.assert_nothing_stored().await;
}
