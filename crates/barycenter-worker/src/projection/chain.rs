//! The projections that lead to that of a job, one revised from the other.

use std::{path::Path, sync::Arc};

use barycenter_api::{
    LeasedCandidate, LeasedProjection, LogLevel, Phase, ProjectionReport, ProjectionSource, SharedProjection,
};
use barycenter_core::{
    Error,
    projection::{Change, Member, Projection, Revision},
};
use tracing::warn;

use super::{Found, Search, models::ModelsOfLinks, report, saving::Saving};
use crate::{failure::Failure, journal::Reporter, sharing::Offer};

/// Why a projection cannot be had in one way.
pub(super) enum Trouble {
    /// What it extends is gone.
    Gone(String),
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The projections that lead to that of a job: its links, and at the place behind the last its own.
pub(super) struct Chain<'a> {
    search: &'a Search<'a>,
    leased: &'a LeasedProjection,
    models: ModelsOfLinks<'a>,
}

impl<'a> Chain<'a> {
    pub(super) fn new(search: &'a Search<'a>, leased: &'a LeasedProjection) -> Self {
        Self { search, leased, models: ModelsOfLinks::new(search) }
    }

    /// From the latest link at hand, else from the first, else without any.
    pub(super) fn obtain(&mut self) -> Result<Found, Failure> {
        let own = self.leased.links.len();
        for place in (0..=own).rev() {
            let (key, stored) = self.named(place);
            let Some((projection, source)) = self.at_hand(key, stored, self.candidates(place).len())? else { continue };
            if place == own {
                return Ok(Found::new(projection, report(key, source)));
            }
            return match self.follow(place, projection) {
                Ok(followed) => Ok(self.keep(followed, Some((key, source)))),
                Err(Trouble::Gone(why)) => self.without_links(&why),
                Err(Trouble::Failed(failure)) => Err(failure),
            };
        }
        if !self.leased.whole {
            return self.without_links("candidate sets that it rests on were deleted");
        }
        let followed = self.build(0).and_then(|first| self.follow(0, first));
        match followed {
            Ok(followed) => Ok(self.keep(followed, None)),
            Err(Trouble::Gone(why)) => self.without_links(&why),
            Err(Trouble::Failed(failure)) => Err(failure),
        }
    }

    /// Key of a place, and where the server has its projection.
    fn named(&self, place: usize) -> (&'a str, Option<&'a SharedProjection>) {
        match self.leased.links.get(place) {
            Some(link) => (&link.projection_key, link.stored.as_ref()),
            None => (&self.leased.projection_key, self.leased.stored.as_ref()),
        }
    }

