//! Histories and coefficients, in and out.

use barycenter_api::{CoefficientTable, Heartbeat, HeartbeatReply, History, HistorySnapshot, Job, Lease};
use sqlx::PgPool;

use crate::scene::{STEPS, Scene, blocks, coefficients, snapshot, snapshots};

async fn running(pool: PgPool) -> (Scene, Job, Lease) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let lease = scene.claim().await;
    (scene, job, lease)
}

async fn report(scene: &Scene, lease: &Lease, heartbeat: Heartbeat) {
    scene.heartbeat(lease, heartbeat).await.json::<HeartbeatReply>(200);
}

async fn history(scene: &Scene, job: &Job, query: &str) -> History {
    scene.app.get(&format!("/v1/jobs/{}/history{query}", job.job_id)).await.json(200)
}

fn assert_is_snapshot(stored: &HistorySnapshot, step: u64) {
    let sent = snapshot(step);
    assert_eq!((stored.step, stored.fit_loss, stored.select_loss), (step, sent.fit_loss, sent.select_loss));
    assert_eq!(
        (stored.epoch.to_bits(), stored.learning_rate.to_bits()),
        (sent.epoch.to_bits(), sent.learning_rate.to_bits())
    );
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&stored.coefficients.as_ref().unwrap().concat()), bits(&sent.coefficients.0), "step {step}");
}

#[sqlx::test]
async fn snapshots_come_back_bit_for_bit(pool: PgPool) {
    let (scene, job, lease) = running(pool).await;
    assert!(history(&scene, &job, "").await.snapshots.is_empty());
    report(&scene, &lease, snapshots(0..3)).await;
    report(&scene, &lease, snapshots(3..500)).await;
    let stored = history(&scene, &job, "").await;
    assert_eq!(stored.blocks, blocks());
    assert_eq!(stored.candidates.iter().map(|candidate| candidate.step).collect::<Vec<_>>(), STEPS);
    assert_eq!(stored.snapshots.len(), 500);
    for (step, stored) in (0..).zip(&stored.snapshots) {
        assert_is_snapshot(stored, step);
    }
    assert_eq!(stored.next_after_step, None);
}

#[sqlx::test]
async fn a_resumed_attempt_may_repeat_its_snapshots(pool: PgPool) {
    let (scene, job, lease) = running(pool).await;
    report(&scene, &lease, snapshots(0..4)).await;
    report(&scene, &lease, snapshots(0..4)).await;
    scene.let_leases_lapse();
    let lease = scene.claim().await;
    report(&scene, &lease, snapshots(2..6)).await;
    let stored = history(&scene, &job, "").await;
    assert_eq!(stored.snapshots.iter().map(|snapshot| snapshot.step).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    for (step, stored) in (0..).zip(&stored.snapshots) {
        assert_is_snapshot(stored, step);
    }
    scene.app.assert_no_orphans().await;
}

#[sqlx::test]
async fn a_history_is_read_page_by_page(pool: PgPool) {
    let (scene, job, lease) = running(pool).await;
    report(&scene, &lease, snapshots(0..5)).await;
    let mut seen = Vec::new();
    let mut query = "?limit=2&coefficients=false".to_owned();
    loop {
        let page = history(&scene, &job, &query).await;
        assert!(page.snapshots.iter().all(|snapshot| snapshot.coefficients.is_none()));
        seen.extend(page.snapshots.iter().map(|snapshot| snapshot.step));
        let Some(after_step) = page.next_after_step else { break };
        query = format!("?limit=2&coefficients=false&after_step={after_step}");
    }
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}

#[sqlx::test]
async fn a_history_reads_as_csv(pool: PgPool) {
    let (scene, job, lease) = running(pool).await;
    report(&scene, &lease, snapshots(0..300)).await;
    let answer = scene.app.get(&format!("/v1/jobs/{}/history?format=csv", job.job_id)).await;
    assert_eq!(answer.header("content-type"), "text/csv; charset=utf-8");
    let text = answer.text();
    let lines: Vec<&str> = text.lines().collect();
    let columns = "step,epoch,learning_rate,fit_loss,select_loss,checkpoint_id,candidate_step,block,coefficient";
    assert_eq!(lines[0], columns);
    assert_eq!(lines.len(), 1 + 300 * 3 * 2, "one line for each snapshot, candidate and block");
    let first = scene.set.members[0].checkpoint_id;
    assert_eq!(lines[1], format!("0,0.0,0.1,,0.7,{first},10,0.weight,0.25"));
    let last = scene.set.members[2].checkpoint_id;
    assert!(
        lines[1800].starts_with("299,") && lines[1800].ends_with(&format!("{last},30,0.bias,0.7")),
        "{}",
        lines[1800]
    );

    let part = format!("/v1/jobs/{}/history?format=csv&after_step=1&limit=2&coefficients=false", job.job_id);
    let text = scene.app.get(&part).await.text();
    let steps: Vec<&str> = text.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(steps, ["step", "2", "3"]);
}

#[sqlx::test]
async fn snapshots_that_make_no_sense_are_refused_and_leave_nothing(pool: PgPool) {
    let (scene, job, lease) = running(pool).await;
    let without_blocks = Heartbeat { blocks: None, ..snapshots(0..1) };
    let mut short = snapshots(0..2);
    short.snapshots[1].coefficients.0.pop();
    let mut not_finite = snapshots(0..1);
    not_finite.snapshots[0].coefficients.0[0] = f64::NAN;
    let mut backwards = snapshots(0..2);
    backwards.snapshots.swap(0, 1);
    for (heartbeat, field) in [
        (without_blocks, "blocks"),
        (short, "snapshots.1.coefficients"),
        (not_finite, "snapshots.0.coefficients"),
        (backwards, "snapshots.1.step"),
    ] {
        let problem = scene.heartbeat(&lease, heartbeat).await.problem(422, "invalid_field");
        assert_eq!(problem.errors[0].field, field);
    }
    assert!(history(&scene, &job, "").await.snapshots.is_empty());
    scene.app.assert_no_orphans().await;
}

#[sqlx::test]
async fn coefficients_are_there_once_a_job_has_succeeded(pool: PgPool) {
    let (scene, job, lease) = running(pool).await;
    let path = format!("/v1/jobs/{}/coefficients", job.job_id);
    scene.app.get(&path).await.problem(409, "no_coefficients");
    scene.succeed(&lease).await;
    let table: CoefficientTable = scene.app.get(&path).await.json(200);
    assert_eq!(table.blocks, blocks());
    assert_eq!(table.values.concat(), coefficients().0);
    let text = scene.app.get(&format!("{path}?format=csv")).await.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "checkpoint_id,candidate_step,block,coefficient");
    assert_eq!(lines[1], format!("{},10,0.weight,0.25", scene.set.members[0].checkpoint_id));
    assert_eq!(lines.len(), 7);
}

#[sqlx::test]
async fn the_history_of_a_job_that_is_not_there_is_a_problem(pool: PgPool) {
    let scene = Scene::new(pool).await;
    for format in ["json", "csv"] {
        let path = format!("/v1/jobs/0190f3a8-0000-7000-8000-000000000001/history?format={format}");
        scene.app.get(&path).await.problem(404, "job_not_found");
    }
}
