//! What the device thread has to tell, until a heartbeat carries it off.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use barycenter_api::{
    Bytes64, Directive, Floats, Heartbeat, LogLevel, NewLogLine, Phase, PhaseTime, Progress, Snapshot,
};
use barycenter_core::{Error, average};
use barycenter_faults::{self as faults, Point};

use crate::fit_state;

/// Shared by the device thread, which writes, and the heartbeat, which reads.
#[derive(Debug)]
pub(crate) struct Journal(Mutex<Entries>);

#[derive(Debug)]
struct Entries {
    blocks: Option<Vec<String>>,
    snapshots: Vec<Snapshot>,
    fit_state: Option<Vec<u8>>,
    /// The projection that states of the fit belong to.
    projection_key: String,
    fit_state_wanted: bool,
    progress: Option<Progress>,
    fit_loss: Option<f64>,
    phase_started: Instant,
    phases: Vec<PhaseTime>,
    ending: Option<Ending>,
    log: VecDeque<Said>,
    lines: i64,
}

/// A line that waits for a heartbeat.
#[derive(Debug)]
struct Said {
    number: i64,
    at: Instant,
    level: LogLevel,
    message: String,
}

/// Lines that wait at most while the server is away; the oldest go.
const MOST_LINES: usize = 1000;

/// Why a computation must end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The job was cancelled.
    Cancelled,
    /// Another attempt holds the job.
    Lost,
    /// This worker shuts down.
    ShuttingDown,
}

impl Journal {
    pub fn new() -> Self {
        Self(Mutex::new(Entries {
            blocks: None,
            snapshots: Vec::new(),
            fit_state: None,
            projection_key: String::new(),
            fit_state_wanted: true,
            progress: None,
            fit_loss: None,
            phase_started: Instant::now(),
            phases: Vec::new(),
            ending: None,
            log: VecDeque::new(),
            lines: 0,
        }))
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Entries are plain values, whole after every statement: a panic elsewhere leaves them usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the computation to end; the first reason stays.
    pub fn end(&self, ending: Ending) {
        self.entries().ending.get_or_insert(ending);
    }

    /// Why the computation must end, where it must.
    pub fn ending(&self) -> Option<Ending> {
        self.entries().ending
    }

    /// Says something about the job to whoever reads its log.
    pub fn say(&self, level: LogLevel, message: impl Into<String>) {
        self.entries().say(level, message.into());
    }

    /// Notes the names of the blocks; the next heartbeat carries them.
    pub fn name_blocks(&self, blocks: &[String]) {
        self.entries().blocks = Some(blocks.to_vec());
    }

    /// Notes the projection that states of the fit belong to from now on.
    pub fn fit_along(&self, projection_key: &str) {
        projection_key.clone_into(&mut self.entries().projection_key);
    }

    /// Notes how far the job is, and the time each phase takes.
    pub fn report(&self, phase: Phase, done: u64, total: u64) -> Result<(), Error> {
        let mut entries = self.entries();
        if entries.ending.is_some() {
            return Err(Error::Stopped);
        }
        if entries.progress.as_ref().is_some_and(|progress| progress.phase != phase) {
            entries.close_phase();
        }
        if entries.progress.as_ref().is_none_or(|progress| progress.phase != phase) {
            entries.say(LogLevel::Info, format!("{phase} began"));
        }
        let fit_loss = entries.fit_loss.filter(|_| phase == Phase::Fit);
        entries.progress = Some(Progress { phase, done, total, fit_loss });
        Ok(())
    }

    /// The phases so far, the present one closed.
    pub fn phases(&self) -> Vec<PhaseTime> {
        let mut entries = self.entries();
        entries.close_phase();
        entries.phases.clone()
    }

    /// Whether snapshots or lines wait for a heartbeat.
    pub fn has_news(&self) -> bool {
        let entries = self.entries();
        !entries.snapshots.is_empty() || !entries.log.is_empty()
    }

    /// Everything a heartbeat has to say. Snapshots stay until [`Journal::acknowledge`].
    pub fn heartbeat(&self) -> Heartbeat {
        let mut entries = self.entries();
        entries.fit_state_wanted = true;
        Heartbeat {
            progress: entries.progress.clone(),
            fit_state: entries.fit_state.clone().map(Bytes64),
            blocks: entries.blocks.clone(),
            snapshots: entries.snapshots.clone(),
            log: entries.log.iter().map(Said::line).collect(),
        }
    }

    /// The server has stored this heartbeat.
    pub fn acknowledge(&self, heartbeat: &Heartbeat, directive: Directive) {
        let mut entries = self.entries();
        // By step, not by count: a heartbeat that overlapped this one may have carried some of them off already.
        if let Some(last) = heartbeat.snapshots.last() {
            entries.snapshots.retain(|snapshot| snapshot.step > last.step);
        }
        if let Some(last) = heartbeat.log.last() {
            entries.log.retain(|said| said.number > last.number);
        }
        let sent = heartbeat.fit_state.as_ref().map(|state| &state.0);
        if entries.fit_state.as_ref() == sent {
            entries.fit_state = None;
        }
        match directive {
            Directive::Continue => {}
            Directive::Stop => _ = entries.ending.get_or_insert(Ending::Cancelled),
            Directive::Lost => _ = entries.ending.get_or_insert(Ending::Lost),
        }
    }
}

impl Said {
    fn line(&self) -> NewLogLine {
        let age_ms = self.at.elapsed().as_millis() as u64;
        NewLogLine { number: self.number, age_ms, level: self.level, message: self.message.clone() }
    }
}

impl Entries {
    fn say(&mut self, level: LogLevel, message: String) {
        self.lines += 1;
        self.log.push_back(Said { number: self.lines, at: Instant::now(), level, message });
        if self.log.len() > MOST_LINES {
            self.log.pop_front();
        }
    }

