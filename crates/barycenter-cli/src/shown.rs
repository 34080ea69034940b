//! How the API's things look to a person.

use barycenter_api::{
    Alias, Among, Artifact, CandidateSet, CandidateSetRule, Checkpoint, Dataset, Direction, Job, JobSummary, LogLine,
    Project, Projection, ProjectionCounts, Run, Waiting, Worker,
};
use chrono::{DateTime, Utc};
use serde::Serialize;

/// Something that can be listed and shown.
pub trait Shown: Serialize {
    /// Headings of its list.
    const COLUMNS: &'static [&'static str];
    /// What names it on the wire.
    fn id(&self) -> String;
    /// Its line in a list.
    fn row(&self) -> Vec<String>;
    /// Its properties, one by one.
    fn details(&self) -> Vec<(&'static str, String)> {
        Self::COLUMNS.iter().copied().zip(self.row()).collect()
    }
}

impl Shown for Run {
    const COLUMNS: &'static [&'static str] = &["name", "checkpoints", "created", "id"];

    fn id(&self) -> String {
        self.run_id.to_string()
    }

    fn row(&self) -> Vec<String> {
        vec![self.name.clone(), self.checkpoint_count.to_string(), time(self.created_at), self.id()]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut pairs: Vec<_> = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        pairs.extend(self.description.clone().map(|text| ("description", text)));
        pairs.push(("project", self.project.clone()));
        pairs.push(("revision", self.revision.to_string()));
        pairs.extend(self.metadata.iter().map(|(key, value)| ("metadata", format!("{key}: {value}"))));
        pairs
    }
}

impl Shown for Alias {
    const COLUMNS: &'static [&'static str] = &["alias", "names", "id", "moved"];

    fn id(&self) -> String {
        self.checkpoint_id.or(self.artifact_id).map(|id| id.to_string()).unwrap_or_default()
    }

    fn row(&self) -> Vec<String> {
        let kind = if self.checkpoint_id.is_some() { "checkpoint" } else { "artifact" };
        vec![self.alias.clone(), kind.to_owned(), self.id(), time(self.moved_at)]
    }
}

impl Shown for Checkpoint {
    const COLUMNS: &'static [&'static str] = &["step", "epoch", "metrics", "tags", "pinned", "size", "created", "id"];

    fn id(&self) -> String {
        self.checkpoint_id.to_string()
    }

    fn row(&self) -> Vec<String> {
        let metrics: Vec<_> = self.metrics.iter().map(|(name, value)| format!("{name}={value}")).collect();
        vec![
            self.step.to_string(),
            self.epoch.map(|epoch| epoch.to_string()).unwrap_or_default(),
            metrics.join(" "),
            self.tags.join(" "),
            if self.pinned { "pinned".to_owned() } else { String::new() },
            bytes(self.size_bytes),
            time(self.created_at),
            self.id(),
        ]
    }
}

impl Shown for Dataset {
    const COLUMNS: &'static [&'static str] = &["name", "kind", "samples", "input", "size", "created", "id"];

    fn id(&self) -> String {
        self.dataset_id.to_string()
    }

    fn row(&self) -> Vec<String> {
        let shape: Vec<_> = self.input_shape.iter().map(ToString::to_string).collect();
        vec![
            self.name.clone(),
            match self.target_count {
                Some(count) => format!("{} ({count})", self.kind),
                None => self.kind.to_string(),
            },
            self.sample_count.to_string(),
            format!("{} {}", shape.join("x"), self.input_dtype),
            bytes(self.size_bytes),
            time(self.created_at),
            self.id(),
        ]
    }
}

impl Shown for CandidateSet {
    const COLUMNS: &'static [&'static str] = &["name", "rule", "members", "steps", "created", "id"];

    fn id(&self) -> String {
        self.candidate_set_id.to_string()
    }

    fn row(&self) -> Vec<String> {
        let steps: Vec<_> = self.members.iter().map(|member| member.step.to_string()).collect();
        vec![
            self.name.as_ref().map(|name| format!("{name} (version {})", self.version)).unwrap_or_default(),
            rule(&self.rule),
            self.members.len().to_string(),
            steps.join(" "),
            time(self.created_at),
            self.id(),
        ]
    }
}

