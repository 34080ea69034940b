//! What users keep beside a run: any JSON object.

use serde_json::{Map, Value};

/// Applies a merge patch (RFC 7396): `null` removes, objects merge, everything else replaces.
pub fn merge_patch(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(&key);
            }
            Value::Object(inner) => {
                let slot = target.entry(key).or_insert(Value::Null);
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(object) = slot {
                    merge_patch(object, inner);
                }
            }
            other => {
                target.insert(key, other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_merges_as_the_rfc_says() {
        for (target, patch, result) in [
            (json!({"a": 1}), json!({"b": 2}), json!({"a": 1, "b": 2})),
            (json!({"a": 1}), json!({"a": null}), json!({})),
            (
                json!({"a": {"b": 1, "c": 2}}),
                json!({"a": {"b": null, "d": [null]}}),
                json!({"a": {"c": 2, "d": [null]}}),
            ),
            (json!({"a": [1]}), json!({"a": {"b": {"c": null}}}), json!({"a": {"b": {}}})),
            (json!({"a": {"b": 1}}), json!({"a": 7}), json!({"a": 7})),
        ] {
            let (Value::Object(mut object), Value::Object(changes)) = (target, patch) else { unreachable!() };
            merge_patch(&mut object, changes);
            assert_eq!(Value::Object(object), result);
        }
    }
}
