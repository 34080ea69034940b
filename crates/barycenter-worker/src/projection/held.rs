//! The projection that a worker's last job ended with, in memory until its next job.
//!
//! A job that extends it, or fits along it again, begins with it at once, where reading it back costs more than revising it. While a
//! job runs nothing is held: the projection is the job's own, as its estimate of memory has it. Between jobs a worker holds its
//! process and at most the bytes that [`Held::new`] is given.

use std::sync::{Mutex, MutexGuard, PoisonError};

use barycenter_api::LeasedProjection;
use barycenter_core::projection::Projection;

/// One projection, by its key.
#[derive(Debug)]
pub(crate) struct Held {
    most_bytes: u64,
    latest: Mutex<Option<(String, Projection)>>,
}

impl Held {
    /// Holds nothing yet, and never a projection of more than `most_bytes` ([`Projection::held_bytes`]).
    pub fn new(most_bytes: u64) -> Self {
        Self { most_bytes, latest: Mutex::default() }
    }

    fn latest(&self) -> MutexGuard<'_, Option<(String, Projection)>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a projection in place of the one before, unless it is too large.
    pub fn hold(&self, key: &str, projection: Projection) {
        *self.latest() = (projection.held_bytes() <= self.most_bytes).then(|| (key.to_owned(), projection));
    }

    /// Gives the projection of this key away.
    pub fn take(&self, key: &str) -> Option<Projection> {
        self.latest().take_if(|(held, _)| held == key).map(|(_, projection)| projection)
    }

    /// Lets go of a projection that a job neither has nor extends, whose memory is the job's.
    pub fn make_room_for(&self, leased: Option<&LeasedProjection>) {
        let is_of_job = |held: &str| {
            leased.is_some_and(|leased| {
                let links = leased.links.iter().map(|link| &link.projection_key);
                let fresh = leased.fresh.iter().map(|fresh| &fresh.projection_key);
                links.chain(fresh).chain([&leased.projection_key]).any(|key| key == held)
            })
        };
        self.latest().take_if(|(held, _)| !is_of_job(held));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sample::projection, *};

    fn leased(key: &str, link: &str) -> LeasedProjection {
        serde_json::from_value(serde_json::json!({
            "projection_key": key, "links": [{ "projection_key": link, "candidates": [] }], "whole": true, "shared": true,
        }))
        .unwrap()
    }

    #[test]
    fn a_projection_is_held_up_to_the_bound_and_given_away_once() {
        let one = projection();
        // Two tiles of 8-bit codes with a scale for each of two candidates, and the centre.
        let bytes = 2 * 2 * (256 + 4) + 4 * 300;
        assert_eq!(one.held_bytes(), bytes);
        let held = Held::new(bytes);
        held.hold("a", one.clone());
        assert_eq!(held.take("b"), None);
        assert_eq!(held.take("a").as_ref(), Some(&one));
        assert_eq!(held.take("a"), None);
        let too_small = Held::new(bytes - 1);
        too_small.hold("a", one);
        assert_eq!(too_small.take("a"), None);
    }

    #[test]
    fn a_projection_that_is_too_large_takes_the_place_of_the_one_before_all_the_same() {
        let held = Held { most_bytes: 0, latest: Mutex::new(Some(("a".to_owned(), projection()))) };
        held.hold("b", projection());
        assert_eq!((held.take("a"), held.take("b")), (None, None));
    }

    #[test]
    fn a_job_that_has_no_use_for_what_is_held_gets_its_memory() {
        let held = Held::new(1 << 20);
        let is_held = |leased: Option<&LeasedProjection>| {
            held.hold("a", projection());
            held.make_room_for(leased);
            held.take("a").is_some()
        };
        assert!(is_held(Some(&leased("a", "x"))));
        assert!(is_held(Some(&leased("b", "a"))));
        assert!(!is_held(Some(&leased("b", "c"))));
        assert!(!is_held(None), "a job that needs no projection");
    }
}
