//! How a job comes by its projection: from a cache, by revising one that it extends, or by building it.
//!
//! Whichever way it is, the projection is the same to the bit: it is built of the first set that it extends and revised set by set
//! (`docs/projections.md`), and a cache only saves some of that.

mod chain;
mod held;
mod models;
#[cfg(test)]
mod sample;
mod saving;

use std::{path::Path, sync::Arc, time::Instant};

use barycenter_api::{Lease, LogLevel, Phase, ProjectionReport, ProjectionSource};
use barycenter_core::{Error, average::Averaging, checkpoint::CheckpointFile, projection::Projection};
use tracing::warn;

pub(crate) use self::held::Held;
use self::{chain::Chain, saving::Saving};
use crate::{
    failure::Failure,
    journal::{Journal, Reporter},
    lora::Models,
    tools::Tools,
};

/// What a projection is made of and with.
pub(crate) struct Search<'a> {
    pub lease: &'a Lease,
    pub averaging: &'a Averaging<'a>,
    /// The models of the job's candidates, in order, and opened.
    pub models: &'a Models,
    pub candidates: &'a [CheckpointFile],
    /// The base model, where the candidates are adapters.
    pub base: Option<&'a Path>,
    pub tools: &'a Tools,
    pub journal: &'a Journal,
}

/// A projection that was come by.
pub(crate) struct Found {
    pub projection: Arc<Projection>,
    pub report: ProjectionReport,
    /// Where it was made: on its way to the disk.
    saving: Option<Saving>,
}

impl Found {
    fn new(projection: Projection, report: ProjectionReport) -> Self {
        Self { projection: Arc::new(projection), report, saving: None }
    }

    /// Waits until the disk has the projection and holds it for the worker's next job. A disk that does not take it costs a later
    /// job the time to make it again, and this one nothing.
    pub fn keep(self, tools: &Tools, journal: &Journal) -> ProjectionReport {
        if let Some(Err(error)) = self.saving.map(Saving::finish) {
            warn!(%error, "the projection is not kept");
            journal.say(LogLevel::Warn, format!("the projection is not kept: {error}"));
        }
        // One whose key is empty is of no other job.
        if let Some(projection) = Arc::into_inner(self.projection).filter(|_| !self.report.projection_key.is_empty()) {
            tools.held.hold(&self.report.projection_key, projection);
        }
        self.report
    }
}

/// The projection of a job; none where its method needs none.
pub(crate) fn obtain(search: &Search<'_>) -> Result<Option<Found>, Failure> {
    search.journal.report(Phase::Projection, 0, 1)?;
    if !search.averaging.needs_projection() {
        return Ok(None);
    }
    let started = Instant::now();
    let mut found = match &search.lease.projection {
        Some(leased) => Chain::new(search, leased).obtain()?,
        None => Found::new(search.build()?, report("", ProjectionSource::Built)),
    };
    found.report.revisions = found.projection.revisions();
    found.report.seconds = started.elapsed().as_secs_f64();
    Ok(Some(found))
}

fn report(key: &str, source: ProjectionSource) -> ProjectionReport {
    ProjectionReport {
        projection_key: key.to_owned(),
        source,
        extended_from: None,
        fetched: source == ProjectionSource::Fetched,
        revisions: 0,
        drifted: Vec::new(),
        unfollowed: false,
        seconds: 0.0,
    }
}

impl Search<'_> {
    /// The projection of the job's candidates alone.
    fn build(&self) -> Result<Projection, Failure> {
        let built = self.averaging.build_projection(&mut Reporter(self.journal))?;
        Ok(built.ok_or_else(|| Error::input("the method of this job has no projection"))?)
    }
}
