//! Datasets with labels, with targets and with tokens, and what a job may do with each.

use axum::{body::Body, http::Request};
use barycenter_api::{Dataset, DatasetKind, Job, ObjectiveSpec, ValidatedJob};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    harness::{
        TestApp,
        files::{TestTensor, dataset, f32s, raw, safetensors, safetensors_with},
    },
    scene::Scene,
};

fn tokens(dtype: &'static str, shape: &[usize], width: usize) -> TestTensor {
    raw("tokens", dtype, shape, vec![0; width * shape.iter().product::<usize>()])
}

/// Ten samples of two features, three numbers each: what the scene's network takes.
fn targets(count: usize) -> Vec<u8> {
    let inputs = f32s("inputs", &[10, 2], (0..20).map(|i| i as f32 / 10.0));
    safetensors(&[inputs, f32s("targets", &[10, count], vec![0.5; 10 * count])])
}

#[sqlx::test]
async fn a_dataset_of_each_kind_is_stored_and_told(pool: PgPool) {
    let app = TestApp::new(pool);
    for (name, file, kind, samples, shape, dtype, target_count) in [
        ("labels", dataset(5), DatasetKind::Labels, 5, vec![3, 4, 4], "U8", None),
        ("targets", targets(3), DatasetKind::Targets, 10, vec![2], "F32", Some(3)),
        ("i64", safetensors(&[tokens("I64", &[4, 9], 8)]), DatasetKind::Tokens, 4, vec![8], "I64", None),
        ("i32", safetensors(&[tokens("I32", &[4, 9], 4)]), DatasetKind::Tokens, 4, vec![8], "I32", None),
        ("u16", safetensors(&[tokens("U16", &[4, 2], 2)]), DatasetKind::Tokens, 4, vec![1], "U16", None),
    ] {
        let path = format!("/v1/datasets/{name}");
        let stored: Dataset = app.put(&path, file.clone()).await.json(201);
        assert_eq!((stored.kind, stored.sample_count, stored.target_count), (kind, samples, target_count), "{name}");
        assert_eq!((&stored.input_shape, stored.input_dtype.as_str()), (&shape, dtype), "{name}");
        assert_eq!(json!(app.get(&path).await.json::<Dataset>(200)), json!(stored));
        assert_eq!(app.get(&format!("{path}/content")).await.body, file);
    }
    app.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_file_of_no_kind_is_refused_by_tensor(pool: PgPool) {
    let app = TestApp::new(pool);
    let inputs = || f32s("inputs", &[2, 3], [0.0; 6]);
    let labels = || raw("labels", "I64", &[2], vec![0; 16]);
    let rows = || f32s("targets", &[2, 1], [0.0; 2]);
    for (tensors, named) in [
        (vec![inputs(), f32s("targets", &[2], [0.0; 2])], "targets"),
        (vec![inputs(), f32s("targets", &[3, 1], [0.0; 3])], "targets"),
        (vec![inputs(), raw("targets", "F64", &[2, 1], vec![0; 16])], "targets"),
        (vec![inputs(), f32s("targets", &[2, 0], [])], "targets"),
        (vec![inputs(), rows(), labels()], "targets"),
        (vec![rows()], "inputs"),
        (vec![inputs(), labels(), f32s("mask", &[2], [0.0; 2])], "mask"),
        (vec![tokens("I64", &[4], 8)], "tokens"),
        (vec![tokens("I64", &[4, 1], 8)], "tokens"),
        (vec![tokens("I64", &[0, 5], 8)], "tokens"),
        (vec![tokens("U8", &[4, 5], 1)], "tokens"),
        (vec![f32s("tokens", &[1, 2], [0.0; 2])], "tokens"),
        (vec![tokens("I64", &[4, 5], 8), inputs()], "inputs"),
    ] {
        let problem = app.put("/v1/datasets/val", safetensors(&tensors)).await.problem(422, "invalid_file");
        assert_eq!(problem.errors[0].field, named, "{problem:?}");
    }
    let poisoned = [inputs(), f32s("targets", &[2, 1], [0.0, f32::NAN])];
    let problem = app.put("/v1/datasets/val", safetensors(&poisoned)).await.problem(422, "not_finite");
    assert_eq!(problem.errors[0].field, "targets");
    for padding in ["-1", "eos", "4294967295"] {
        let file = safetensors_with(&[tokens("I64", &[4, 5], 8)], &json!({ "padding_token": padding }));
        let problem = app.put("/v1/datasets/val", file).await.problem(422, "invalid_file");
        assert_eq!(problem.errors[0].field, "padding_token", "{problem:?}");
    }
    for field in ["scale", "mean", "std"] {
        let path = format!("/v1/datasets/val?{field}=1");
        let problem = app.put(&path, safetensors(&[tokens("U16", &[4, 5], 2)])).await.problem(422, "invalid_field");
        assert_eq!(problem.errors[0].field, field, "{problem:?}");
    }
    app.assert_nothing_stored().await;
}

#[sqlx::test]
async fn a_file_of_no_kind_is_refused_before_its_body(pool: PgPool) {
    let app = TestApp::new(pool);
    let file = safetensors(&[tokens("U8", &[1 << 10, 32], 1)]);
    let header = file[..file.len() - (32 << 10)].to_vec();
    // The body never comes.
    let body = stream::iter([Ok::<_, std::io::Error>(header)]).chain(stream::pending());
    let request = Request::put("/v1/datasets/val").header("content-length", file.len());
    let problem = app.send(request.body(Body::from_stream(body)).unwrap()).await.problem(422, "invalid_file");
    assert_eq!(problem.errors[0].field, "tokens");
    app.assert_nothing_stored().await;
}

#[sqlx::test]
async fn an_absent_objective_is_that_of_the_fit_data(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.app.put("/v1/datasets/numbers", targets(3)).await.json::<Value>(201);
    let classes: Job = scene.app.post("/v1/jobs", scene.spec()).await.json(202);
    assert_eq!(classes.spec.objective, Some(ObjectiveSpec::CrossEntropy { label_smoothing: 0.0 }));
    let mut spec = scene.spec();
    spec["data"] = json!({"fit": "numbers", "test": "numbers"});
    let numbers: Job = scene.app.post("/v1/jobs", spec.clone()).await.json(202);
    assert_eq!(numbers.spec.objective, Some(ObjectiveSpec::SquaredError {}));
    assert_eq!(numbers.estimate.dataset_bytes, targets(3).len() as u64);
    spec["objective"] = json!({"kind": "squared_error"});
    let told: ValidatedJob = scene.app.post("/v1/jobs?validate_only=true", spec).await.json(200);
    assert_eq!(told.spec, numbers.spec);
}

#[sqlx::test]
async fn data_network_and_objective_that_do_not_belong_together_are_refused_by_field(pool: PgPool) {
    let scene = Scene::new(pool).await;
    for (name, file) in [
        ("numbers", targets(3)),
        ("pairs", targets(2)),
        ("text", safetensors(&[tokens("U16", &[4, 3], 2)])),
        ("images", dataset(5)),
    ] {
        scene.app.put(&format!("/v1/datasets/{name}"), file).await.json::<Value>(201);
    }
    let resnet = json!({"kind": "resnet_cifar", "depth": 8, "classes": 3});
    let mlp = json!({"kind": "mlp", "features": [2, 3]});
    let objective = |kind: &str| json!({"kind": kind});
    for (network, data, objective, fields) in [
        (&mlp, json!({"fit": "validation"}), objective("squared_error"), vec!["objective.kind"]),
        (&mlp, json!({"fit": "validation"}), objective("next_token"), vec!["objective.kind"]),
        (&mlp, json!({"fit": "numbers"}), objective("cross_entropy"), vec!["objective.kind"]),
        (
            &mlp,
            json!({"fit": "numbers"}),
            json!({"kind": "next_token", "label_smoothing": 1.0}),
            vec!["objective.label_smoothing", "objective.kind"],
        ),
        (&mlp, json!({"fit": "numbers", "augmentation": {"flip": true}}), Value::Null, vec!["data.augmentation"]),
        (&mlp, json!({"fit": "pairs"}), Value::Null, vec!["data.fit"]),
        (&mlp, json!({"fit": "text"}), Value::Null, vec!["data.fit"]),
        (&mlp, json!({"fit": "text"}), objective("next_token"), vec!["data.fit"]),
        (&mlp, json!({"fit": "text"}), objective("cross_entropy"), vec!["data.fit", "objective.kind"]),
        (&resnet, json!({"fit": "text"}), objective("next_token"), vec!["network", "data.fit"]),
        (&resnet, json!({"fit": "images"}), objective("next_token"), vec!["network", "objective.kind"]),
        (&mlp, json!({"fit": "validation", "select": "numbers"}), Value::Null, vec!["data.select"]),
        (&mlp, json!({"fit": "numbers", "test": "validation"}), Value::Null, vec!["data.test"]),
        (
            &mlp,
            json!({"fit": "numbers", "select": "text", "test": "pairs"}),
            Value::Null,
            vec!["data.select", "data.test"],
        ),
    ] {
        let mut spec = scene.spec();
        (spec["network"], spec["data"], spec["objective"]) = (network.clone(), data, objective);
        let problem = scene.app.post("/v1/jobs", spec.clone()).await.problem(422, "invalid_field");
        let named: Vec<&str> = problem.errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(named, fields, "{spec}: {}", problem.detail);
    }
    let mut spec = scene.spec();
    spec["batch_norm"] = json!({"dataset": "numbers"});
    let problem = scene.app.post("/v1/jobs", spec).await.problem(422, "invalid_field");
    assert_eq!(problem.errors[0].field, "batch_norm.dataset");
    assert!(problem.detail.contains("`numbers` has `targets`"), "{}", problem.detail);
    assert_eq!(scene.app.count("jobs").await, 0);
}
