//! How a job comes by its projection: from a cache, by revising one that it extends, or by building it.
//!
//! Whichever way it is, the projection is the same to the bit: it is built of the first set that it extends and revised set by set
//! (`docs/projections.md`), and a cache only saves some of that.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Instant,
};

use barycenter_api::{
    Lease, LeasedCandidate, LeasedProjection, LogLevel, Phase, ProjectionReport, ProjectionSource, SharedProjection,
    client::ClientError,
};
use barycenter_core::{
    Error,
    average::Averaging,
    checkpoint::{self, CheckpointFile, OpenOptions},
    projection::{Change, Member, Projection, Revision},
};
use tracing::warn;

use crate::{
    failure::Failure,
    fetch::Model,
    journal::{Journal, Reporter},
    lora::Models,
    sharing::Offer,
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

/// Why a projection cannot be had in one way.
enum Trouble {
    /// What it extends is gone.
    Gone(String),
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
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
        Some(leased) => Chain { search, leased, models: HashMap::new() }.obtain()?,
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

/// The projections that lead to that of a job: its links, and at the place behind the last its own.
struct Chain<'a> {
    search: &'a Search<'a>,
    leased: &'a LeasedProjection,
    /// Models that are none of the job's candidates, by the digests of their checkpoints.
    models: HashMap<String, Extra>,
}

/// A model that a link has and the job has not.
struct Extra {
    path: PathBuf,
    #[expect(dead_code, reason = "held so that the files stay")]
    held: (Model, Option<Models>),
}

impl<'a> Chain<'a> {
    /// From the latest link at hand, else from the first, else without any.
    fn obtain(&mut self) -> Result<Found, Failure> {
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
            projection = match self.revise(projection, place)? {
                Some(revised) => revised,
                None => {
                    drifted.push(self.named(place).0.to_owned());
                    self.build(place)?
                }
            };
        }
        Ok((projection, drifted))
    }

    /// The projection of a place from the one before it; none where it drifted too far.
    fn revise(&mut self, before: Projection, place: usize) -> Result<Option<Projection>, Trouble> {
        let (old, new) = (self.candidates(place - 1), self.candidates(place));
        let change = Change::between(&digests(old), &digests(new));
        let going = change.dropped.iter().map(|i| self.open(&old[*i])).collect::<Result<Vec<_>, _>>()?;
        let coming = new.iter().zip(&change.stays).filter(|(_, stays)| stays.is_none());
        let coming = coming.map(|(candidate, _)| self.open(candidate)).collect::<Result<Vec<_>, _>>()?;
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
        let files = candidates.map(|candidate| self.open(candidate)).collect::<Result<Vec<_>, _>>()?;
        let built = self.search.averaging.build_projection_of(&files, &mut Reporter(self.search.journal))?;
        Ok(built.ok_or_else(|| Error::input("the method of this job has no projection"))?)
    }

    /// Opens the model of a candidate of the job or of a link, fetched where it is not at hand.
    fn open(&mut self, candidate: &LeasedCandidate) -> Result<CheckpointFile, Trouble> {
        let digest = &candidate.digest_blake3;
        let own = self.search.lease.candidates.iter().position(|own| own.digest_blake3 == *digest);
        let path = match own {
            Some(place) => &self.search.models.files[place],
            None => {
                if !self.models.contains_key(digest) {
                    let extra = self.fetch(candidate)?;
                    self.models.insert(digest.clone(), extra);
                }
                &self.models[digest].path
            }
        };
        Ok(checkpoint::open(path, &OpenOptions::default())?)
    }

    fn fetch(&self, candidate: &LeasedCandidate) -> Result<Extra, Trouble> {
        let Search { lease, base, tools, journal, .. } = *self.search;
        journal.report(Phase::Projection, 0, 1)?;
        let model = tools.fetch(candidate).map_err(|error| gone_or_failed(candidate, error))?;
        let Some((lora, base)) = lease.spec.lora.as_ref().zip(base) else {
            return Ok(Extra { path: model.path().to_owned(), held: (model, None) });
        };
        let models = Models::adapted(lora, base, &[model.path().to_owned()], tools.cache.scratch())?;
        Ok(Extra { path: models.files[0].clone(), held: (model, Some(models)) })
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
        let told = format!("the projection is that of the candidates alone, since what it extends cannot be followed: {why}");
        warn!("{told}");
        self.search.journal.say(LogLevel::Warn, told);
        let Some(fresh) = &self.leased.fresh else {
            return Ok((self.search.build()?, ProjectionReport { unfollowed: true, ..report("", ProjectionSource::Built) }));
        };
        let (key, stored) = (&fresh.projection_key, fresh.stored.as_ref());
        let (projection, source) = match self.at_hand(key, stored, self.search.lease.candidates.len())? {
            Some(found) => found,
            None => {
                let built = self.search.build()?;
                self.save(key, &built, stored.is_none())?;
                (built, ProjectionSource::Built)
            }
        };
        Ok((projection, ProjectionReport { unfollowed: true, ..report(key, source) }))
    }
}

fn digests(candidates: &[LeasedCandidate]) -> Vec<&str> {
    candidates.iter().map(|candidate| candidate.digest_blake3.as_str()).collect()
}

/// A checkpoint that is no more cannot be waited for.
fn gone_or_failed(candidate: &LeasedCandidate, error: ClientError) -> Trouble {
    match error.status().map(|status| status.as_u16()) {
        Some(404 | 410) => Trouble::Gone(format!("the checkpoint {} of step {} is gone", candidate.checkpoint_id, candidate.step)),
        _ => Trouble::Failed(error.into()),
    }
}
