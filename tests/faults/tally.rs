//! How long these tests take, and what they have done: `make faults` runs the long form and shows the table.

use std::{fs::File, io::Write as _, time::Instant};

/// Whether the long form runs.
pub fn is_long() -> bool {
    std::env::var_os("FAULTS_LONG").is_some()
}

/// A number that may be set from outside.
pub fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// One row of the table.
#[derive(Debug)]
pub struct Tally {
    what: &'static str,
    started: Instant,
    pub jobs: usize,
    pub uploads: usize,
    /// Processes killed, stalled or cut off.
    pub disturbances: usize,
    pub attempts: usize,
}

impl Tally {
    pub fn of(what: &'static str) -> Self {
        Self { what, started: Instant::now(), jobs: 0, uploads: 0, disturbances: 0, attempts: 0 }
    }

    /// Counts a job that has ended.
    pub fn job(&mut self, job: &barycenter_api::Job) {
        self.jobs += 1;
        self.attempts += job.attempts.len();
    }

    /// Writes the row where a table is wanted.
    pub fn end(self) {
        let Self { what, started, jobs, uploads, disturbances, attempts } = self;
        let Some(table) = std::env::var_os("FAULTS_TABLE") else { return };
        let mut table = File::options().append(true).create(true).open(table).unwrap();
        let seconds = started.elapsed().as_secs();
        // One write: tests that run beside this one add rows of their own.
        let row = format!("{what}\t{jobs}\t{uploads}\t{disturbances}\t{attempts}\t{seconds}\n");
        table.write_all(row.as_bytes()).unwrap();
    }
}
