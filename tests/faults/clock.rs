//! Workers whose clocks are an hour off.

use std::{path::PathBuf, process::Command};

use barycenter::domain::clock::{Clock as _, SystemClock};
use barycenter_api::AttemptState;

use crate::{
    armed::Armed,
    audit::{self, Audit},
    cluster::Process,
    inputs,
    tally::Tally,
    world::World,
};

/// The library that moves a process's clock.
fn library() -> PathBuf {
    let folders = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let below = folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    let places = folders.iter().cloned().chain(below.map(|entry| entry.path()));
    let found = places.map(|place| place.join("faketime/libfaketime.so.1")).find(|path| path.exists());
    found.expect("libfaketime is not installed: scripts/install-deps.sh faults")
}

/// Makes a process see another time of day. Its monotonic clock, by which it waits, stays as it is, as on a machine whose clock is wrong.
fn environment(offset: &str) -> Vec<(&'static str, String)> {
    vec![
        ("LD_PRELOAD", library().display().to_string()),
        ("FAKETIME", offset.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

/// Minutes by which a process with this environment is off.
fn minutes_off(offset: &str) -> i64 {
    let output = Command::new("date").arg("+%s").envs(environment(offset)).output().unwrap();
    let seen: i64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    ((seen - SystemClock.now().timestamp()) as f64 / 60.0).round() as i64
}

fn worker(world: &World, name: &str, offset: &str, armed: Option<&Armed>) -> Process {
    let mut all = world.worker_environment(name, world.address, armed);
    all.extend(environment(offset));
    Process::start(&["worker"], &all)
}

#[ignore = "needs libfaketime; runs in make faults"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_an_hour_off_changes_neither_leases_nor_numbers() {
    assert_eq!(["+1h", "-1h"].map(minutes_off), [60, -60]);
    let mut tally = Tally::of("workers' clocks an hour off");
    let world = World::new().await;
    let server = world.serve(None).await;
    let spec = inputs::push_from(&world.client, world.folder.path(), 200).await;
    let audit = Audit::of(&world);
    let right = world.worker("right", None);
    let job = world.client.submit_job(&spec).await.unwrap();
    let undisturbed = audit::result_of(&world.client, &world.until_terminal(job.job_id).await).await;
    right.kill();
    for (first, second) in [("+1h", "-1h"), ("-1h", "+1h")] {
        // Alone, it keeps its lease to the end, although its fit takes longer than a lease lasts.
        let alone = worker(&world, &format!("alone{first}"), first, None);
        let kept = world.client.submit_job(&spec).await.unwrap();
        let kept = world.until_terminal(kept.job_id).await;
        let attempts: Vec<_> = kept.attempts.iter().map(|attempt| attempt.state).collect();
        assert_eq!(attempts, [AttemptState::Succeeded], "{kept:?}");
        alone.kill();

        // Killed, it loses it to one whose clock is off the other way, which goes on from the same state.
        let lost = world.client.submit_job(&spec).await.unwrap();
        let held = Armed::mid_fit(world.path(&format!("marks{first}")));
        let held = worker(&world, &format!("held{first}"), first, Some(&held));
        world.until_mid_fit(lost.job_id).await;
        held.kill();
        let other = worker(&world, &format!("other{second}"), second, None);
        let lost = world.until_terminal(lost.job_id).await;
        other.kill();
        let attempts: Vec<_> = lost.attempts.iter().map(|attempt| attempt.state).collect();
        assert_eq!(attempts, [AttemptState::Expired, AttemptState::Succeeded], "{lost:?}");
        for job in [kept, lost] {
            assert_eq!(audit::result_of(&world.client, &job).await, undisturbed);
            audit.one_success(&job).await;
            tally.job(&job);
        }
        tally.disturbances += 1;
    }
    server.kill();
    audit.nothing_half_visible().await;
    tally.end();
}
