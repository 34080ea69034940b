//! Log lines of jobs.

use barycenter_api::{Heartbeat, JobLog, Lease, LogLevel, NewLogLine};
use chrono::TimeDelta;
use serde_json::Value;
use sqlx::PgPool;

use crate::scene::Scene;

fn lines(numbers: std::ops::RangeInclusive<i64>) -> Heartbeat {
    let line = |number| NewLogLine { number, age_ms: 250, level: LogLevel::Info, message: format!("line {number}") };
    Heartbeat { log: numbers.map(line).collect(), ..Heartbeat::default() }
}

async fn log(scene: &Scene, lease: &Lease, query: &str) -> JobLog {
    scene.app.get(&format!("/v1/jobs/{}/logs{query}", lease.job_id)).await.json(200)
}

fn numbers(log: &JobLog) -> Vec<(u32, i64)> {
    log.lines.iter().map(|line| (line.attempt, line.number)).collect()
}

#[sqlx::test]
async fn lines_are_kept_once_in_order_across_attempts(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let first = scene.claim().await;
    scene.heartbeat(&first, lines(1..=2)).await.json::<Value>(200);
    scene.heartbeat(&first, lines(1..=3)).await.json::<Value>(200);
    let shown = log(&scene, &first, "").await;
    assert_eq!(numbers(&shown), [(1, 1), (1, 2), (1, 3)]);
    assert_eq!(shown.lines[0].message, "line 1");
    assert_eq!(shown.lines[0].logged_at, scene.app.state.clock.now() - TimeDelta::milliseconds(250));
    assert!(!shown.complete);

    scene.let_leases_lapse();
    let second = scene.claim().await;
    scene.heartbeat(&second, lines(1..=1)).await.json::<Value>(200);
    scene.heartbeat(&first, lines(4..=9)).await.json::<Value>(200);
    let rest = log(&scene, &first, &format!("?after={}", shown.next.unwrap())).await;
    assert_eq!(numbers(&rest), [(2, 1)], "a lost attempt says no more");
    assert_eq!(numbers(&log(&scene, &first, "?tail=2").await), [(1, 3), (2, 1)]);
    let page = log(&scene, &first, "?limit=3").await;
    assert_eq!(numbers(&page).len(), 3);

    scene.succeed(&second).await;
    let end = log(&scene, &first, &format!("?wait=25&after={}", rest.next.unwrap())).await;
    assert!(end.complete && end.lines.is_empty(), "a job that has ended is not waited for");
}

#[sqlx::test]
async fn whoever_follows_is_woken_by_the_next_line(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let lease = scene.claim().await;
    let (shown, answer) = tokio::join!(log(&scene, &lease, "?wait=25"), scene.heartbeat(&lease, lines(1..=1)));
    answer.json::<Value>(200);
    assert_eq!(numbers(&shown), [(1, 1)]);
}

#[sqlx::test]
async fn the_newest_five_thousand_lines_are_kept(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let lease = scene.claim().await;
    for thousand in 0..6 {
        let from = thousand * 1000 + 1;
        scene.heartbeat(&lease, lines(from..=from + 999)).await.json::<Value>(200);
    }
    assert_eq!(scene.app.count("job_log_lines").await, 5000);
    assert_eq!(numbers(&log(&scene, &lease, "?limit=1").await), [(1, 1001)]);
    let mut long = lines(6001..=6001);
    long.log[0].message = "x\0".repeat(3000);
    scene.heartbeat(&lease, long).await.json::<Value>(200);
    assert_eq!(log(&scene, &lease, "?tail=1").await.lines[0].message, "x".repeat(2000));
}

#[sqlx::test]
async fn lines_that_make_no_sense_are_refused(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.submit().await;
    let lease = scene.claim().await;
    let problem = scene.heartbeat(&lease, lines(1..=1001)).await.problem(422, "invalid_field");
    assert_eq!(problem.errors[0].field, "log");
    let problem = scene.heartbeat(&lease, lines(0..=0)).await.problem(422, "invalid_field");
    assert_eq!(problem.errors[0].field, "log.0.number");
    let path = format!("/v1/jobs/{}/logs", lease.job_id);
    for (query, field) in [("after=x", "after"), ("limit=0", "limit"), ("wait=26", "wait")] {
        let problem = scene.app.get(&format!("{path}?{query}")).await.problem(400, "invalid_query");
        assert_eq!(problem.errors[0].field, field);
    }
}
