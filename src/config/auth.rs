//! Who may call.

/// Who may call.
#[derive(Clone, Default, clap::Args)]
pub struct AuthConfig {
    /// Token that every call under `/v1` must carry as `Authorization: Bearer`; without it the API is open.
    #[arg(long = "api-token", env = "BARYCENTER_API_TOKEN", hide_env_values = true)]
    pub api_token: Option<String>,
}

impl AuthConfig {
    /// Digest of the configured token: what callers are compared with, so that the comparison takes constant time.
    pub fn token_digest(&self) -> Option<blake3::Hash> {
        self.api_token.as_deref().map(|token| blake3::hash(token.as_bytes()))
    }
}

impl std::fmt::Debug for AuthConfig {
    // The token is a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").field("api_token", &self.api_token.as_ref().map(|_| "set")).finish()
    }
}
