//! Files of a checkpoint on every way in, cut off at every point where a server can wait and at every point where a store can fail:
//! what was stored stays, what is missing is sent, a checkpoint is there whole or not at all, and what nobody finishes is given back.

use std::{collections::BTreeSet, future::poll_fn, pin::pin, task::Poll, time::Duration};

use axum::{
    body::Body,
    http::{Method, Request},
};
use barycenter_api::{Checkpoint, CheckpointFile, Page, StagedFile, Upload, UploadState};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use sqlx::PgPool;
use tempfile::TempDir;
use url::Url;

use crate::{
    checkpoint_files::{Files, create_body, staged_path},
    harness::{
        TestApp, TestResponse,
        faulty::{Fault, Faulty, Point},
        files::{digest, f32s, safetensors},
        uploads::Sender,
    },
};

const PART: u64 = 1024;
const WEIGHTS: &str = "model.safetensors";

/// How the file with the weights comes; what lies beside it is sent by single PUTs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Put,
    Parts,
    Tus,
    Registration,
}

/// What outlives a server.
struct World {
    pool: PgPool,
    faulty: Faulty,
    folder: TempDir,
    way: Way,
}

impl World {
    fn new(pool: PgPool, way: Way) -> Self {
        Self { pool, faulty: Faulty::default(), folder: TempDir::new().unwrap(), way }
    }

    /// A server; the next one is what a restart gives.
    fn server(&self) -> TestApp {
        let allowed = Url::from_directory_path(self.folder.path()).unwrap();
        let store = self.faulty.store().with_registered(&[allowed], &[]).unwrap();
        TestApp::with(self.pool.clone(), store, |_| {})
    }

    /// Three parts of weights and a configuration, of other bytes for every run.
    fn files(&self, seed: usize) -> Files {
        let weights = safetensors(&[f32s("weight", &[600], (0..600).map(|i| (seed * 1000 + i) as f32))]);
        if self.way == Way::Registration {
            std::fs::write(self.folder.path().join(format!("{seed}.safetensors")), &weights).unwrap();
        }
        vec![(WEIGHTS.into(), weights), ("config.json".into(), format!("{{\"seed\": {seed}}}").into_bytes())]
    }

    /// What a client does that has nothing but its files: asks for the checkpoint, and sends what is named as missing. It gives up
    /// at the first failure of the store; returns the names of what it sent.
    async fn push(&self, app: &TestApp, seed: usize) -> Option<BTreeSet<String>> {
        let (run, files) = (run(seed), self.files(seed));
        let path = format!("/v1/runs/{run}/checkpoints");
        let mut sent = BTreeSet::new();
        loop {
            let made = app.post(&path, create_body(1, &files)).await;
            if made.status.is_success() {
                return Some(sent);
            }
            let missing = made.problem(409, "files_missing");
            for (name, bytes) in files.iter().filter(|(name, _)| missing.errors.iter().any(|e| e.field.ends_with(name)))
            {
                assert!(sent.insert(name.clone()), "{name} is missing after it was sent");
                let way = if name == WEIGHTS { self.way } else { Way::Put };
                self.send(app, &run, seed, way, name, bytes).await?;
            }
        }
    }

    async fn send(&self, app: &TestApp, run: &str, seed: usize, way: Way, name: &str, bytes: &[u8]) -> Option<()> {
        match way {
            Way::Put => succeeded(app.put(&staged_path(run, name, bytes), bytes.to_vec()).await).map(drop),
            Way::Parts => send_parts(app, run, bytes).await,
            Way::Tus => append(app, run, bytes).await,
            Way::Registration => {
                let url = Url::from_file_path(self.folder.path().join(format!("{seed}.safetensors"))).unwrap();
                let body = json!({ "url": url.as_str(), "digest_blake3": digest(bytes) });
                let kept = succeeded(app.post(&format!("/v1/runs/{run}/files"), body).await)?;
                assert!(kept.json::<StagedFile>(kept.status.as_u16()).is_weights);
                Some(())
            }
        }
    }

    /// Whether the checkpoint is there; if so, all of it is.
    async fn is_visible(&self, app: &TestApp, seed: usize) -> bool {
        let page: Page<Checkpoint> = app.get(&format!("/v1/runs/{}/checkpoints", run(seed))).await.json(200);
        let Some(checkpoint) = page.items.first() else { return false };
        let path = format!("/v1/checkpoints/{}/files", checkpoint.checkpoint_id);
        let listed: Vec<CheckpointFile> = app.get(&path).await.json(200);
        let files = self.files(seed);
        assert_eq!(listed.len(), files.len());
        for (name, bytes) in files {
            assert!(app.get(&format!("{path}/{name}")).await.body == bytes, "{name} is there with other bytes");
        }
        true
    }

