//! How one set of candidates becomes another.

use std::collections::{HashMap, VecDeque};

/// How one set of candidates becomes another. What a candidate is called must tell its bytes: equal names are equal candidates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// For every candidate of the new set the position at which it stood; none for those that come.
    pub stays: Vec<Option<usize>>,
    /// Positions of those that go.
    pub dropped: Vec<usize>,
}

impl Change {
    /// The change between two sets. Of several equal candidates the first ones stay.
    pub fn between(before: &[&str], after: &[&str]) -> Self {
        let mut places: HashMap<&str, VecDeque<usize>> = HashMap::new();
        for (place, name) in before.iter().enumerate() {
            places.entry(name).or_default().push_back(place);
        }
        let stays: Vec<Option<usize>> =
            after.iter().map(|name| places.get_mut(name).and_then(VecDeque::pop_front)).collect();
        let mut dropped: Vec<usize> = places.into_values().flatten().collect();
        dropped.sort_unstable();
        Self { stays, dropped }
    }
}
