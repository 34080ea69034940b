//! What is reported about checkpoints later, pins, and lists in every order.

use barycenter_api::{Checkpoint, Page, Run};
use serde_json::json;
use sqlx::PgPool;

use crate::harness::{TestApp, files::checkpoint};

/// Steps 10, 20, … 60 a minute apart, pushed out of order; step 40 reports nothing.
async fn run_of_six(pool: PgPool) -> TestApp {
    let app = TestApp::new(pool);
    app.create_run("r").await;
    for (step, query) in [
        (30, "?metrics=loss:0.3,acc:0.5&tags=warm"),
        (10, "?metrics=loss:0.1&tags=warm,a100"),
        (20, "?metrics=loss:0.2,acc:0.7"),
        (60, "?metrics=loss:0.2"),
        (40, ""),
        (50, "?metrics=loss:-0.9,acc:0.5&tags=a100"),
    ] {
        app.push("r", step, query, checkpoint(step as u32)).await;
        app.clock.advance(std::time::Duration::from_mins(1));
    }
    app
}

/// Steps of a list, page by page.
async fn steps(app: &TestApp, query: &str, page_size: usize) -> Vec<i64> {
    let path = format!("/v1/runs/r/checkpoints?page_size={page_size}&{query}");
    let mut steps = Vec::new();
    let mut token = String::new();
    loop {
        let page: Page<Checkpoint> = app.get(&format!("{path}{token}")).await.json(200);
        assert!(page.items.len() <= page_size);
        steps.extend(page.items.iter().map(|checkpoint| checkpoint.step));
        let Some(next) = page.next_page_token else { return steps };
        token = format!("&page_token={next}");
    }
}

#[sqlx::test]
async fn a_list_has_every_order(pool: PgPool) {
    let app = run_of_six(pool).await;
    for (query, expected) in [
        ("", vec![50, 40, 60, 20, 10, 30]),
        ("sort=created_at&order=asc", vec![30, 10, 20, 60, 40, 50]),
        ("sort=step", vec![60, 50, 40, 30, 20, 10]),
        ("sort=step&order=asc", vec![10, 20, 30, 40, 50, 60]),
        ("sort=loss", vec![50, 10, 20, 60, 30]),
        ("sort=loss&order=desc", vec![30, 60, 20, 10, 50]),
        ("sort=acc&order=desc", vec![20, 50, 30]),
        ("sort=absent", vec![]),
    ] {
        for page_size in [1, 2, 5, 100] {
            assert_eq!(steps(&app, query, page_size).await, expected, "{query} by {page_size}");
        }
    }
}

#[sqlx::test]
async fn a_list_has_what_passes_every_filter(pool: PgPool) {
    let app = run_of_six(pool).await;
    for (query, expected) in [
        ("tag=warm", vec![30, 10]),
        ("tag=warm,a100", vec![10]),
        ("tag=cold", vec![]),
        ("from_step=20&to_step=50", vec![50, 40, 30, 20]),
        ("from_step=61", vec![]),
        ("where=loss%3C0.2", vec![50, 10]),
        ("where=loss%3C%3D0.2", vec![60, 50, 20, 10]),
        ("where=loss%3E0.1,acc%3E%3D0.5", vec![30, 20]),
        ("where=loss%3D0.2", vec![60, 20]),
        ("where=absent%3E0", vec![]),
        ("created_from=2026-01-02T03:07:05Z", vec![60, 50, 40]),
        ("created_before=2026-01-02T03:07:05Z", vec![30, 20, 10]),
        ("tag=a100&where=loss%3C0&from_step=20", vec![50]),
    ] {
        let query = format!("sort=step&{query}");
        for page_size in [1, 100] {
            assert_eq!(steps(&app, &query, page_size).await, expected, "{query}");
        }
    }
    assert_eq!(steps(&app, "sort=loss&where=loss%3C0.3,acc%3E0", 1).await, [50, 20]);
    assert_eq!(steps(&app, "sort=loss&order=desc&where=loss%3E%3D0.1,loss%3C0.3", 1).await, [60, 20, 10]);
    assert_eq!(steps(&app, "created_from=2026-01-02T03:05:05Z&created_before=2026-01-02T03:07:05Z", 1).await, [20, 10]);
}