    fn candidates(&self, place: usize) -> &'a [LeasedCandidate] {
        self.leased.links.get(place).map_or(&self.search.lease.candidates, |link| &link.candidates)
    }

    /// A projection of this key from the worker's memory, its cache, or the server's; a damaged one is passed over.
    fn at_hand(
        &self,
        key: &str,
        stored: Option<&SharedProjection>,
        candidates: usize,
    ) -> Result<Option<(Projection, ProjectionSource)>, Failure> {
        self.search.journal.report(Phase::Projection, 0, 1)?;
        let tools = self.search.tools;
        let Some(path) = tools.cache.projection(key) else { return Ok(None) };
        let held = tools.held.take(key).filter(|held| self.search.averaging.fits(held, candidates));
        if let Some(projection) = held {
            return Ok(Some((projection, ProjectionSource::Cached)));
        }
        if path.exists() {
            match self.load(&path, candidates) {
                Ok(projection) => return Ok(Some((projection, ProjectionSource::Cached))),
                Err(error) => self.pass_over("a cached projection is damaged and is not used", &path, &error),
            }
        }
        let Some(shared) = stored else { return Ok(None) };
        let fetched = tools.fetch_projection(key, shared).map_err(|error| error.to_string());
        match fetched.and_then(|path| self.load(&path, candidates)) {
            Ok(projection) => Ok(Some((projection, ProjectionSource::Fetched))),
            Err(error) => {
                self.pass_over("a projection of the server's cache cannot be used", &path, &error);
                Ok(None)
            }
        }
    }

    fn load(&self, path: &Path, candidates: usize) -> Result<Projection, String> {
        let projection = Projection::load(path).map_err(|error| error.to_string())?;
        if self.search.averaging.fits(&projection, candidates) {
            return Ok(projection);
        }
        Err("it is one of other candidates, tensors or blocks".to_owned())
    }

    fn pass_over(&self, what: &str, path: &Path, error: &str) {
        warn!(error, "{what}");
        self.search.journal.say(LogLevel::Warn, format!("{what}: {error}"));
        // It may not be there, or be in the way of a better one.
        let _ = std::fs::remove_file(path);
    }

    /// Revises the projection of a place link by link to that of the job; returns also the keys of those that had to be built.
    fn follow(&mut self, from: usize, first: Projection) -> Result<(Projection, Vec<String>), Trouble> {
        let (mut projection, mut drifted) = (first, Vec::new());
        for place in from + 1..=self.leased.links.len() {
            self.search.journal.report(Phase::Projection, 0, 1)?;
            projection = if let Some(revised) = self.revise(projection, place)? {
                revised
            } else {
                drifted.push(self.named(place).0.to_owned());
                self.build(place)?
            };
        }
        Ok((projection, drifted))
    }

    /// The projection of a place from the one before it; none where it drifted too far.
    fn revise(&mut self, before: Projection, place: usize) -> Result<Option<Projection>, Trouble> {
        let (old, new) = (self.candidates(place - 1), self.candidates(place));
        let change = Change::between(&digests(old), &digests(new));
        let going = change.dropped.iter().map(|i| &old[*i]);
        let coming = new.iter().zip(&change.stays).filter(|(_, stays)| stays.is_none()).map(|(candidate, _)| candidate);
        self.models.open(going.chain(coming))?;
        let members = new.iter().zip(&change.stays).map(|(candidate, stays)| match stays {
            Some(position) => Member::Stays(*position),
            None => Member::Comes(self.models.opened(candidate)),
        });
        let dropped = change.dropped.iter().map(|i| (*i, self.models.opened(&old[*i])));
        let revision = Revision { members: members.collect(), dropped: dropped.collect() };
        Ok(before.revised(&revision)?)
    }

    /// Builds the projection of a place from all its candidates.
    fn build(&mut self, place: usize) -> Result<Projection, Trouble> {
        if place == self.leased.links.len() {
            return Ok(self.search.build()?);
        }
        let candidates = self.candidates(place).iter();
        let files = candidates.map(|candidate| self.models.copy(candidate)).collect::<Result<Vec<_>, _>>()?;
        let built = self.search.averaging.build_projection_of(&files, &mut Reporter(self.search.journal))?;
        Ok(built.ok_or_else(|| Error::input("the method of this job has no projection"))?)
    }

    /// Keeps a projection that was made, here and for other workers.
    fn keep(&self, (projection, drifted): (Projection, Vec<String>), from: Option<(&str, ProjectionSource)>) -> Found {
        let source = match from {
            Some(_) if drifted.is_empty() => ProjectionSource::Extended,
            _ => ProjectionSource::Built,
        };
        let extended_from = from.filter(|_| source == ProjectionSource::Extended);
        let fetched = extended_from.is_some_and(|(_, source)| source == ProjectionSource::Fetched);
        let extended_from = extended_from.map(|(key, _)| key.to_owned());
        let report = report(&self.leased.projection_key, source);
        let report = ProjectionReport { extended_from, fetched, drifted, ..report };
        self.save(Found::new(projection, report), self.leased.stored.is_none())
    }

    /// Begins to write a projection that was made, beside whatever comes next.
    fn save(&self, mut found: Found, lacking: bool) -> Found {
        let Search { lease, tools, .. } = *self.search;
        let key = &found.report.projection_key;
        let Some(path) = tools.cache.projection(key) else { return found };
        let (lease_id, revisions) = (lease.lease_id, found.projection.revisions());
        let offer = Offer { lease_id, projection_key: key.to_owned(), revisions, file: path.clone() };
        let offer = (self.leased.shared && lacking).then(|| (Arc::clone(&tools.sharing), offer));
        match Saving::begin(Arc::clone(&found.projection), path, offer) {
            Ok(saving) => found.saving = Some(saving),
            Err(error) => warn!(%error, "the projection is not kept"),
        }
        found
    }

    /// The projection of the candidates alone, where what it was to extend cannot be followed.
    fn without_links(&self, why: &str) -> Result<Found, Failure> {
        let told =
            format!("the projection is that of the candidates alone, since what it extends cannot be followed: {why}");
        warn!("{told}");
        self.search.journal.say(LogLevel::Warn, told);
        let unfollowed = |key, source| ProjectionReport { unfollowed: true, ..report(key, source) };
        let Some(fresh) = &self.leased.fresh else {
            return Ok(Found::new(self.search.build()?, unfollowed("", ProjectionSource::Built)));
        };
        let (key, stored) = (&fresh.projection_key, fresh.stored.as_ref());
        if let Some((projection, source)) = self.at_hand(key, stored, self.search.lease.candidates.len())? {
            return Ok(Found::new(projection, unfollowed(key, source)));
        }
        let built = Found::new(self.search.build()?, unfollowed(key, ProjectionSource::Built));
        Ok(self.save(built, stored.is_none()))
    }
}

fn digests(candidates: &[LeasedCandidate]) -> Vec<&str> {
    candidates.iter().map(|candidate| candidate.digest_blake3.as_str()).collect()
}
