//! How a job comes by its projection: from a cache, by revising one that it extends, or by building it.
//!
//! Whichever way it is, the projection is the same to the bit: it is built of the first set that it extends and revised set by set
//! (`docs/projections.md`), and a cache only saves some of that.

mod chain;
mod models;

use std::{path::Path, time::Instant};

use barycenter_api::{Lease, Phase, ProjectionReport, ProjectionSource};
use barycenter_core::{Error, average::Averaging, projection::Projection};

use self::chain::Chain;
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
    /// The models of the job's candidates, in order.
    pub models: &'a Models,
    /// The base model, where the candidates are adapters.
    pub base: Option<&'a Path>,
    pub tools: &'a Tools,
    pub journal: &'a Journal,
}

/// A projection with what there is to tell of it.
pub(crate) type Found = (Projection, ProjectionReport);

/// The projection of a job; none where its method needs none.
pub(crate) fn obtain(search: &Search<'_>) -> Result<Option<Found>, Failure> {
    search.journal.report(Phase::Projection, 0, 1)?;
    if !search.averaging.needs_projection() {
        return Ok(None);
    }
    let started = Instant::now();
    let (projection, mut report) = match &search.lease.projection {
        Some(leased) => Chain::new(search, leased).obtain()?,
        None => (search.build()?, report("", ProjectionSource::Built)),
    };
    report.revisions = projection.revisions();
    report.seconds = started.elapsed().as_secs_f64();
    Ok(Some((projection, report)))
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
