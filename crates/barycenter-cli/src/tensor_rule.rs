//! `PATTERN=POLICY` on the command line.

use barycenter_api::{TensorPolicy, TensorRule};
use barycenter_core::average;
use serde_json::json;

/// What an option says, in the words of the API.
pub fn tensor_rule(text: &str) -> Result<TensorRule, String> {
    let (pattern, policy) = text.rsplit_once('=').ok_or("expected PATTERN=POLICY, as in `classifier.*=copy`")?;
    let policy = serde_json::from_value(json!(policy)).map_err(|e| e.to_string())?;
    let rule = TensorRule { pattern: pattern.to_owned(), policy };
    self::policy(&rule).map_err(|e| e.to_string())?;
    Ok(rule)
}

/// The same for the core.
pub fn policy(rule: &TensorRule) -> barycenter_core::Result<average::TensorRule> {
    let policy = match rule.policy {
        TensorPolicy::Average => average::TensorPolicy::Average,
        TensorPolicy::Copy => average::TensorPolicy::Copy,
        TensorPolicy::Recompute => average::TensorPolicy::Recompute,
        TensorPolicy::Reject => average::TensorPolicy::Reject,
    };
    average::TensorRule::new(&rule.pattern, policy)
}