#[sqlx::test]
async fn pages_are_stable_while_checkpoints_arrive(pool: PgPool) {
    let app = run_of_six(pool).await;
    for (query, arriving, rest) in [
        ("sort=step", 70, vec![40, 30, 20, 10]),
        ("sort=loss&order=asc", 80, vec![20, 60, 30]),
        ("sort=created_at", 90, vec![80, 70, 50, 40, 60, 20, 10, 30]),
    ] {
        let path = format!("/v1/runs/r/checkpoints?{query}");
        let first: Page<Checkpoint> = app.get(&format!("{path}&page_size=2")).await.json(200);
        app.push("r", arriving, "?metrics=loss:-5", checkpoint(arriving as u32)).await;
        app.clock.advance(std::time::Duration::from_mins(1));
        let token = first.next_page_token.unwrap();
        let page: Page<Checkpoint> = app.get(&format!("{path}&page_token={token}")).await.json(200);
        let found: Vec<i64> = page.items.iter().map(|checkpoint| checkpoint.step).collect();
        let seen: Vec<i64> = first.items.iter().map(|checkpoint| checkpoint.step).collect();
        assert!(!found.contains(&arriving) && found.iter().all(|step| !seen.contains(step)), "{query}: {found:?}");
        assert!(found.ends_with(&rest[rest.len() - 3..]), "{query}: {found:?}");
    }
}

#[sqlx::test]
async fn a_bad_list_is_refused_by_its_parameter(pool: PgPool) {
    let app = run_of_six(pool).await;
    let page: Page<Checkpoint> = app.get("/v1/runs/r/checkpoints?sort=step&page_size=1").await.json(200);
    let token = page.next_page_token.unwrap();
    for (query, field) in [
        ("sort=a%20b", "sort"),
        ("where=loss", "where"),
        ("where=loss%3Cnan", "where"),
        ("tag=a,,b", "tag"),
        ("page_size=0", "page_size"),
        ("page_size=1001", "page_size"),
        ("page_token=x", "page_token"),
        (format!("page_token={token}").as_str(), "page_token"),
        (format!("sort=step&order=asc&page_token={token}").as_str(), "page_token"),
    ] {
        let problem = app.get(&format!("/v1/runs/r/checkpoints?{query}")).await.problem(400, "invalid_query");
        assert_eq!(problem.errors[0].field, field, "{problem:?}");
    }
    for query in ["order=up", "from_step=x", "created_from=yesterday", "sorted=step"] {
        app.get(&format!("/v1/runs/r/checkpoints?{query}")).await.problem(400, "invalid_query");
    }
    app.get("/v1/runs/absent/checkpoints").await.problem(404, "run_not_found");
}

#[sqlx::test]
async fn metrics_and_tags_are_reported_later(pool: PgPool) {
    let app = run_of_six(pool).await;
    let ten: Checkpoint = app.get("/v1/runs/r/checkpoints/10").await.json(200);
    let path = format!("/v1/checkpoints/{}", ten.checkpoint_id);
    let body = json!({ "metrics": { "acc": 0.9, "loss": null }, "tags": ["eval"] });
    let edited: Checkpoint = app.patch(&path, body).await.json(200);
    assert_eq!(json!(edited.metrics), json!({ "acc": 0.9 }));
    assert_eq!(edited.tags, ["eval"]);
    let edited: Checkpoint = app.patch(&path, json!({ "metrics": { "loss": 7 } })).await.json(200);
    assert_eq!((json!(edited.metrics), edited.tags.len()), (json!({ "acc": 0.9, "loss": 7.0 }), 1));
    assert_eq!(steps(&app, "sort=acc&order=desc", 2).await, [10, 20, 50, 30]);
    assert_eq!(steps(&app, "sort=loss&order=desc", 2).await, [10, 30, 60, 20, 50]);
    assert_eq!(steps(&app, "tag=eval", 2).await, [10]);
    let again: Checkpoint = app.get(&path).await.json(200);
    assert_eq!(json!(again), json!(edited));
}

