//! What changed between two candidate sets.

use std::collections::HashMap;

use super::ids::CheckpointId;

/// Places in the first and in the second set.
pub type Places = (usize, usize);

/// What changed between two ordered sets; every member of either is in exactly one of the four lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Places in the second set of members that the first lacks.
    pub added: Vec<usize>,
    /// Places in the first set of members that the second lacks.
    pub removed: Vec<usize>,
    /// Members of both that have changed their order among the members of both: as few as explain the second order.
    pub moved: Vec<Places>,
    /// The other members of both.
    pub common: Vec<Places>,
}

/// Compares two sets; each names a checkpoint at most once.
pub fn diff(from: &[CheckpointId], to: &[CheckpointId]) -> Diff {
    let places: HashMap<&CheckpointId, usize> = from.iter().enumerate().map(|(place, id)| (id, place)).collect();
    let mut result = Diff::default();
    let mut shared = Vec::new();
    for (to_place, id) in to.iter().enumerate() {
        match places.get(id) {
            Some(&from_place) => shared.push((from_place, to_place)),
            None => result.added.push(to_place),
        }
    }
    let mut still_there = vec![false; from.len()];
    for &(from_place, _) in &shared {
        still_there[from_place] = true;
    }
    result.removed = (0..from.len()).filter(|&place| !still_there[place]).collect();
    let stays = longest_rising(&shared.iter().map(|&(from_place, _)| from_place).collect::<Vec<_>>());
    for (places, stays) in shared.into_iter().zip(stays) {
        if stays { &mut result.common } else { &mut result.moved }.push(places);
    }
    result
}

/// Which of these different numbers are in a longest rising subsequence.
fn longest_rising(numbers: &[usize]) -> Vec<bool> {
    // `ends[l]` is the place of the smallest number that ends a rising subsequence of length l + 1.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(numbers.len());
    for (place, number) in numbers.iter().enumerate() {
        let length = ends.partition_point(|&end| numbers[end] < *number);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        if length == ends.len() {
            ends.push(place);
        } else {
            ends[length] = place;
        }
    }
    let mut chosen = vec![false; numbers.len()];
    let mut next = ends.last().copied();
    while let Some(place) = next {
        chosen[place] = true;
        next = before[place];
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn ids(numbers: &[u128]) -> Vec<CheckpointId> {
        numbers.iter().map(|number| CheckpointId(Uuid::from_u128(*number))).collect()
    }

    #[test]
    fn a_diff_tells_what_came_went_and_moved() {
        let found = diff(&ids(&[1, 2, 3, 4, 5]), &ids(&[2, 5, 3, 4, 6]));
        assert_eq!(found.added, [4]);
        assert_eq!(found.removed, [0]);
        assert_eq!(found.moved, [(4, 1)], "one move explains the order");
        assert_eq!(found.common, [(1, 0), (2, 2), (3, 3)]);
    }

    fn sets() -> impl Strategy<Value = Vec<CheckpointId>> {
        let some = prop::sample::subsequence((0..12_u128).collect::<Vec<_>>(), 0..12);
        some.prop_shuffle().prop_map(|numbers| ids(&numbers))
    }

    proptest! {
        #[test]
        fn every_member_is_told_once(from in sets(), to in sets()) {
            let found = diff(&from, &to);
            let both = || found.moved.iter().chain(&found.common);
            let of_from: BTreeSet<usize> = found.removed.iter().copied().chain(both().map(|places| places.0)).collect();
            let of_to: BTreeSet<usize> = found.added.iter().copied().chain(both().map(|places| places.1)).collect();
            prop_assert_eq!(of_from.len(), from.len());
            prop_assert_eq!(of_to.len(), to.len());
            prop_assert_eq!(found.removed.len() + both().count(), from.len());
            prop_assert!(both().all(|&(a, b)| from[a] == to[b]));
            prop_assert!(found.common.windows(2).all(|pair| pair[0] < pair[1]), "common members keep their order");
        }

        #[test]
        fn a_set_is_equal_to_itself(set in sets()) {
            let found = diff(&set, &set);
            prop_assert_eq!(found.common.len(), set.len());
            prop_assert!(found.added.is_empty() && found.removed.is_empty() && found.moved.is_empty());
        }

        #[test]
        fn the_other_way_round_exchanges_added_and_removed(from in sets(), to in sets()) {
            let (there, back) = (diff(&from, &to), diff(&to, &from));
            prop_assert_eq!(there.added, back.removed);
            prop_assert_eq!(there.removed, back.added);
            prop_assert_eq!(there.moved.len(), back.moved.len());
        }
    }
}
