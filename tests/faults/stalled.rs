//! A worker that stalls until its lease is another's, and wakes.

use barycenter_api::{AttemptState, Job};
use barycenter_faults::Point;

use crate::{
    armed::{Action, Armed},
    audit::{self, Audit},
    cluster::Process,
    inputs,
    tally::Tally,
    world::World,
};

/// The first job is stalled in `sleeper` and ended by another worker; then the sleeper wakes beside a second job.
async fn a_sleeper_is_fenced(what: &'static str, at_finish: bool) {
    let mut tally = Tally::of(what);
    let world = World::new().await;
    let _server = world.serve(None).await;
    let spec = inputs::push_from(&world.client, world.folder.path(), 200).await;
    let job = world.client.submit_job(&spec).await.unwrap();
    let sleeper = if at_finish { stalled_at_finish(&world).await } else { stalled_mid_fit(&world, &job).await };

    let other = world.worker("other", None);
    let job = world.until_terminal(job.job_id).await;
    let first = audit::result_of(&world.client, &job).await;
    other.kill();
    sleeper.wake();
    // Nobody else is there: the sleeper has given the first job up and takes the second.
    let second = world.client.submit_job(&spec).await.unwrap();
    let second = world.until_terminal(second.job_id).await;
    let attempts: Vec<_> = second.attempts.iter().map(|a| (a.worker.as_str(), a.state)).collect();
    assert_eq!(attempts, [("sleeper", AttemptState::Succeeded)]);
    assert_eq!(audit::result_of(&world.client, &second).await, first);

    // What woke changed nothing about the first.
    let again = world.client.find_job(job.job_id, None).await.unwrap();
    assert_eq!((again.artifact_id, again.finished_at), (job.artifact_id, job.finished_at));
    let attempts: Vec<_> = again.attempts.iter().map(|a| (a.worker.as_str(), a.state)).collect();
    assert_eq!(attempts, [("sleeper", AttemptState::Expired), ("other", AttemptState::Succeeded)]);
    let audit = Audit::of(&world);
    audit.one_success(&again).await;
    audit.nothing_half_visible().await;
    tally.job(&again);
    tally.job(&second);
    tally.disturbances = 1;
    tally.end();
}

async fn stalled_mid_fit(world: &World, job: &Job) -> Process {
    let (sleeper, held) = world.worker_held_mid_fit("sleeper");
    world.until_mid_fit(job.job_id).await;
    sleeper.stall();
    held.release();
    sleeper
}

/// It has delivered everything and, once awake, its next word is that the job is finished.
async fn stalled_at_finish(world: &World) -> Process {
    let armed = Armed::new(Point::WorkerFinishing, Action::Hold, world.path("marks"));
    let sleeper = world.worker("sleeper", Some(&armed));
    armed.reached().await;
    sleeper.stall();
    armed.release();
    sleeper
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stalled_in_its_fit_publishes_nothing_and_goes_on_to_the_next_job() {
    a_sleeper_is_fenced("a worker stalled in its fit", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_stalled_before_its_last_call_publishes_nothing_and_goes_on_to_the_next_job() {
    a_sleeper_is_fenced("a worker stalled before its last call", true).await;
}
