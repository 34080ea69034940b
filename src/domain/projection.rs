//! Projections that workers share.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{blob::Blob, ids::CandidateSetId};

/// Most projections that one may extend, one behind the other; a longer chain begins anew.
pub const MAX_LINKS: usize = 64;

/// A projection in the server's cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    /// Identifier.
    pub projection_id: Uuid,
    /// What it is called.
    pub projection_key: String,
    /// Its file.
    pub blob: Blob,
    /// Candidates that it is of.
    pub candidate_count: u32,
    /// How often candidates came or went since it was built.
    pub revision_count: u32,
    /// Jobs whose worker fetched it.
    pub hit_count: u64,
    /// When it came.
    pub created_at: DateTime<Utc>,
    /// When a job last used it.
    pub used_at: DateTime<Utc>,
}

/// A projection that another one extends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its candidates.
    pub candidate_set_id: CandidateSetId,
    /// What it is called.
    pub projection_key: String,
}

/// Jobs of a worker by where their projection came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Built of its candidates.
    pub built: u64,
    /// Revised from one at hand.
    pub extended: u64,
    /// In the worker's own cache.
    pub cached: u64,
    /// From the server's cache.
    pub fetched: u64,
}

/// The links that still say something: those before the last one that is known to have been built although it extends another make
/// no difference.
pub fn pruned(links: Vec<Link>, drifted: &[String]) -> Vec<Link> {
    let first = links.iter().rposition(|link| drifted.contains(&link.projection_key)).unwrap_or(0);
    links.into_iter().skip(first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_before_the_last_that_was_built_anew_go() {
        let links: Vec<Link> = ["a", "b", "c", "d"]
            .into_iter()
            .map(|key| Link { candidate_set_id: Uuid::nil().into(), projection_key: key.to_owned() })
            .collect();
        let keys = |drifted: &[&str]| -> Vec<String> {
            let drifted: Vec<String> = drifted.iter().map(|key| (*key).to_owned()).collect();
            pruned(links.clone(), &drifted).into_iter().map(|link| link.projection_key).collect()
        };
        assert_eq!(keys(&[]), ["a", "b", "c", "d"]);
        assert_eq!(keys(&["b", "c", "x"]), ["c", "d"]);
        assert_eq!(keys(&["d"]), ["d"]);
    }
}
