//! Names, dtypes and shapes of a file's tensors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::name::shown;

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tensor {
    /// Name in the state dict.
    pub name: String,
    /// Element type as safetensors spells it.
    pub dtype: String,
    /// Shape, row-major.
    pub shape: Vec<u64>,
}

/// The first tensor in which two layouts differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub tensor: String,
    /// How it differs.
    pub detail: String,
}

/// The first tensor, by name, in which `found` differs from `expected`; `reference` says in words where the latter is from.
pub fn first_difference(expected: &[Tensor], found: &[Tensor], reference: &str) -> Option<Difference> {
    let by_name = |tensors: &'_ [Tensor]| -> BTreeMap<String, Tensor> {
        tensors.iter().map(|tensor| (tensor.name.clone(), tensor.clone())).collect()
    };
    let (expected, found) = (by_name(expected), by_name(found));
    let names: std::collections::BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    names.into_iter().find_map(|name| {
        let detail = match (expected.get(name), found.get(name)) {
            (Some(_), None) => format!("is missing; {reference} has it"),
            (None, Some(_)) => format!("is unknown; {reference} has no such tensor"),
            (Some(a), Some(b)) if a.shape != b.shape => {
                format!("has shape {:?}, {reference} has {:?}", b.shape, a.shape)
            }
            (Some(a), Some(b)) if a.dtype != b.dtype => format!("is {}, {reference} has {}", b.dtype, a.dtype),
            _ => return None,
        };
        Some(Difference { tensor: shown(name), detail })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, dtype: &str, shape: &[u64]) -> Tensor {
        Tensor { name: name.into(), dtype: dtype.into(), shape: shape.into() }
    }

    #[test]
    fn the_first_difference_by_name_is_told() {
        let a = [tensor("b", "F32", &[2]), tensor("a", "F32", &[3, 4])];
        let difference = |found: &[Tensor]| first_difference(&a, found, "step 1").map(|d| (d.tensor, d.detail));
        let said = |tensor: &str, detail: &str| Some((tensor.to_owned(), detail.to_owned()));
        assert_eq!(difference(&[a[1].clone(), a[0].clone()]), None);
        let reshaped = [tensor("a", "F32", &[4, 3]), tensor("b", "F16", &[2])];
        assert_eq!(difference(&reshaped), said("a", "has shape [4, 3], step 1 has [3, 4]"));
        assert_eq!(difference(&a[1..]), said("b", "is missing; step 1 has it"));
        let more = [a[0].clone(), a[1].clone(), tensor("c", "F32", &[])];
        assert_eq!(difference(&more), said("c", "is unknown; step 1 has no such tensor"));
        let other = [a[1].clone(), tensor("b", "F16", &[2])];
        assert_eq!(difference(&other), said("b", "is F16, step 1 has F32"));
    }
}
