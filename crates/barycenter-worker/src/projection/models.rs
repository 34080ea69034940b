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
    #[expect(dead_code, reason = "held so that the files stay")]
    held: (Model, Option<Models>),
}

impl<'a> ModelsOfLinks<'a> {
    pub(super) fn new(search: &'a Search<'a>) -> Self {
        Self { search, extra: HashMap::new() }
    }

    /// Opens the model of a candidate of the job or of a link.
    pub(super) fn open(&mut self, candidate: &LeasedCandidate) -> Result<CheckpointFile, Trouble> {
        let digest = &candidate.digest_blake3;
        let own = self.search.lease.candidates.iter().position(|own| own.digest_blake3 == *digest);
        let path = if let Some(place) = own {
            &self.search.models.files[place]
        } else {
            if !self.extra.contains_key(digest) {
                let extra = self.fetch(candidate)?;
                self.extra.insert(digest.clone(), extra);
            }
            &self.extra[digest].path
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
