//! Postgres.

/// Postgres.
#[derive(Clone, clap::Args)]
pub struct DatabaseConfig {
    /// Connection URL of the Postgres database.
    #[arg(id = "database_url", long = "database-url", env = "DATABASE_URL", hide_env_values = true)]
    pub url: String,
    /// Connections that this process may hold open.
    #[arg(long = "database-pool-size", env = "BARYCENTER_DATABASE_POOL_SIZE", default_value_t = 16)]
    pub pool_size: u32,
}

impl std::fmt::Debug for DatabaseConfig {
    // The URL may carry a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseConfig").field("pool_size", &self.pool_size).finish_non_exhaustive()
    }
}
