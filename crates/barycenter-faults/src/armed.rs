//! What happens at a point where a test has asked for something.
//!
//! `FAILPOINTS` says what is to happen where, in the syntax of the crate `fail`: `worker.fitting=1*return(kill)` kills the process there at
//! the first pass, `return(hold)` holds it. `BARYCENTER_FAULTS_FOLDER` names a folder by which the test and the point speak: the point
//! makes the file `<name>.reached`, and is held until there is a file `<name>.released`.

use std::{fs::File, path::PathBuf, sync::Once, thread, time::Duration};

use fail::{FailScenario, fail_point};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::Point;

/// How often a held process looks whether it was released.
const LOOK_EVERY: Duration = Duration::from_millis(10);

pub async fn pass(point: Point) {
    if let Some(held) = reach(point) {
        while !held.is_released() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

pub fn pass_blocking(point: Point) {
    if let Some(held) = reach(point) {
        while !held.is_released() {
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// Does what was asked for here; `Some` where that is to hold the process.
fn reach(point: Point) -> Option<Held> {
    let action = asked(point)?;
    let folder = PathBuf::from(std::env::var_os("BARYCENTER_FAULTS_FOLDER").expect("FAILPOINTS needs a folder"));
    File::create(folder.join(format!("{}.reached", point.name()))).expect("the folder of the test takes files");
    match action.as_str() {
        "kill" => die(),
        "hold" => Some(Held(folder.join(format!("{}.released", point.name())))),
        other => panic!("`{other}` is nothing that happens at a point"),
    }
}

fn asked(point: Point) -> Option<String> {
    static SET_UP: Once = Once::new();
    // Dropped, it would take every action back.
    SET_UP.call_once(|| std::mem::forget(FailScenario::setup()));
    fail_point!(point.name(), |action| action);
    None
}

/// `kill -9` of the process by itself: no handler runs, no destructor, no goodbye.
fn die() -> ! {
    kill(Pid::this(), Signal::SIGKILL).expect("a process may kill itself");
    loop {
        thread::park();
    }
}

struct Held(PathBuf);

impl Held {
    fn is_released(&self) -> bool {
        self.0.exists()
    }
}
