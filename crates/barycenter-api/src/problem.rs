//! Errors on the wire: RFC 9457 problem details.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An `application/problem+json` body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `/problems/<code>`: where the code is explained.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// What the code means, the same text for every occurrence.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, naming the field, tensor, candidate or file.
    pub detail: String,
    /// The path that was asked for.
    pub instance: String,
    /// Stable machine-readable code.
    pub code: String,
    /// The `x-request-id` of the exchange.
    pub request_id: String,
    /// The fields at fault, where there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One field at fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Dotted path of the field, or the tensor's name.
    pub field: String,
    /// What is wrong with it.
    pub detail: String,
}