impl Shown for JobSummary {
    const COLUMNS: &'static [&'static str] = &["state", "progress", "created", "finished", "id"];

    fn id(&self) -> String {
        self.job_id.to_string()
    }

    fn row(&self) -> Vec<String> {
        let progress = self.progress.as_ref().map(|p| format!("{} {}/{}", p.phase, p.done, p.total));
        vec![
            self.state.to_string(),
            progress.unwrap_or_default(),
            time(self.created_at),
            self.finished_at.map(time).unwrap_or_default(),
            self.id(),
        ]
    }
}

impl Shown for Job {
    const COLUMNS: &'static [&'static str] = &["id", "state", "created", "finished", "artifact"];

    fn id(&self) -> String {
        self.job_id.to_string()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.id(),
            self.state.to_string(),
            time(self.created_at),
            self.finished_at.map(time).unwrap_or_default(),
            self.artifact_id.map(|id| id.to_string()).unwrap_or_default(),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut pairs: Vec<_> = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        pairs.retain(|(_, value)| !value.is_empty());
        pairs.push(("candidate set", self.spec.candidate_set_id.to_string()));
        pairs.push(("memory", bytes(self.estimate.total_bytes)));
        pairs.extend(self.waiting.as_ref().map(|waiting_for| ("waiting", waiting(waiting_for))));
        pairs.push(("project", self.project.clone()));
        pairs.extend((self.priority != 0).then(|| ("priority", self.priority.to_string())));
        pairs.extend(self.deadline_at.map(|at| ("deadline", time(at))));
        if self.cancel_requested && !self.state.is_terminal() {
            pairs.push(("cancel", "requested".into()));
        }
        for attempt in &self.attempts {
            let state = serde_json::to_value(attempt.state).ok().and_then(|v| v.as_str().map(str::to_owned));
            let error = attempt.error.as_ref().map(|e| format!(" ({}: {})", e.code, e.message)).unwrap_or_default();
            let line = format!("{} on {}: {}{error}", attempt.attempt, attempt.worker, state.unwrap_or_default());
            pairs.push(("attempt", line));
        }
        pairs.extend(self.error.as_ref().map(|error| ("error", format!("{}: {}", error.code, error.message))));
        pairs
    }
}

impl Shown for Worker {
    const COLUMNS: &'static [&'static str] =
        &["name", "state", "alive", "job", "device", "memory", "projection hits", "version", "seen", "id"];

    fn id(&self) -> String {
        self.worker_id.to_string()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.state.to_string(),
            if self.alive { "alive" } else { "gone" }.to_owned(),
            self.job_id.map(|id| id.to_string()).unwrap_or_default(),
            self.device.name.clone(),
            self.memory_bytes.map(bytes).unwrap_or_default(),
            hits(&self.projection_counts),
            self.version.clone(),
            time(self.seen_at),
            self.id(),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let mut pairs: Vec<_> = Self::COLUMNS.iter().copied().zip(self.row()).collect();
        pairs.push(("registered", time(self.registered_at)));
        pairs.push(("networks", if self.networks.is_empty() { "all".to_owned() } else { self.networks.join(" ") }));
        pairs.push(("projections", self.projections.len().to_string()));
        let ProjectionCounts { built, extended, cached, fetched, .. } = self.projection_counts;
        let sources = format!("{built} built, {extended} extended, {cached} cached, {fetched} fetched");
        pairs.push(("projections of jobs", sources));
        pairs
    }
}

/// `3 of 4 (75 %)`: jobs that found their projection, or one to extend, of all that needed one.
fn hits(counts: &ProjectionCounts) -> String {
    let hits = counts.extended + counts.cached + counts.fetched;
    let rate = counts.hit_rate.map(|rate| format!("{hits} of {} ({:.0} %)", hits + counts.built, 100.0 * rate));
    rate.unwrap_or_default()
}

