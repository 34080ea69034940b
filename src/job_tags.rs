//! What jobs looked like a moment ago, so that whoever polls one again and again costs no query.
//!
//! A hint of this server alone, never the truth: an entry is good for a second at most, is dropped when this server changes the job, and
//! when any server reports a change of its state. It answers only whether a caller has the job as it is already.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    db::notify::{JobChanges, Missed, Subscription},
    domain::ids::JobId,
};

/// How long an entry is good for. For as long again it answers all but the first who asks, who reads the job anew: a thousand who
/// poll one job cost one query each time.
const GOOD_FOR: Duration = Duration::from_millis(500);
/// Entries beyond which those that are good no more are removed.
const MOST: usize = 10_000;

/// `ETag`s of jobs that were read a moment ago.
#[derive(Debug)]
pub struct JobTags(Mutex<Entries>);

#[derive(Debug)]
struct Entries {
    tags: HashMap<JobId, Entry>,
    changes: Subscription,
}

#[derive(Debug)]
struct Entry {
    read_at: Instant,
    tag: String,
    /// Whether someone reads the job anew.
    is_renewed: bool,
}

impl JobTags {
    /// None yet; hears of changes from now on.
    pub fn new(changes: &JobChanges) -> Self {
        Self(Mutex::new(Entries { tags: HashMap::new(), changes: changes.subscribe() }))
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Plain values, whole after every statement: a panic elsewhere leaves them usable.
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.hear();
        entries
    }

    /// The tag of a job, where it is good; `None` where the caller is to read the job.
    pub fn find(&self, job_id: JobId) -> Option<String> {
        let mut entries = self.entries();
        let entry = entries.tags.get_mut(&job_id)?;
        let age = entry.read_at.elapsed();
        if age < GOOD_FOR || (age < 2 * GOOD_FOR && std::mem::replace(&mut entry.is_renewed, true)) {
            return Some(entry.tag.clone());
        }
        None
    }

    /// Keeps the tag of a job that was read at `read_at`.
    pub fn keep(&self, job_id: JobId, read_at: Instant, tag: String) {
        let mut entries = self.entries();
        if entries.tags.len() >= MOST {
            entries.tags.retain(|_, entry| entry.read_at.elapsed() < 2 * GOOD_FOR);
        }
        if entries.tags.len() < MOST {
            entries.tags.insert(job_id, Entry { read_at, tag, is_renewed: false });
        }
    }

    /// Drops the tag of a job that this server has changed.
    pub fn forget(&self, job_id: JobId) {
        self.entries().tags.remove(&job_id);
    }
}

impl Entries {
    fn hear(&mut self) {
        loop {
            match self.changes.next_reported() {
                Ok(Some(change)) => _ = self.tags.remove(&change.job_id),
                Ok(None) => return,
                Err(Missed) => self.tags.clear(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "0190f3a8-0000-7000-8000-000000000001";

    #[test]
    fn a_tag_is_good_for_a_moment_and_until_the_job_changes() {
        let tags = JobTags::new(&JobChanges::default());
        let job_id: JobId = JOB.parse().unwrap();
        let now = Instant::now();
        tags.keep(job_id, now, "a".to_owned());
        assert_eq!(tags.find(job_id).as_deref(), Some("a"));
        tags.forget(job_id);
        assert_eq!(tags.find(job_id), None);
        tags.keep(job_id, now.checked_sub(2 * GOOD_FOR).unwrap(), "a".to_owned());
        assert_eq!(tags.find(job_id), None);
    }

    #[test]
    fn one_of_all_who_poll_reads_the_job_anew() {
        let tags = JobTags::new(&JobChanges::default());
        let job_id: JobId = JOB.parse().unwrap();
        tags.keep(job_id, Instant::now().checked_sub(GOOD_FOR).unwrap(), "a".to_owned());
        let found = [(); 3].map(|()| tags.find(job_id));
        assert_eq!(found, [None, Some("a".to_owned()), Some("a".to_owned())]);
    }

    #[test]
    fn a_reported_change_drops_the_tag() {
        let changes = JobChanges::default();
        let tags = JobTags::new(&changes);
        let job_id: JobId = JOB.parse().unwrap();
        tags.keep(job_id, Instant::now(), "a".to_owned());
        changes.report(&format!("running {job_id}"));
        assert_eq!(tags.find(job_id), None);
    }
}
