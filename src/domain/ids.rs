//! Identifiers: one type for each thing, so that no two can be mistaken for each other.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The text was not an identifier.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a {kind} id: a UUID such as 0190f3a8-0000-7000-8000-000000000001")]
pub struct InvalidId {
    /// What was given.
    pub text: String,
    /// What it should identify.
    pub kind: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $kind:literal,)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// What the identifier stands for, in words.
            pub const KIND: &'static str = $kind;
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.parse().map(Self).map_err(|_| InvalidId { text: text.to_owned(), kind: $kind })
            }
        }
    )*};
}

ids! {
    /// A training run.
    RunId = "run",
    /// A checkpoint.
    CheckpointId = "checkpoint",
    /// A candidate set.
    CandidateSetId = "candidate set",
    /// A dataset.
    DatasetId = "dataset",
    /// A job.
    JobId = "job",
    /// A lease, which is also the fencing token of an attempt.
    LeaseId = "lease",
    /// A worker.
    WorkerId = "worker",
    /// An averaged model.
    ArtifactId = "artifact",
    /// An upload on its way into object storage.
    UploadId = "upload",
    /// A webhook.
    WebhookId = "webhook",
    /// The delivery of one event to one webhook.
    DeliveryId = "delivery",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_id_is_refused_by_its_kind() {
        let error = "resnet".parse::<JobId>().unwrap_err();
        assert!(error.to_string().starts_with("`resnet` is not a job id"), "{error}");
    }
}
