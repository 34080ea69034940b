//! Every fail point, with every part of the service killed there and started again.

use barycenter_api::{JobSpec, ListQuery, PushCheckpoint, client::ByteCounter};
use barycenter_faults::Point;

use crate::{
    armed::{Action, Armed},
    audit::{self, Audit},
    cluster::Process,
    inputs,
    tally::{self, Tally},
    world::{World, until},
};

/// Enough for several heartbeats before half of the fit is made.
const EPOCHS: u32 = 60;

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Server,
    Worker,
    Postgres,
    Store,
}

const VICTIMS: [Victim; 4] = [Victim::Server, Victim::Worker, Victim::Postgres, Victim::Store];

const OF_JOBS: [Point; 11] = [
    Point::WorkerClaimed,
    Point::WorkerBuilding,
    Point::WorkerFitting,
    Point::WorkerUploaded,
    Point::WorkerFinishing,
    Point::ServerClaimed,
    Point::ServerRecording,
    Point::ServerArtifactStored,
    Point::ServerFinishing,
    Point::ServerFinished,
    Point::WorkerSaving,
];

fn passed_by(point: Point) -> Victim {
    if point.name().starts_with("worker.") { Victim::Worker } else { Victim::Server }
}

/// A service whose jobs are disturbed one after the other.
struct Walk {
    world: World,
    audit: Audit,
    spec: JobSpec,
    undisturbed: audit::Result,
    server: Process,
    tally: Tally,
}

impl Walk {
    async fn begin() -> Self {
        let world = World::new().await;
        let server = world.serve(None).await;
        let spec = inputs::push_from(&world.client, world.folder.path(), EPOCHS).await;
        let worker = world.worker("undisturbed", None);
        let job = world.client.submit_job(&spec).await.unwrap();
        let job = world.until_terminal(job.job_id).await;
        worker.kill();
        assert_eq!(job.attempts.len(), 1);
        let undisturbed = audit::result_of(&world.client, &job).await;
        let audit = Audit::of(&world);
        audit.one_success(&job).await;
        let tally = Tally::of("a job, each part killed at each point");
        let walk = Self { world, audit, spec, undisturbed, server, tally };
        walk.remove(job).await;
        walk
    }

    /// Removes a job, its artifact and its projection for good, so that the next one makes and stores them anew.
    async fn remove(&self, job: barycenter_api::Job) {
        let client = &self.world.client;
        client.delete_artifact(job.artifact_id.unwrap()).await.unwrap();
        client.delete_job(job.job_id).await.unwrap();
        for projection in client.list_projections(&ListQuery::default()).await.unwrap().items {
            client.delete_projection(&projection.projection_key).await.unwrap();
        }
        self.audit.nothing_half_visible().await;
    }

    /// One job, of which `victim` is killed when it has come to `point`.
    async fn disturb(&mut self, point: Point, victim: Victim) {
        self.tally.disturbances += 1;
        let number = self.tally.disturbances;
        let passer = passed_by(point);
        let action = if passer == victim { Action::Kill } else { Action::Hold };
        let armed = Armed::new(point, action, self.world.path(&format!("marks-{number}")));
        let name = format!("worker-{number}");
        if passer == Victim::Server {
            self.replace_server(Some(&armed)).await;
        }
        let job = self.world.client.submit_job(&self.spec).await.unwrap();
        let mut worker = self.world.worker(&name, Some(&armed).filter(|_| passer == Victim::Worker));
        armed.reached().await;
        match victim {
            Victim::Server => self.replace_server(None).await,
            Victim::Worker => {
                worker.kill();
                worker = self.world.worker(&name, None);
            }
            Victim::Postgres => {
                self.world.kill_postgres().await;
                self.world.start_postgres().await;
            }
            Victim::Store => {
                self.world.kill_store();
                self.world.start_store().await;
            }
        }
        armed.release();
        let job = self.world.until_terminal(job.job_id).await;
        worker.kill();
        assert_eq!(audit::result_of(&self.world.client, &job).await, self.undisturbed, "{point:?}, {victim:?}");
        self.audit.one_success(&job).await;
        self.tally.job(&job);
        self.remove(job).await;
    }

    async fn replace_server(&mut self, armed: Option<&Armed>) {
        self.server.kill_now();
        self.server = self.world.serve(armed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_ends_the_same_whoever_is_killed_wherever_it_is() {
    let mut walk = Walk::begin().await;
    for (index, point) in OF_JOBS.into_iter().enumerate() {
        for (other, victim) in VICTIMS.into_iter().enumerate() {
            // The short form goes through every point and every part, not through every pair.
            if tally::is_long() || index % VICTIMS.len() == other {
                walk.disturb(point, victim).await;
            }
        }
    }
    walk.tally.end();
}

const OF_UPLOADS: [Point; 2] = [Point::ServerCheckpointStored, Point::ServerCheckpointCommitted];

// A new point joins one of the walks.
const _: () = assert!(OF_JOBS.len() + OF_UPLOADS.len() == Point::ALL.len());

/// A push, of which `victim` is killed when the server has come to `point`, and the same push again.
async fn disturb_push(world: &mut World, step: i64, point: Point, victim: Victim) {
    let action = if victim == Victim::Server { Action::Kill } else { Action::Hold };
    let armed = Armed::new(point, action, world.path(&format!("marks-{step}")));
    let mut server = world.serve(Some(&armed)).await;
    let path = world.path(&format!("late-{step}.safetensors"));
    inputs::checkpoint(&path, step as usize);
    let client = world.client.clone();
    let push = {
        let (client, path) = (client.clone(), path.clone());
        tokio::spawn(async move {
            client.push_checkpoint("faults", step, &PushCheckpoint::default(), &path, &ByteCounter::none()).await
        })
    };
    armed.reached().await;
    match victim {
        Victim::Server => {
            server.kill_now();
            server = world.serve(None).await;
        }
        // Here the client: it goes away in the middle of its request.
        Victim::Worker => push.abort(),
        Victim::Postgres => {
            world.kill_postgres().await;
            world.start_postgres().await;
        }
        Victim::Store => {
            world.kill_store();
            world.start_store().await;
        }
    }
    armed.release();
    // Whether the client was told of a success or not, the same push again finds or makes the same checkpoint.
    let first = push.await.ok().and_then(Result::ok);
    let pushed = until("the push succeeds", async || {
        client.push_checkpoint("faults", step, &PushCheckpoint::default(), &path, &ByteCounter::none()).await.ok()
    })
    .await;
    assert!(first.is_none_or(|first| first.checkpoint_id == pushed.checkpoint_id));
    let bytes = std::fs::read(&path).unwrap();
    let content = client.checkpoint_content(pushed.checkpoint_id, 0..pushed.size_bytes).await.unwrap();
    assert!(content == bytes, "{point:?}, {victim:?}");
    server.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_is_there_once_and_whole_whoever_is_killed_wherever_it_is() {
    let mut world = World::new().await;
    let server = world.serve(None).await;
    inputs::push_from(&world.client, world.folder.path(), 1).await;
    server.kill();
    let mut tally = Tally::of("a push, each part killed at each point");
    let mut step = 6;
    for point in OF_UPLOADS {
        for victim in VICTIMS {
            disturb_push(&mut world, step, point, victim).await;
            step += 1;
            tally.uploads += 1;
            tally.disturbances += 1;
        }
    }
    let _server = world.serve(None).await;
    assert_eq!(world.client.list_checkpoints("faults").await.unwrap().len() as i64, step);
    Audit::of(&world).nothing_half_visible().await;
    tally.end();
}
