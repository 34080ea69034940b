//! What a collection removed.

use std::ops::AddAssign;

/// What a collection removed, or would remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Artifacts.
    pub artifacts: u64,
    /// Jobs with their histories.
    pub jobs: u64,
    /// Candidate sets.
    pub candidate_sets: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Files that came for checkpoints which nobody has created.
    pub staged_files: u64,
    /// Runs.
    pub runs: u64,
    /// Objects that nothing refers to any more.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
}

impl Collected {
    /// Whether no row was removed.
    pub fn is_nothing(&self) -> bool {
        self.artifacts + self.jobs + self.candidate_sets + self.checkpoints + self.staged_files + self.runs == 0
    }
}

impl AddAssign for Collected {
    fn add_assign(&mut self, other: Self) {
        self.artifacts += other.artifacts;
        self.jobs += other.jobs;
        self.candidate_sets += other.candidate_sets;
        self.checkpoints += other.checkpoints;
        self.staged_files += other.staged_files;
        self.runs += other.runs;
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}
