//! The projections that lead to that of a job, one revised from the other.

use std::path::Path;

use barycenter_api::{
    LeasedCandidate, LeasedProjection, LogLevel, Phase, ProjectionReport, ProjectionSource, SharedProjection,
};
use barycenter_core::{
    Error,
    projection::{Change, Member, Projection, Revision},
};
use tracing::warn;

use super::{Found, Search, models::ModelsOfLinks, report};
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
                return Ok((projection, report(key, source)));
            }
            return match self.follow(place, projection) {
                Ok(found) => self.keep(found, Some((key, source))),
                Err(Trouble::Gone(why)) => self.without_links(&why),
                Err(Trouble::Failed(failure)) => Err(failure),
            };
        }
        if !self.leased.whole {
            return self.without_links("candidate sets that it rests on were deleted");
        }
        let followed = self.build(0).and_then(|first| self.follow(0, first));
        match followed {
            Ok(found) => self.keep(found, None),
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

    /// A projection of this key from the worker's cache or the server's; a damaged one is passed over.
    fn at_hand(
        &self,
        key: &str,
        stored: Option<&SharedProjection>,
        candidates: usize,
    ) -> Result<Option<(Projection, ProjectionSource)>, Failure> {
        self.search.journal.report(Phase::Projection, 0, 1)?;
        let tools = self.search.tools;
        let Some(path) = tools.cache.projection(key) else { return Ok(None) };
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
        let going = change.dropped.iter().map(|i| self.models.open(&old[*i])).collect::<Result<Vec<_>, _>>()?;
        let coming = new.iter().zip(&change.stays).filter(|(_, stays)| stays.is_none());
        let coming = coming.map(|(candidate, _)| self.models.open(candidate)).collect::<Result<Vec<_>, _>>()?;
        let mut files = coming.iter();
        let members = change.stays.iter().map(|stays| match stays {
            Some(position) => Member::Stays(*position),
            None => Member::Comes(files.next().expect("a file was opened for each that comes")),
        });
        let revision =
            Revision { members: members.collect(), dropped: change.dropped.iter().copied().zip(&going).collect() };
        Ok(before.revised(&revision)?)
    }

    /// Builds the projection of a place from all its candidates.
    fn build(&mut self, place: usize) -> Result<Projection, Trouble> {
        if place == self.leased.links.len() {
            return Ok(self.search.build()?);
        }
        let candidates = self.candidates(place).iter();
        let files = candidates.map(|candidate| self.models.open(candidate)).collect::<Result<Vec<_>, _>>()?;
        let built = self.search.averaging.build_projection_of(&files, &mut Reporter(self.search.journal))?;
        Ok(built.ok_or_else(|| Error::input("the method of this job has no projection"))?)
    }

    /// Keeps a projection that was made, here and for other workers.
    fn keep(
        &self,
        (projection, drifted): (Projection, Vec<String>),
        from: Option<(&str, ProjectionSource)>,
    ) -> Result<Found, Failure> {
        let key = &self.leased.projection_key;
        self.save(key, &projection, self.leased.stored.is_none())?;
        let source = match from {
            Some(_) if drifted.is_empty() => ProjectionSource::Extended,
            _ => ProjectionSource::Built,
        };
        let extended_from = from.filter(|_| source == ProjectionSource::Extended);
        let fetched = extended_from.is_some_and(|(_, source)| source == ProjectionSource::Fetched);
        let extended_from = extended_from.map(|(key, _)| key.to_owned());
        Ok((projection, ProjectionReport { extended_from, fetched, drifted, ..report(key, source) }))
    }

    fn save(&self, key: &str, projection: &Projection, lacking: bool) -> Result<(), Failure> {
        let Search { lease, tools, .. } = *self.search;
        let Some(path) = tools.cache.projection(key) else { return Ok(()) };
        projection.save(&path)?;
        if self.leased.shared && lacking {
            let (lease_id, revisions) = (lease.lease_id, projection.revisions());
            tools.sharing.offer(Offer { lease_id, projection_key: key.to_owned(), revisions, file: path });
        }
        Ok(())
    }

    /// The projection of the candidates alone, where what it was to extend cannot be followed.
    fn without_links(&self, why: &str) -> Result<Found, Failure> {
        let told =
            format!("the projection is that of the candidates alone, since what it extends cannot be followed: {why}");
        warn!("{told}");
        self.search.journal.say(LogLevel::Warn, told);
        let Some(fresh) = &self.leased.fresh else {
            return Ok((
                self.search.build()?,
                ProjectionReport { unfollowed: true, ..report("", ProjectionSource::Built) },
            ));
        };
        let (key, stored) = (&fresh.projection_key, fresh.stored.as_ref());
        let at_hand = self.at_hand(key, stored, self.search.lease.candidates.len())?;
        let (projection, source) = if let Some(found) = at_hand {
            found
        } else {
            let built = self.search.build()?;
            self.save(key, &built, stored.is_none())?;
            (built, ProjectionSource::Built)
        };
        Ok((projection, ProjectionReport { unfollowed: true, ..report(key, source) }))
    }
}

fn digests(candidates: &[LeasedCandidate]) -> Vec<&str> {
    candidates.iter().map(|candidate| candidate.digest_blake3.as_str()).collect()
}