    fn close_phase(&mut self) {
        let Some(progress) = &self.progress else { return };
        let phase = progress.phase.to_string();
        let seconds = self.phase_started.elapsed().as_secs_f64();
        self.phase_started = Instant::now();
        match self.phases.iter_mut().find(|time| time.phase == phase) {
            Some(time) => time.seconds += seconds,
            None => self.phases.push(PhaseTime { phase: phase.clone(), seconds }),
        }
        self.say(LogLevel::Info, format!("{phase} took {seconds:.1} s"));
    }
}

/// The core's view of a journal.
#[derive(Debug)]
pub(crate) struct Reporter<'a>(pub &'a Journal);

impl average::Progress for Reporter<'_> {
    fn report(&mut self, phase: average::Phase, done: u64, total: u64) -> Result<(), Error> {
        match phase {
            average::Phase::Projection if done > 0 && done * 2 >= total => faults::pass_blocking(Point::WorkerBuilding),
            average::Phase::Fit if done * 2 >= total => faults::pass_blocking(Point::WorkerFitting),
            _ => {}
        }
        let phase = match phase {
            average::Phase::Check => Phase::Fetch,
            average::Phase::Projection => Phase::Projection,
            average::Phase::Fit => Phase::Fit,
            average::Phase::Baselines => Phase::Baselines,
            average::Phase::Select => Phase::Select,
            average::Phase::Materialise => Phase::Materialise,
        };
        self.0.report(phase, done, total)
    }

    fn is_stopping(&self) -> bool {
        self.0.ending().is_some()
    }

    fn snapshot(&mut self, snapshot: average::Snapshot) {
        let mut entries = self.0.entries();
        entries.fit_loss = snapshot.fit_loss;
        entries.snapshots.push(Snapshot {
            step: snapshot.step,
            epoch: snapshot.epoch,
            learning_rate: snapshot.learning_rate,
            fit_loss: snapshot.fit_loss,
            select_loss: snapshot.select_loss,
            coefficients: Floats(snapshot.coefficients),
        });
    }

    fn resumable(&mut self, state: &dyn Fn() -> Vec<u8>) {
        let mut entries = self.0.entries();
        // Making the bytes costs a copy of the state: once a heartbeat is enough.
        if std::mem::take(&mut entries.fit_state_wanted) {
            entries.fit_state = Some(fit_state::bind(&entries.projection_key, &state()));
        }
    }
}

#[cfg(test)]
mod tests {
    use barycenter_core::average::Progress as _;

    use super::*;

    fn note(journal: &Journal, step: u64) {
        let (fit_loss, select_loss) = (Some(1.0), None);
        let (epoch, learning_rate, coefficients) = (0.0, 0.1, vec![1.0]);
        let snapshot = average::Snapshot { step, epoch, learning_rate, fit_loss, select_loss, coefficients };
        Reporter(journal).snapshot(snapshot);
    }

    #[test]
    fn lines_are_numbered_and_stay_until_they_are_acknowledged() {
        let journal = Journal::new();
        journal.say(LogLevel::Info, "one");
        let first = journal.heartbeat();
        journal.say(LogLevel::Warn, "two");
        journal.acknowledge(&first, Directive::Continue);
        let left: Vec<_> = journal.heartbeat().log.iter().map(|line| (line.number, line.message.clone())).collect();
        assert_eq!(left, [(2, "two".to_owned())]);
        for _ in 0..MOST_LINES {
            journal.say(LogLevel::Info, "more");
        }
        assert_eq!(journal.heartbeat().log.first().map(|line| line.number), Some(3), "the oldest goes");
    }

    #[test]
    fn heartbeats_that_overlap_carry_each_snapshot_off_once() {
        let journal = Journal::new();
        note(&journal, 0);
        note(&journal, 1);
        let first = journal.heartbeat();
        note(&journal, 2);
        let second = journal.heartbeat();
        journal.acknowledge(&second, Directive::Continue);
        note(&journal, 3);
        journal.acknowledge(&first, Directive::Continue);
        let left: Vec<u64> = journal.heartbeat().snapshots.iter().map(|snapshot| snapshot.step).collect();
        assert_eq!(left, [3]);
    }
}