impl Shown for Projection {
    const COLUMNS: &'static [&'static str] =
        &["projection", "candidates", "revisions", "size", "hits", "created", "used"];

    fn id(&self) -> String {
        self.projection_key.clone()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.id(),
            self.candidates.to_string(),
            self.revisions.to_string(),
            bytes(self.size_bytes),
            self.hits.to_string(),
            time(self.created_at),
            time(self.used_at),
        ]
    }
}

impl Shown for Project {
    const COLUMNS: &'static [&'static str] = &["project", "running", "of at most", "queued", "created"];

    fn id(&self) -> String {
        self.project.clone()
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.project.clone(),
            self.running_jobs.to_string(),
            self.max_running_jobs.map(|most| most.to_string()).unwrap_or_default(),
            self.queued_jobs.to_string(),
            time(self.created_at),
        ]
    }
}

impl Shown for Artifact {
    const COLUMNS: &'static [&'static str] = &["id", "job", "size", "digest", "created"];

    fn id(&self) -> String {
        self.artifact_id.to_string()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let pairs = Self::COLUMNS.iter().copied().zip(self.row());
        let times = [
            ("expires", self.expires_at),
            ("drops its bytes", self.drops_at),
            ("bytes dropped", self.dropped_at),
            ("deleted", self.deleted_at),
        ];
        let times = times.into_iter().filter_map(|(name, at)| Some((name, time(at?))));
        let kept = self.kept.as_ref().map(|kept| ("kept", bytes(kept.size_bytes)));
        pairs.chain(times).chain(kept).collect()
    }

    fn row(&self) -> Vec<String> {
        let digest = self.digest_blake3.clone();
        vec![self.id(), self.job_id.to_string(), bytes(self.size_bytes), digest, time(self.created_at)]
    }
}

fn rule(rule: &CandidateSetRule) -> String {
    match rule {
        CandidateSetRule::Explicit { .. } => "explicit".into(),
        CandidateSetRule::Last { count, among } => filtered(format!("last {count}"), among),
        CandidateSetRule::Best { count, metric, direction, among } => {
            let end = if *direction == Direction::Min { "least" } else { "greatest" };
            filtered(format!("{count} of {end} {metric}"), among)
        }
        CandidateSetRule::Steps { from, to, every, among } => {
            let to = to.map(|to| format!(" to {to}")).unwrap_or_default();
            let thinned = if *every == 1 { String::new() } else { format!(", every {every}.") };
            filtered(format!("steps {from}{to}{thinned}"), among)
        }
    }
}

/// The rule with its filters, as the command line writes them.
fn filtered(rule: String, among: &Among) -> String {
    let end = |step: Option<i64>| step.map(|step| step.to_string()).unwrap_or_default();
    let steps = (among.from.or(among.to)).map(|_| format!("steps {}:{}", end(among.from), end(among.to)));
    let every = among.every.map(|every| format!("every {every}."));
    let tags = among.tags.iter().map(|tag| format!("tag {tag}"));
    let conditions = among.conditions.clone();
    let exclude = (!among.exclude.is_empty()).then(|| format!("without {}", among.exclude.join(" ")));
    let filters: Vec<_> = steps.into_iter().chain(every).chain(tags).chain(conditions).chain(exclude).collect();
    if filters.is_empty() { rule } else { format!("{rule} of {}", filters.join(", ")) }
}

/// `number 3 in the queue: every worker that could take it is at work`
pub fn waiting(waiting: &Waiting) -> String {
    let until = waiting.until.map(|at| format!(" (until {})", time(at))).unwrap_or_default();
    format!("number {} in the queue: {}{until}", waiting.position, waiting.detail)
}

/// `2026-01-02 03:04:05Z 1 info  fit began`
pub fn log_line(line: &LogLine) -> String {
    format!("{} {} {:5} {}", time(line.logged_at), line.attempt, line.level.as_str(), line.message)
}

/// A time to the second.
pub fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A size with a binary unit.
pub fn bytes(size: u64) -> String {
    indicatif::BinaryBytes(size).to_string()
}
