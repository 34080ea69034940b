//! Events as they happen, resumed from any place, on any server.

use std::time::Duration;

use axum::{body::Body, http::Request};
use barycenter::app::{events, reaper};
use barycenter_api::{Event, EventKind, Heartbeat, Job};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    harness::TestApp,
    scene::{Scene, checkpoint},
};

fn request(path: &str, last: Option<i64>) -> Request<Body> {
    let request = Request::get(path);
    let request = last.into_iter().fold(request, |request, last| request.header("last-event-id", last.to_string()));
    request.body(Body::empty()).unwrap()
}

/// The events of a text of server-sent events, each checked against its frame.
fn parse(text: &str) -> Vec<Event> {
    let field = |frame: &str, name: &str| {
        frame.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    let frames =
        text.split("\n\n").filter(|frame| !field(frame, "data:").is_empty() && field(frame, "event:") != "gap");
    frames
        .map(|frame| {
            let event: Event = serde_json::from_str(&field(frame, "data:")).unwrap();
            assert_eq!(field(frame, "id:"), event.event_id.to_string());
            assert_eq!(json!(field(frame, "event:")), json!(event.kind));
            event
        })
        .collect()
}

fn kinds(events: &[Event]) -> Vec<EventKind> {
    events.iter().map(|event| event.kind).collect()
}

/// A stream that is read as it comes.
struct Reader {
    body: Body,
    text: String,
}

impl Reader {
    async fn open(app: &TestApp, path: &str, last: Option<i64>) -> Self {
        let response = app.open(request(path, last)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), text: String::new() }
    }

    /// Reads until so many events have come.
    async fn read(&mut self, count: usize) -> Vec<Event> {
        while parse(&self.text).len() < count {
            let frame = self.body.frame().await.expect("the stream goes on").unwrap();
            self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
        parse(&self.text)
    }
}

async fn phase(scene: &Scene, lease: &barycenter_api::Lease, phase: &str) {
    let progress = serde_json::from_value(json!({"phase": phase, "done": 0, "total": 1})).unwrap();
    scene.heartbeat(lease, Heartbeat { progress, ..Heartbeat::default() }).await.json::<Value>(200);
}

#[sqlx::test]
async fn a_job_tells_its_story_from_the_first_event_to_the_last(pool: PgPool) {
    use EventKind::{JobPhase, JobQueued, JobRequeued, JobStarted, JobSucceeded};
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let lease = scene.claim().await;
    phase(&scene, &lease, "fetch").await;
    phase(&scene, &lease, "fetch").await;
    phase(&scene, &lease, "fit").await;
    scene.fail(&lease, "disk_full", true).await.json::<Job>(200);
    scene.let_pauses_end();
    let ended = scene.succeed(&scene.claim().await).await;

    let path = format!("/v1/jobs/{}/events", job.job_id);
    let events = parse(&scene.app.get(&path).await.text());
    assert_eq!(kinds(&events), [JobQueued, JobStarted, JobPhase, JobPhase, JobRequeued, JobStarted, JobSucceeded]);
    assert!(events.is_sorted_by(|a, b| a.event_id < b.event_id));
    assert_eq!(events[3].detail["phase"], "fit");
    assert_eq!(events[4].detail["error_code"], "disk_full");
    assert_eq!(events[5].detail["attempt"], 2);
    assert_eq!(events[6].detail["artifact_id"], json!(ended.artifact_id));
    assert_eq!(events[6].occurred_at, scene.app.state.clock.now());

    let rest = scene.app.send(request(&path, Some(events[4].event_id))).await;
    assert_eq!(parse(&rest.text()), events[5..]);
    let rest = scene.app.get(&format!("{path}?after={}", events[5].event_id)).await;
    assert_eq!(parse(&rest.text()), events[6..]);
    assert_eq!(
        scene.app.send(request(&path, Some(events[6].event_id))).await.status,
        204,
        "who saw all need not come back"
    );
}

#[sqlx::test]
async fn cancels_and_failures_are_told(pool: PgPool) {
    use EventKind::{JobCancelRequested, JobCancelled, JobFailed, JobQueued, JobStarted};
    let scene = Scene::new(pool).await;
    let cancelled = scene.submit().await;
    let lease = scene.claim().await;
    scene.cancel(&cancelled).await;
    scene.cancel(&cancelled).await;
    scene.fail(&lease, "cancelled", false).await.json::<Job>(200);
    let failed = scene.submit().await;
    scene.fail(&scene.claim().await, "corrupt_file", false).await.json::<Job>(200);
    let story = async |job: &Job| parse(&scene.app.get(&format!("/v1/jobs/{}/events", job.job_id)).await.text());
    assert_eq!(kinds(&story(&cancelled).await), [JobQueued, JobStarted, JobCancelRequested, JobCancelled]);
    let of_failed = story(&failed).await;
    assert_eq!(kinds(&of_failed), [JobQueued, JobStarted, JobFailed]);
    assert_eq!(of_failed[2].detail["error_code"], "corrupt_file");
}

#[sqlx::test]
async fn a_run_and_its_project_are_followed_as_things_happen_on_any_server(pool: PgPool) {
    use EventKind::{AliasMoved, CandidateSetCreated, CheckpointPushed, JobQueued};
    let scene = Scene::new(pool.clone()).await;
    scene.app.post("/v1/runs", json!({"name": "elsewhere", "project": "other"})).await.json::<Value>(201);
    // A second server on the same database.
    let replica = TestApp::new(pool);
    tokio::spawn(replica.state.jobs_changed.clone().listen(replica.state.pool.clone(), CancellationToken::new()));
    tokio::spawn(events::run(replica.state.clone(), CancellationToken::new()));
    scene.listen();
    let mut of_run = Reader::open(&replica, "/v1/runs/demo/events", None).await;
    let mut of_project = Reader::open(&scene.app, "/v1/projects/default/events", None).await;
    let mut of_other = Reader::open(&replica, "/v1/projects/other/events", None).await;

    scene.app.put("/v1/runs/demo/checkpoints/40", checkpoint(40.0)).await.json::<Value>(201);
    let rule = json!({"rule": {"kind": "last", "count": 2}, "name": "late"});
    scene.app.post("/v1/runs/demo/candidate_sets", rule).await.json::<Value>(201);
    let id = scene.set.members[0].checkpoint_id;
    scene.app.put_json("/v1/runs/demo/aliases/best", json!({"checkpoint": id})).await.json::<Value>(200);
    scene.submit().await;
    scene.app.put("/v1/runs/elsewhere/checkpoints/1", checkpoint(1.0)).await.json::<Value>(201);

    let seen = of_run.read(4).await;
    assert_eq!(kinds(&seen), [CheckpointPushed, CandidateSetCreated, AliasMoved, JobQueued]);
    assert_eq!((&seen[0].detail["step"], &seen[2].detail["alias"]), (&json!(40), &json!("best")));
    assert_eq!(of_project.read(4).await, seen);
    let of_other = of_other.read(1).await;
    assert_eq!((kinds(&of_other), of_other[0].project.as_str()), (vec![CheckpointPushed], "other"));

    // A reader that was away gets what it missed, then what happens, each once.
    drop(of_run);
    let mut again = Reader::open(&scene.app, "/v1/runs/demo/events", Some(seen[1].event_id)).await;
    assert_eq!(again.read(2).await, seen[2..]);
    scene.claim().await;
    assert_eq!(kinds(&again.read(3).await)[2], EventKind::JobStarted);
}

#[sqlx::test]
async fn no_reader_misses_an_event_that_was_committed_late(pool: PgPool) {
    let scene = Scene::new(pool.clone()).await;
    let job = scene.submit().await;
    let path = format!("/v1/jobs/{}/events", job.job_id);
    let mut late = pool.begin().await.unwrap();
    let insert = "insert into events (kind, project, run_id, job_id, detail, occurred_at)
                  values ('job.phase', 'default', $1, $2, '{}', now())";
    sqlx::query(insert).bind(job.run_id).bind(job.job_id).execute(&mut *late).await.unwrap();
    scene.claim().await;
    let mut reader = Reader::open(&scene.app, &path, None).await;
    let seen = reader.read(2).await;
    assert_eq!(kinds(&seen), [EventKind::JobQueued, EventKind::JobStarted]);
    late.commit().await.unwrap();
    let mut again = Reader::open(&scene.app, &path, Some(seen[1].event_id)).await;
    assert_eq!(kinds(&again.read(1).await), [EventKind::JobPhase]);
}

#[sqlx::test]
async fn a_reader_that_was_away_for_too_long_is_told_of_the_gap(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let job = scene.submit().await;
    let path = format!("/v1/jobs/{}/events", job.job_id);
    let first = Reader::open(&scene.app, &path, None).await.read(1).await[0].event_id;
    scene.claim().await;
    Reader::open(&scene.app, &path, None).await.read(2).await;
    scene.app.clock.advance(Duration::from_hours(24 * 8));
    reaper::reap(&scene.app.state).await.unwrap();
    assert_eq!(scene.app.count("events").await, 0);
    scene.succeed(&scene.claim().await).await;
    let answer = scene.app.send(request(&path, Some(first))).await.text();
    assert!(answer.starts_with("event: gap\n"), "{answer}");
    assert_eq!(kinds(&parse(&answer)), [EventKind::JobStarted, EventKind::JobSucceeded]);
}

#[sqlx::test]
async fn streams_end_with_the_server(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let mut reader = Reader::open(&scene.app, "/v1/runs/demo/events", None).await;
    let stop = CancellationToken::new();
    stop.cancel();
    events::run(scene.app.state.clone(), stop).await;
    assert!(reader.body.frame().await.is_none());
}

#[sqlx::test]
async fn what_cannot_be_followed_is_refused(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.app.get("/v1/runs/nobody/events").await.problem(404, "run_not_found");
    scene.app.get("/v1/projects/nobody/events").await.problem(404, "project_not_found");
    let absent = "/v1/jobs/0190f3a8-0000-7000-8000-000000000001/events";
    scene.app.get(absent).await.problem(404, "job_not_found");
    let mut wrong = request("/v1/runs/demo/events", None);
    wrong.headers_mut().insert("last-event-id", "x".parse().unwrap());
    scene.app.send(wrong).await.problem(400, "bad_request");
}
