//! The models that a projection is revised by: candidates of its links that the job itself may not have.

use std::{collections::HashMap, path::PathBuf};

use barycenter_api::{LeasedCandidate, Phase, client::ClientError};
use barycenter_core::checkpoint::{self, CheckpointFile, OpenOptions};

use super::{Search, chain::Trouble};
use crate::{fetch::Model, lora::Models};

/// The models of a job and of the links of its projection, fetched when they are first asked for.
pub(super) struct ModelsOfLinks<'a> {
    search: &'a Search<'a>,
    /// Those that are none of the job's candidates, by the digests of their checkpoints.
    extra: HashMap<String, Extra>,
}

/// A model that a link has and the job has not.
struct Extra {
    path: PathBuf,
    file: CheckpointFile,
    #[expect(dead_code, reason = "held so that the files stay")]
    held: (Model, Option<Models>),
}

impl<'a> ModelsOfLinks<'a> {
    pub(super) fn new(search: &'a Search<'a>) -> Self {
        Self { search, extra: HashMap::new() }
    }

    /// Opens the models of candidates of the job or of its links.
    pub(super) fn open<'b>(&mut self, candidates: impl Iterator<Item = &'b LeasedCandidate>) -> Result<(), Trouble> {
        for candidate in candidates {
            if self.own(candidate).is_none() && !self.extra.contains_key(&candidate.digest_blake3) {
                let extra = self.fetch(candidate)?;
                self.extra.insert(candidate.digest_blake3.clone(), extra);
            }
        }
        Ok(())
    }

    /// A model that was opened.
    pub(super) fn opened(&self, candidate: &LeasedCandidate) -> &CheckpointFile {
        match self.own(candidate) {
            // Mapped already, and read when the job's inputs were checked.
            Some(place) => &self.search.candidates[place],
            None => &self.extra[&candidate.digest_blake3].file,
        }
    }

    /// The model of a candidate, opened once more.
    pub(super) fn copy(&mut self, candidate: &LeasedCandidate) -> Result<CheckpointFile, Trouble> {
        self.open(std::iter::once(candidate))?;
        let path = match self.own(candidate) {
            Some(place) => &self.search.models.files[place],
            None => &self.extra[&candidate.digest_blake3].path,
        };
        Ok(checkpoint::open(path, &OpenOptions::default())?)
    }

    /// Where the candidate stands among those of the job.
    fn own(&self, candidate: &LeasedCandidate) -> Option<usize> {
        self.search.lease.candidates.iter().position(|own| own.digest_blake3 == candidate.digest_blake3)
    }

    fn fetch(&self, candidate: &LeasedCandidate) -> Result<Extra, Trouble> {
        let Search { lease, base, tools, journal, .. } = *self.search;
        journal.report(Phase::Projection, 0, 1)?;
        let model = tools.fetch(candidate).map_err(|error| gone_or_failed(candidate, error))?;
        let (path, models) = match lease.spec.lora.as_ref().zip(base) {
            None => (model.path().to_owned(), None),
            Some((lora, base)) => {
                let models = Models::adapted(lora, base, &[model.path().to_owned()], tools.cache.scratch())?;
                (models.files[0].clone(), Some(models))
            }
        };
        let file = checkpoint::open(&path, &OpenOptions::default())?;
        Ok(Extra { path, file, held: (model, models) })
    }
}

/// A checkpoint that is no more cannot be waited for.
fn gone_or_failed(candidate: &LeasedCandidate, error: ClientError) -> Trouble {
    match error.status().map(|status| status.as_u16()) {
        Some(404 | 410) => {
            Trouble::Gone(format!("the checkpoint {} of step {} is gone", candidate.checkpoint_id, candidate.step))
        }
        _ => Trouble::Failed(error.into()),
    }
}
