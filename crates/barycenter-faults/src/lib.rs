//! Named points in server and worker at which tests kill or hold a process: see `docs/faults.md`.
//!
//! Only what `cargo test` builds has them: the feature `armed` comes with a dev-dependency, and a build without debug assertions has
//! none of it either way. Elsewhere [`pass`] and [`pass_blocking`] are empty.

#[cfg(all(feature = "armed", debug_assertions))]
mod armed;

macro_rules! points {
    ($($variant:ident = $name:literal, $place:literal;)*) => {
        /// A named point.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Point {
            $(#[doc = $place] $variant,)*
        }

        impl Point {
            /// Every point.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name by which `FAILPOINTS` knows it: the process that passes it, a dot, the place.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Where it is.
            pub fn place(self) -> &'static str {
                match self { $(Self::$variant => $place,)* }
            }
        }
    };
}

points! {
    WorkerClaimed = "worker.claimed", "The worker has its lease and has fetched nothing";
    WorkerBuilding = "worker.building", "Half of the projection is built";
    WorkerSaving = "worker.saving", "Half of the projection's file is written, beside the fit";
    WorkerFitting = "worker.fitting", "Half of the steps of the fit are made";
    WorkerUploaded = "worker.uploaded", "The artifact is uploaded, the last snapshots are not";
    WorkerFinishing = "worker.finishing", "Everything is delivered but the call that finishes the job";
    ServerClaimed = "server.claimed", "A claim is committed and not answered";
    ServerRecording = "server.recording", "A heartbeat's snapshots are in the store, its transaction is not committed";
    ServerArtifactStored = "server.artifact_stored", "An artifact's bytes are in the store, nothing notes that they are the lease's";
    ServerFinishing = "server.finishing", "The transaction that finishes a job is written and not committed";
    ServerFinished = "server.finished", "A job is finished and the worker not answered";
    ServerCheckpointStored = "server.checkpoint_stored", "A checkpoint's bytes are in the store, its transaction has not begun";
    ServerCheckpointCommitted = "server.checkpoint_committed", "A checkpoint is committed and the client not answered";
}

/// Passes a point in asynchronous code.
#[cfg_attr(
    not(all(feature = "armed", debug_assertions)),
    expect(clippy::unused_async, reason = "it waits where it is armed")
)]
#[inline]
pub async fn pass(point: Point) {
    #[cfg(all(feature = "armed", debug_assertions))]
    armed::pass(point).await;
    let _ = point;
}

/// Passes a point in code that may block its thread.
#[inline]
pub fn pass_blocking(point: Point) {
    #[cfg(all(feature = "armed", debug_assertions))]
    armed::pass_blocking(point);
    let _ = point;
}

#[cfg(test)]
mod tests {
    use super::Point;

    #[test]
    fn every_point_is_documented() {
        let text = include_str!("../../../docs/faults.md");
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
        let points: Vec<String> =
            Point::ALL.iter().map(|point| format!("| `{}` | {} |", point.name(), point.place())).collect();
        assert_eq!(rows, points, "the table of points in docs/faults.md");
    }
}
