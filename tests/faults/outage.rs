//! Postgres or the store cut off from the servers in the middle of things, by a link that breaks and by one that falls silent.

use std::{sync::Arc, time::Duration};

use barycenter_api::{JobSpec, Problem, PushCheckpoint, client::ByteCounter};
use reqwest::{Body, StatusCode};

use crate::{
    audit::{self, Audit},
    cluster::Process,
    inputs,
    link::{Flow, Link},
    tally::{self, Tally},
    world::{World, until},
};

/// A job of some seconds, so that its middle is long enough to be cut.
const EPOCHS: u32 = 200;
const BEFORE: i64 = 6;

/// How long the short form cuts off, and the long one.
fn outage() -> Duration {
    if tally::is_long() { Duration::from_mins(1) } else { Duration::from_secs(4) }
}

struct Scene {
    world: World,
    server: Process,
    spec: JobSpec,
    undisturbed: audit::Result,
    tally: Tally,
}

impl Scene {
    async fn begin(what: &'static str) -> Self {
        let world = World::new().await;
        let server = world.serve(None).await;
        let spec = inputs::push_from(&world.client, world.folder.path(), EPOCHS).await;
        let worker = world.worker("undisturbed", None);
        let job = world.client.submit_job(&spec).await.unwrap();
        let undisturbed = audit::result_of(&world.client, &world.until_terminal(job.job_id).await).await;
        worker.kill();
        Self { world, server, spec, undisturbed, tally: Tally::of(what) }
    }

    /// A job and an upload that are under way while `link` does what it is told.
    async fn cut_off(&mut self, link: fn(&World) -> &Link, flow: Flow, step: i64) {
        let world = &self.world;
        let job = world.client.submit_job(&self.spec).await.unwrap();
        let (worker, held) = world.worker_held_mid_fit(&format!("worker-{step}"));
        world.until_mid_fit(job.job_id).await;
        let upload = Upload::begin(world, step).await;

        link(world).set(flow);
        held.release();
        let outage = tokio::time::sleep(outage());
        upload.send_the_rest();
        if flow == Flow::Cut {
            self.answers_that_it_is_unavailable(link(world)).await;
        }
        outage.await;
        assert!(reqwest::get(format!("http://{}/livez", world.address)).await.unwrap().status().is_success());
        link(world).set(Flow::Open);

        upload.ends_whole(world, step).await;
        let job = world.until_terminal(job.job_id).await;
        worker.kill();
        assert_eq!(audit::result_of(&world.client, &job).await, self.undisturbed, "{flow:?}");
        let audit = Audit::of(world);
        audit.one_success(&job).await;
        self.tally.job(&job);
        self.tally.uploads += 1;
        self.tally.disturbances += 1;
        assert_eq!(world.client.list_checkpoints("faults").await.unwrap().len() as i64, step + 1);
        audit.nothing_half_visible().await;
    }

    /// Whoever asks meanwhile is told so, in the form of every problem and with a time to come back.
    async fn answers_that_it_is_unavailable(&self, cut: &Link) {
        let url = format!("http://{}", self.world.address);
        let of_database = cut.address == self.world.database_link.address;
        let path = if of_database { "/v1/runs" } else { "/readyz" };
        let answer = reqwest::get(format!("{url}{path}")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert!(answer.headers().contains_key("retry-after"));
        assert_eq!(answer.json::<Problem>().await.unwrap().code, "unavailable");
    }

    async fn end(self) {
        // It is the process that was there from the beginning, and it ends in order.
        self.server.terminate();
        assert!(self.server.succeeds().await);
        self.tally.end();
    }
}

/// A push whose body stops halfway.
struct Upload {
    go_on: Arc<tokio::sync::Notify>,
    answer: tokio::task::JoinHandle<reqwest::Result<reqwest::Response>>,
}

impl Upload {
    async fn begin(world: &World, step: i64) -> Self {
        let path = world.path(&format!("late-{step}.safetensors"));
        inputs::checkpoint(&path, step as usize);
        let bytes = std::fs::read(&path).unwrap();
        let (half, begun) = (bytes.len() / 2, Arc::new(tokio::sync::Notify::new()));
        let (first, rest) = (bytes[..half].to_vec(), bytes[half..].to_vec());
        let go_on = Arc::new(tokio::sync::Notify::new());
        let (waiting, began) = (Arc::clone(&go_on), Arc::clone(&begun));
        let body = futures::stream::unfold(0, move |sent| {
            let (waiting, began) = (Arc::clone(&waiting), Arc::clone(&began));
            let (first, rest) = (first.clone(), rest.clone());
            async move {
                match sent {
                    0 => Some((Ok::<_, std::io::Error>(first), 1)),
                    1 => {
                        began.notify_one();
                        waiting.notified().await;
                        Some((Ok(rest), 2))
                    }
                    _ => None,
                }
            }
        });
        let url = format!("http://{}/v1/runs/faults/checkpoints/{step}", world.address);
        let request = reqwest::Client::new().put(url).header("content-length", bytes.len());
        let answer = tokio::spawn(request.body(Body::wrap_stream(body)).send());
        begun.notified().await;
        Self { go_on, answer }
    }

    fn send_the_rest(&self) {
        self.go_on.notify_one();
    }

    /// It was stored, or refused as something that may fare better; then the same push again stores it.
    async fn ends_whole(self, world: &World, step: i64) {
        let answer = self.answer.await.unwrap().unwrap();
        assert!(
            matches!(answer.status(), StatusCode::CREATED | StatusCode::SERVICE_UNAVAILABLE),
            "{}: {}",
            answer.status(),
            answer.text().await.unwrap()
        );
        let path = world.path(&format!("late-{step}.safetensors"));
        let pushed = until("the push succeeds", async || {
            let beside = PushCheckpoint::default();
            world.client.push_checkpoint("faults", step, &beside, &path, &ByteCounter::none()).await.ok()
        })
        .await;
        let content = world.client.checkpoint_content(pushed.checkpoint_id, 0..pushed.size_bytes).await.unwrap();
        assert!(content == std::fs::read(&path).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_and_a_push_outlive_a_database_that_is_cut_off() {
    let mut scene = Scene::begin("Postgres cut off").await;
    scene.cut_off(|world| &world.database_link, Flow::Cut, BEFORE).await;
    scene.cut_off(|world| &world.database_link, Flow::Frozen, BEFORE + 1).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_and_a_push_outlive_a_store_that_is_cut_off() {
    let mut scene = Scene::begin("the store cut off").await;
    scene.cut_off(|world| &world.store_link, Flow::Cut, BEFORE).await;
    scene.cut_off(|world| &world.store_link, Flow::Frozen, BEFORE + 1).await;
    scene.end().await;
}
