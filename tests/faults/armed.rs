//! A fail point of a process that a test is about to start, and what passes between the two.

use std::{fs, path::PathBuf, process};

use barycenter_faults::Point;

use crate::world::until;

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The process ends itself by SIGKILL.
    Kill,
    /// It stays there until it is released.
    Hold,
}

/// A point that is armed in one process, for the first time that it is passed.
#[derive(Debug)]
pub struct Armed {
    point: Point,
    action: Action,
    folder: PathBuf,
}

impl Armed {
    /// `folder` is this point's own.
    pub fn new(point: Point, action: Action, folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        Self { point, action, folder }
    }

    /// Holds a worker in the middle of its first fit, however fast that is, until it is released or dies.
    pub fn mid_fit(folder: PathBuf) -> Self {
        Self::new(Point::WorkerFitting, Action::Hold, folder)
    }

    pub fn environment(&self) -> [(&'static str, String); 2] {
        let action = match self.action {
            Action::Kill => "kill",
            Action::Hold => "hold",
        };
        [
            ("FAILPOINTS", format!("{}=1*return({action})", self.point.name())),
            ("BARYCENTER_FAULTS_FOLDER", self.folder.display().to_string()),
        ]
    }

    /// Waits until a process is at the point, or has died there.
    pub async fn reached(&self) {
        let mark = self.folder.join(format!("{}.reached", self.point.name()));
        until(&format!("{} is reached", self.point.name()), async || mark.exists().then_some(())).await;
    }

    /// Lets the held process go on.
    pub fn release(&self) {
        fs::write(self.folder.join(format!("{}.released", self.point.name())), process::id().to_string()).unwrap();
    }
}
