//! Where HTTP listens.

use std::net::SocketAddr;

/// Where HTTP listens.
#[derive(Clone, Debug, clap::Args)]
pub struct HttpConfig {
    /// Address and port to listen on.
    #[arg(long = "bind", env = "BARYCENTER_BIND", default_value = "127.0.0.1:8700")]
    pub bind: SocketAddr,
}