    /// What is kept, with the time since when.
    async fn kept(&self) -> BTreeSet<(String, chrono::DateTime<chrono::Utc>)> {
        let kept = sqlx::query_as(
            "select digest_blake3, created_at from blobs
             union all select 'part ' || upload_id || ' ' || number, stored_at from upload_parts",
        );
        kept.fetch_all(&self.pool).await.unwrap().into_iter().collect()
    }

    /// Kills a server at its nth wait while a client pushes; false where the push was done by then.
    async fn killed(&self, seed: usize, waits: usize) -> bool {
        let app = self.server();
        app.create_run(&run(seed)).await;
        let outcome = polled(self.push(&app, seed), waits).await;
        let ended = tokio::time::timeout(Duration::from_secs(30), self.until_no_transaction_is_open()).await;
        assert!(ended.is_ok(), "{waits}: a transaction that nobody ends");
        outcome.is_none()
    }

    /// Waits for what the killed server left: Postgres has then rolled back, or has committed what it was told to. One may still
    /// begin after its request has gone, and is taken back at once.
    async fn until_no_transaction_is_open(&self) {
        let open = "select count(*) from pg_stat_activity
            where datname = current_database() and state like 'idle in transaction%'";
        loop {
            let all_are_back = self.pool.num_idle() == self.pool.size() as usize;
            let open: i64 = sqlx::query_scalar(open).fetch_one(&self.pool).await.unwrap();
            if all_are_back && open == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn run(seed: usize) -> String {
    format!("run-{seed}")
}

/// `None` where the store failed; any other refusal is a mistake.
fn succeeded(response: TestResponse) -> Option<TestResponse> {
    if response.status.is_success() {
        return Some(response);
    }
    response.problem(503, "unavailable");
    None
}

async fn send_parts(app: &TestApp, run: &str, bytes: &[u8]) -> Option<()> {
    let asked = json!({ "target": { "kind": "file", "run": run }, "size_bytes": bytes.len(),
        "digest_blake3": digest(bytes), "part_size_bytes": PART });
    let begun = succeeded(app.post("/v1/uploads", asked).await)?;
    let sender = Sender { upload: begun.json(begun.status.as_u16()), bytes: bytes.to_vec() };
    if sender.upload.state == UploadState::Completed {
        return Some(());
    }
    let there: Vec<u64> = sender.listed(app).await.iter().map(|part| part.number).collect();
    // Part 2 comes before the header, so that it is read back at the end.
    for number in [2, 1, 3].into_iter().filter(|number| !there.contains(number)) {
        succeeded(sender.try_send(app, number).await)?;
    }
    let completed = succeeded(sender.try_complete(app).await)?;
    assert_eq!(completed.json::<Upload>(200).state, UploadState::Completed);
    Some(())
}

async fn append(app: &TestApp, run: &str, bytes: &[u8]) -> Option<()> {
    let request = |method, path: &str| Request::builder().method(method).uri(path).header("tus-resumable", "1.0.0");
    let told = format!("run {},file,digest_blake3 {}", STANDARD.encode(run), STANDARD.encode(digest(bytes)));
    let begin = request(Method::POST, "/v1/tus").header("upload-length", bytes.len()).header("upload-metadata", told);
    let begun = succeeded(app.send(begin.body(Body::empty()).unwrap()).await)?;
    let path = begun.header("location").to_owned();
    let asked = app.send(request(Method::HEAD, &path).body(Body::empty()).unwrap()).await;
    let offset: usize = asked.header("upload-offset").parse().unwrap();
    if offset == bytes.len() {
        return Some(());
    }
    let append = request(Method::PATCH, &path).header("upload-offset", offset);
    let append = append.header("content-type", "application/offset+octet-stream").body(bytes[offset..].to_vec().into());
    succeeded(app.send(append.unwrap()).await).map(drop)
}

/// Lets a future be polled so many times; `None` where it is not done then, and dropped.
async fn polled<T>(future: impl Future<Output = T>, mut times: usize) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        times -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if times == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn a_restart_sends_only_what_is_missing(pool: PgPool, way: Way) {
    let world = World::new(pool, way);
    let mut waits = 1;
    while world.killed(waits, waits).await {
        let app = world.server();
        let was_visible = world.is_visible(&app, waits).await;
        let before = world.kept().await;
        app.clock.advance(Duration::from_mins(1));
        let sent = world.push(&app, waits).await.unwrap();
        assert!(sent.is_empty() || !was_visible, "{waits}: {sent:?} were sent for what was there");
        assert!(world.is_visible(&app, waits).await, "{waits}");
        let parts_become_files = |(name, _): &&(String, _)| !name.starts_with("part ");
        let after = world.kept().await;
        let replaced: Vec<_> = before.iter().filter(parts_become_files).filter(|kept| !after.contains(kept)).collect();
        assert!(replaced.is_empty(), "{waits}: stored again: {replaced:?}");
        waits += 1;
    }
    assert!(waits > 20, "a push waits for store and database more than {waits} times");
    let app = world.server();
    app.reap_after(Duration::from_hours(73)).await;
    barycenter::app::gc::collect(&app.state).await.unwrap();
    assert_eq!(
        (world.faulty.part_bytes(), app.count("upload_parts").await, app.count("staged_files").await),
        (0, 0, 0)
    );
    if way != Way::Registration {
        app.assert_no_orphans().await;
    }
    for seed in 1..=waits {
        assert!(world.is_visible(&app, seed).await, "{seed}: gone");
    }
}

async fn what_nobody_finishes_is_given_back(pool: PgPool, way: Way) {
    let world = World::new(pool, way);
    let mut waits = 1;
    while world.killed(waits, waits).await {
        let app = world.server();
        if world.is_visible(&app, waits).await {
            // Cut off between the commit and the answer: what follows begins with nothing.
            app.delete(&format!("/v1/runs/{}", run(waits))).await;
            app.reap_after(Duration::from_hours(200)).await;
            barycenter::app::gc::collect(&app.state).await.unwrap();
        } else {
            app.reap_after(Duration::from_hours(73)).await;
            barycenter::app::gc::collect(&app.state).await.unwrap();
            assert_eq!((world.kept().await, world.faulty.part_bytes()), (BTreeSet::new(), 0), "{waits}");
            assert_eq!(app.state.store.list_keys().await.unwrap(), Vec::<String>::new(), "{waits}");
            for table in ["uploads", "staged_files", "tensor_files"] {
                assert_eq!(app.count(table).await, 0, "{waits}: rows of {table}");
            }
            // What a completed upload became can be asked for a week.
            app.reap_after(Duration::from_hours(7 * 24)).await;
            assert_eq!(app.count("multipart_uploads").await, 0, "{waits}");
        }
        waits += 1;
    }
    assert!(waits > 20, "a push waits for store and database more than {waits} times");
    let left = world.folder.path().join(format!("{waits}.safetensors")).exists();
    assert_eq!(left, way == Way::Registration, "what was registered is nobody's to delete");
}

async fn a_failure_of_the_store_costs_only_what_it_hit(pool: PgPool, way: Way) {
    let world = World::new(pool, way);
    for (seed, point) in Point::ALL.into_iter().enumerate() {
        // What comes in order is never read back.
        if (way, point) == (Way::Tus, Point::BeforeRead) {
            continue;
        }
        let app = world.server();
        app.create_run(&run(seed)).await;
        world.faulty.plan(point, Fault::Fail);
        let pushed = world.push(&app, seed).await;
        assert!(world.faulty.is_spent(), "{point:?} was never reached");
        // A failure behind the store's back, after the parts were put together, is seen to have succeeded.
        assert_eq!(pushed.is_some(), point == Point::AfterFinish, "{point:?}");
        assert_eq!(world.is_visible(&app, seed).await, pushed.is_some(), "{point:?}: half-visible");
        let parts = world.kept().await.into_iter().filter(|(name, _)| name.starts_with("part ")).count();
        let expected = match (point, way) {
            (Point::BeforeFinish | Point::BeforeRead, _) => 3,
            _ => 0,
        };
        assert_eq!(parts, expected, "{point:?}: parts that were there");
        assert!(world.push(&app, seed).await.is_some(), "{point:?}");
        assert!(world.is_visible(&app, seed).await, "{point:?}");
        assert_eq!(world.faulty.part_bytes(), 0, "{point:?}");
        app.assert_no_orphans().await;
    }
}

macro_rules! on_every_way {
    ($($name:ident: $walk:ident($way:ident);)*) => {
        $(
            #[sqlx::test]
            async fn $name(pool: PgPool) {
                $walk(pool, Way::$way).await;
            }
        )*
    };
}

on_every_way! {
    a_killed_put_is_taken_up_again: a_restart_sends_only_what_is_missing(Put);
    a_killed_upload_in_parts_is_taken_up_again: a_restart_sends_only_what_is_missing(Parts);
    a_killed_tus_upload_is_taken_up_again: a_restart_sends_only_what_is_missing(Tus);
    a_killed_registration_is_taken_up_again: a_restart_sends_only_what_is_missing(Registration);
    a_put_that_nobody_finishes_is_given_back: what_nobody_finishes_is_given_back(Put);
    an_upload_in_parts_that_nobody_finishes_is_given_back: what_nobody_finishes_is_given_back(Parts);
    a_tus_upload_that_nobody_finishes_is_given_back: what_nobody_finishes_is_given_back(Tus);
    a_registration_that_nobody_finishes_leaves_the_file_alone: what_nobody_finishes_is_given_back(Registration);
    an_upload_in_parts_goes_on_after_the_store_failed: a_failure_of_the_store_costs_only_what_it_hit(Parts);
    a_tus_upload_goes_on_after_the_store_failed: a_failure_of_the_store_costs_only_what_it_hit(Tus);
}