#[sqlx::test]
async fn a_bad_report_changes_nothing(pool: PgPool) {
    let app = run_of_six(pool).await;
    let ten: Checkpoint = app.get("/v1/runs/r/checkpoints/10").await.json(200);
    let path = format!("/v1/checkpoints/{}", ten.checkpoint_id);
    let many: serde_json::Map<_, _> = (0..65).map(|i| (format!("m{i}"), json!(i))).collect();
    for (body, field) in [
        (json!({ "metrics": { "a b": 1 } }), "metrics"),
        (json!({ "metrics": many }), "metrics"),
        (json!({ "metrics": { "acc": 1 }, "tags": ["x", "x"] }), "tags"),
        (json!({ "tags": ["a b"] }), "tags"),
    ] {
        let problem = app.patch(&path, body).await.problem(422, "invalid_field");
        assert_eq!(problem.errors[0].field, field, "{problem:?}");
    }
    for body in [json!({ "metrics": { "acc": "nan" } }), json!({ "metrics": [] }), json!({ "step": 3 })] {
        app.patch(&path, body).await.problem(422, "invalid_field");
    }
    // JSON has no words for them, so they are no JSON.
    for number in ["NaN", "Infinity", "1e999"] {
        let request = axum::http::Request::patch(&path).header("content-type", "application/json");
        let body = format!("{{\"metrics\":{{\"acc\":{number}}}}}");
        app.send(request.body(body.into()).unwrap()).await.problem(400, "invalid_json");
    }
    let absent = "/v1/checkpoints/0190f3a8-0000-7000-8000-000000000001";
    app.patch(absent, json!({})).await.problem(404, "checkpoint_not_found");
    assert_eq!(json!(app.get(&path).await.json::<Checkpoint>(200)), json!(ten));
}

#[sqlx::test]
async fn two_reports_at_once_both_count(pool: PgPool) {
    let app = run_of_six(pool).await;
    let ten: Checkpoint = app.get("/v1/runs/r/checkpoints/10").await.json(200);
    let path = format!("/v1/checkpoints/{}", ten.checkpoint_id);
    let reports = (0..8).map(|i| app.patch(&path, json!({ "metrics": { format!("m{i}"): i } })));
    for reported in futures::future::join_all(reports).await {
        reported.json::<Checkpoint>(200);
    }
    assert_eq!(app.get(&path).await.json::<Checkpoint>(200).metrics.len(), 9);
}

#[sqlx::test]
async fn a_checkpoint_is_pinned_and_unpinned(pool: PgPool) {
    let app = run_of_six(pool).await;
    let ten: Checkpoint = app.get("/v1/runs/r/checkpoints/10").await.json(200);
    assert!(!ten.pinned);
    let pin = format!("/v1/checkpoints/{}/pin", ten.checkpoint_id);
    for _ in 0..2 {
        assert!(app.put(&pin, "").await.json::<Checkpoint>(200).pinned);
    }
    assert!(app.get("/v1/runs/r/checkpoints/10").await.json::<Checkpoint>(200).pinned);
    for _ in 0..2 {
        assert!(!app.delete(&pin).await.json::<Checkpoint>(200).pinned);
    }
    app.put("/v1/checkpoints/0190f3a8-0000-7000-8000-000000000001/pin", "").await.problem(404, "checkpoint_not_found");
    app.put("/v1/checkpoints/nine/pin", "").await.problem(400, "invalid_id");
}

#[sqlx::test]
async fn a_run_counts_its_checkpoints(pool: PgPool) {
    let app = run_of_six(pool).await;
    app.create_run("empty").await;
    let page: Page<Run> = app.get("/v1/runs").await.json(200);
    let counts: Vec<_> = page.items.iter().map(|run| (run.name.as_str(), run.checkpoint_count)).collect();
    assert_eq!(counts, [("empty", 0), ("r", 6)]);
}
