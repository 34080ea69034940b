//! How long deleted things can be undeleted.

use chrono::TimeDelta;

/// How long deleted things can be undeleted.
#[derive(Clone, Debug, clap::Args)]
pub struct DeletionConfig {
    /// Seconds after which a deleted thing and its bytes are removed for good; seven days unless told.
    #[arg(long = "delete-grace-seconds", env = "BARYCENTER_DELETE_GRACE_SECONDS", default_value_t = 7 * 24 * 60 * 60)]
    pub delete_grace_seconds: u32,
}

impl DeletionConfig {
    /// How long a deleted thing can be undeleted.
    pub fn grace(&self) -> TimeDelta {
        TimeDelta::seconds(self.delete_grace_seconds.into())
    }
}
