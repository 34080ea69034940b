//! Where the state dict is among the values of a pickle.

use std::collections::HashSet;

use super::value::{Node, Nodes, TensorNode, Value};
use crate::{Error, Result, checkpoint::layout::shown};

/// Deepest dict that is looked into without a key.
const DEEPEST: usize = 8;
/// State dicts that a message lists.
const LISTED: usize = 6;

/// Names and tensors of a state dict, in its order.
pub(super) type Entries<'n, 'a> = Vec<(&'a str, &'n TensorNode<'a>)>;

/// The state dict at `key`; without one the whole, where it has tensors itself, else the only dict in it that has.
///
/// # Errors
/// [`Error::Input`] where the key leads nowhere or the choice is open; [`Error::Corrupt`] where there is no state dict or one of its
/// entries is something else than a tensor and might hold one.
pub(super) fn find<'n, 'a>(nodes: &'n Nodes<'a>, root: Value, key: Option<&str>) -> Result<Entries<'n, 'a>> {
    let chosen = match key {
        Some(key) => resolve(nodes, root, key).ok_or_else(|| no_such_key(nodes, root, key))?,
        None => only(nodes, root)?,
    };
    let what = |why: &str| match key {
        Some(key) => Error::corrupt(format!("`{}` is {why}, not a state dict", shown(key))),
        None => Error::corrupt(format!("it holds {why}, not a state dict; save the model's `state_dict()`")),
    };
    let Some(Node::Dict(pairs)) = nodes.node(chosen) else { return Err(what(&nodes.kind(chosen))) };
    let entries = entries(nodes, pairs)?;
    if entries.is_empty() { Err(what("a dict without tensors")) } else { Ok(entries) }
}

/// The tensors of a dict; plain values beside them are let be.
fn entries<'n, 'a>(nodes: &'n Nodes<'a>, pairs: &[(Value, Value)]) -> Result<Entries<'n, 'a>> {
    let (mut entries, mut seen) = (Vec::new(), HashSet::new());
    for (key, value) in pairs {
        let name = nodes.text(*key);
        let called = || name.map_or_else(|| nodes.kind(*key), |name| format!("`{}`", shown(name)));
        match nodes.node(*value) {
            Some(Node::Tensor(tensor)) => {
                let name = name.ok_or_else(|| Error::corrupt(format!("a tensor is named by {}", called())))?;
                if !seen.insert(name) {
                    return Err(Error::corrupt(format!("tensor {} is there twice", called())));
                }
                entries.push((name, tensor));
            }
            _ if might_hold_tensor(nodes, *value) => {
                let (called, kind) = (called(), nodes.kind(*value));
                let hint = "choose a part with its key, or save plain tensors";
                return Err(Error::corrupt(format!("the state dict's {called} is {kind}, not a tensor; {hint}")));
            }
            _ => {}
        }
    }
    Ok(entries)
}

/// Whether a tensor, or something unknown that might be one, is anywhere in a value.
fn might_hold_tensor(nodes: &Nodes<'_>, value: Value) -> bool {
    let (mut left, mut seen) = (vec![value], HashSet::new());
    while let Some(value) = left.pop() {
        match nodes.node(value) {
            Some(Node::Tensor(_) | Node::Storage(_) | Node::Opaque(_)) => return true,
            // Values may be shared and even hold themselves: each is looked at once.
            Some(Node::Tuple(items) | Node::List(items)) if seen.insert(value_number(value)) => left.extend(items),
            Some(Node::Dict(pairs)) if seen.insert(value_number(value)) => {
                left.extend(pairs.iter().flat_map(|(key, value)| [*key, *value]));
            }
            _ => {}
        }
    }
    false
}

fn value_number(value: Value) -> usize {
    match value {
        Value::Node(number) => number,
        _ => usize::MAX,
    }
}

/// Follows a path of keys; a key may have dots of its own.
fn resolve(nodes: &Nodes<'_>, from: Value, path: &str) -> Option<Value> {
    let Some(Node::Dict(pairs)) = nodes.node(from) else { return None };
    let get =
        |wanted: &str| pairs.iter().rev().find(|(key, _)| nodes.text(*key) == Some(wanted)).map(|(_, value)| *value);
    get(path).or_else(|| path.match_indices('.').find_map(|(at, _)| resolve(nodes, get(&path[..at])?, &path[at + 1..])))
}

fn only(nodes: &Nodes<'_>, root: Value) -> Result<Value> {
    let candidates = candidates(nodes, root);
    match &candidates[..] {
        [] => Ok(root),
        [(_, only)] => Ok(*only),
        _ => {
            let what = "it holds several state dicts; choose one with its key";
            Err(Error::input(format!("{what}: {}", listed(&candidates))))
        }
    }
}

fn listed(candidates: &[(String, Value)]) -> String {
    let names: Vec<String> = candidates.iter().take(LISTED).map(|(path, _)| format!("`{}`", shown(path))).collect();
    let more = candidates.len().saturating_sub(LISTED);
    if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") }
}

/// Dicts with tensors of their own, by path. Those below one are parts of it, and a dict whose keys are no names (an
/// optimiser's) is no module.
fn candidates(nodes: &Nodes<'_>, root: Value) -> Vec<(String, Value)> {
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    let mut level = vec![(String::new(), root)];
    for _ in 0..DEEPEST {
        let mut next = Vec::new();
        for (path, value) in level {
            let Some(Node::Dict(pairs)) = nodes.node(value) else { continue };
            if !seen.insert(value_number(value)) {
                continue;
            }
            if pairs.iter().any(|(_, value)| matches!(nodes.node(*value), Some(Node::Tensor(_)))) {
                found.push((path, value));
                continue;
            }
            for (key, value) in pairs {
                if let (Some(key), Some(Node::Dict(_))) = (nodes.text(*key), nodes.node(*value)) {
                    let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                    next.push((path, *value));
                }
            }
        }
        level = next;
    }
    found
}

fn no_such_key(nodes: &Nodes<'_>, root: Value, key: &str) -> Error {
    let candidates = candidates(nodes, root);
    let hint = if candidates.is_empty() { String::new() } else { format!("; tensors are in {}", listed(&candidates)) };
    Error::input(format!("there is no `{}` in it{hint}", shown(key)))
}
