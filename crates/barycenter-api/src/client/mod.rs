//! The typed async client: one method for each operation of the HTTP API.
//!
//! Requests that were certainly not carried out (no connection, 429, 503) are sent again a few times, waiting as long as
//! `Retry-After` asks; requests that may be repeated without harm also after a broken connection.

mod artifact_files;
mod artifacts;
mod error;
mod exchange;
mod files;
mod jobs;
mod leases;
mod policies;
mod projections;
mod runs;
mod tracking;
mod transfer;
mod uploads;
mod webhooks;
mod workers;

use std::{net::IpAddr, time::Duration};

pub use error::{ClientError, Result};
pub use files::LocalFiles;
use reqwest::{
    Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
pub use tracking::Unless;
pub use transfer::{ByteCounter, Expected};
pub use uploads::IN_PARTS_ABOVE;

/// The longest that the server waits in a long poll, in seconds.
pub const LONGEST_WAIT_SECONDS: u32 = 25;

/// A client of one server. Cloning is cheap and shares the connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    repeats: usize,
}

impl Client {
    /// A client of the server at `base_url` (`http://127.0.0.1:8700`), with a bearer token where the server wants one.
    ///
    /// # Errors
    /// [`ClientError::Setup`] where the URL or the token cannot be used.
    pub fn new(base_url: &str, token: Option<&str>) -> Result<Self> {
        let base = parse_base(base_url)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("barycenter/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .tcp_keepalive(Duration::from_secs(15));
        // A proxy of the environment is for the world outside, never for a server on this machine.
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        if let Some(token) = token {
            builder = builder.default_headers(bearer(token)?);
        }
        let http = builder.build().map_err(|e| ClientError::Setup(format!("no HTTP client could be made: {e}")))?;
        Ok(Self { http, base, repeats: 5 })
    }

    /// The same client, sending a failed request again at most so many times; five times unless told (about 10 s).
    #[must_use]
    pub fn with_repeats(self, repeats: usize) -> Self {
        Self { repeats, ..self }
    }

    /// The server's URL.
    pub fn base_url(&self) -> &Url {
        &self.base
    }

    /// The URL of these path segments under `/v1`, each of them escaped.
    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("an http URL has a path").pop_if_empty().push("v1").extend(segments);
        url
    }

    /// The URL of an absolute path of the server, as its answers name them.
    fn url_of_path(&self, path: &str) -> Result<Url> {
        let base = self.base.as_str().trim_end_matches('/');
        let text = format!("{base}/{}", path.trim_start_matches('/'));
        Url::parse(&text).map_err(|e| ClientError::Setup(format!("`{path}` is not a path of the server: {e}")))
    }
}

fn parse_base(text: &str) -> Result<Url> {
    let refuse = |why: &str| {
        ClientError::Setup(format!("`{text}` is not the URL of a server ({why}); expected http://HOST:PORT"))
    };
    let url = Url::parse(text).map_err(|e| refuse(&e.to_string()))?;
    match (url.scheme(), url.host_str()) {
        ("http" | "https", Some(_)) => Ok(url),
        _ => Err(refuse("neither http nor https")),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn bearer(token: &str) -> Result<HeaderMap> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
        .map_err(|_| ClientError::Setup("the token holds characters that no HTTP header may hold".into()))?;
    // Keeps the token out of debug output.
    value.set_sensitive(true);
    Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}

#[cfg(test)]
mod tests;
