//! Disks without room: a small one that a process has to itself, filled and emptied by the test.
//!
//! The disk is a tmpfs in a mount namespace of the process (`unshare`), so nothing is left of it afterwards. That takes root, or user
//! namespaces, which not every container grants: so these tests are part of `make faults`.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use barycenter::storage::Store;
use barycenter_api::{AttemptState, Problem};
use barycenter_faults::Point;
use reqwest::StatusCode;
use url::Url;

use crate::{
    armed::{Action, Armed},
    audit::{self, Audit},
    cluster::Process,
    inputs,
    tally::Tally,
    world::{World, until},
};

const DISK_BYTES: usize = 16 << 20;
const EPOCHS: u32 = 60;

/// A disk that one process sees at a folder.
struct Disk(PathBuf);

impl Disk {
    /// Starts a process that has a disk of its own at `folder`; its last words go to `log`.
    fn start(words: &[&str], environment: &[(&str, String)], folder: &Path, log: &Path) -> (Process, Self) {
        fs::create_dir_all(folder).unwrap();
        let is_root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        let mut command = Command::new("unshare");
        command.arg(if is_root { "-m" } else { "-rm" });
        // Each becomes the next one, so the process id stays.
        command.args(["sh", "-ec", r#"mount -t tmpfs -o "size=$1" none "$2"; shift 2; exec "$@""#, "sh"]);
        command.arg(DISK_BYTES.to_string()).arg(folder).arg(env!("CARGO_BIN_EXE_barycenter")).args(words);
        command.envs(environment.iter().map(|(name, value)| (name, value))).env("RUST_LOG", "warn");
        let process = Process::spawn(command.stderr(File::create(log).unwrap()));
        let seen = PathBuf::from(format!("/proc/{}/root", process.id())).join(folder.strip_prefix("/").unwrap());
        (process, Self(seen))
    }

    /// Leaves no byte of room.
    fn fill(&self) {
        let mut ballast = File::create(self.0.join("ballast")).unwrap();
        for size in [1 << 16, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Copies what is on it to where everybody sees it.
    fn copy_to(&self, folder: &Path) {
        let mut copy = Command::new("cp");
        assert!(copy.arg("-r").arg(&self.0).arg(folder).status().unwrap().success());
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

/// Fails where no disk can be had, and says what to do.
fn assert_disks_can_be_had() {
    let mounted = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "none", "/tmp"]).status();
    assert!(
        mounted.is_ok_and(|status| status.success()),
        "THE DISK-FULL TESTS CANNOT RUN HERE: `unshare -rm mount -t tmpfs` is refused. Run `make faults` where user namespaces are \
         allowed, or as root with CAP_SYS_ADMIN."
    );
}

#[ignore = "mounts small disks; runs in make faults"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_worker_has_no_room_is_tried_again_and_succeeds_once_there_is() {
    assert_disks_can_be_had();
    let mut tally = Tally::of("a worker's disk full");
    let world = World::new().await;
    let server =
        world.start_server(world.address, crate::store::URL, None, &[("BARYCENTER_RETRY_PAUSE_SECONDS", "1".into())]);
    world.until_ready(world.address).await;
    let spec = inputs::push_from(&world.client, world.folder.path(), EPOCHS).await;
    let audit = Audit::of(&world);
    let mut results = Vec::new();
    // In the first its files have no room, in the second what it makes of them has none.
    for (name, point) in [("empty", Point::WorkerClaimed), ("full", Point::WorkerFitting)] {
        let armed = Armed::new(point, Action::Hold, world.path(&format!("marks-{name}")));
        let environment = world.worker_environment(name, world.address, Some(&armed));
        let cache = world.path(&format!("cache-{name}"));
        let (worker, disk) = Disk::start(&["worker"], &environment, &cache, &world.path(&format!("{name}.log")));
        let job = world.client.submit_job(&spec).await.unwrap();
        armed.reached().await;
        disk.fill();
        armed.release();
        until("an attempt fails for want of room", async || {
            let job = world.client.find_job(job.job_id, None).await.unwrap();
            let failed = job.attempts.first().filter(|attempt| attempt.state == AttemptState::Failed)?.clone();
            assert_eq!(failed.error.unwrap().code, "disk_full");
            assert!(!job.state.is_terminal());
            Some(())
        })
        .await;
        disk.make_room();
        let job = world.until_terminal(job.job_id).await;
        results.push(audit::result_of(&world.client, &job).await);
        audit.one_success(&job).await;
        tally.job(&job);
        tally.disturbances += 1;
        worker.kill();
    }
    let undisturbed = undisturbed_of(&world, &spec).await;
    assert!(results.iter().all(|result| *result == undisturbed));
    server.kill();
    audit.nothing_half_visible().await;
    tally.end();
}

/// What the job comes to on a worker that has room.
async fn undisturbed_of(world: &World, spec: &barycenter_api::JobSpec) -> audit::Result {
    let worker = world.worker("undisturbed", None);
    let job = world.client.submit_job(spec).await.unwrap();
    let job = world.until_terminal(job.job_id).await;
    worker.kill();
    assert_eq!(job.attempts.len(), 1);
    audit::result_of(&world.client, &job).await
}

#[ignore = "mounts small disks; runs in make faults"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_refuses_a_push_by_name_and_a_job_succeeds_once_there_is_room() {
    assert_disks_can_be_had();
    let mut tally = Tally::of("a store's disk full");
    let world = World::new().await;
    let folder = world.path("small");
    let environment =
        world.server_environment(world.address, Url::from_directory_path(&folder).unwrap().as_ref(), None);
    let (server, disk) = Disk::start(&["serve"], &environment, &folder, &world.path("server.log"));
    world.until_ready(world.address).await;
    let spec = inputs::push_from(&world.client, world.folder.path(), EPOCHS).await;
    let undisturbed = undisturbed_of(&world, &spec).await;

    disk.fill();
    let path = world.path("late.safetensors");
    inputs::checkpoint(&path, 6);
    let url = format!("http://{}/v1/runs/faults/checkpoints/6", world.address);
    let answer = reqwest::Client::new().put(url).body(fs::read(&path).unwrap()).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::INSUFFICIENT_STORAGE);
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(answer.json::<Problem>().await.unwrap().code, "store_full");
    assert_eq!(world.client.list_checkpoints("faults").await.unwrap().len(), 6);
    disk.make_room();
    audit_of(&world, &disk, "refused").await;

    let armed = Armed::new(Point::WorkerFitting, Action::Hold, world.path("marks"));
    let job = world.client.submit_job(&spec).await.unwrap();
    let log = world.path("worker.log");
    let environment = world.worker_environment("worker", world.address, Some(&armed));
    let (worker, _) = Disk::start(&["worker"], &environment, &world.path("cache-worker"), &log);
    armed.reached().await;
    disk.fill();
    armed.release();
    until("the worker is refused", async || {
        (fs::read_to_string(&log).unwrap().matches("store_full").count() >= 2).then_some(())
    })
    .await;
    disk.make_room();
    let job = world.until_terminal(job.job_id).await;
    worker.kill();
    assert_eq!(audit::result_of(&world.client, &job).await, undisturbed);
    audit_of(&world, &disk, "ended").await.one_success(&job).await;
    server.kill();
    tally.job(&job);
    tally.uploads = 1;
    tally.disturbances = 2;
    tally.end();
}

/// Audits the disk that only the server sees, by a copy: the server by itself has left nothing for a reaper.
async fn audit_of(world: &World, disk: &Disk, name: &str) -> Audit {
    let copy = world.path(name);
    // What is superfluous goes just after the commit that everybody sees.
    let before = Audit::of(world);
    until("nothing is pending", async || (before.pending().await == 0).then_some(())).await;
    disk.copy_to(&copy);
    let audit = Audit::with(world, Store::open(&Url::from_directory_path(&copy).unwrap(), []).unwrap());
    audit.nothing_half_visible().await;
    audit
}
