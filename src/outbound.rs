//! Speaks to the receivers of webhooks: the only connections of the server that go where a caller says.
//!
//! Whatever the URL, a connection is only made to an address that was checked: names are resolved by [`Guard`], which hands the
//! HTTP client nothing else, so a name that leads elsewhere a moment later gains nothing. No redirect is followed, no proxy used.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use reqwest::{
    Client,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect,
};
use url::{Host, Url};

use crate::{
    config::{Allowed, WebhookConfig},
    domain::{address::special, webhook::Outcome},
};

/// Bytes of an answer that are read; the rest is left.
const MAX_ANSWER_BYTES: usize = 4096;
/// Characters of an answer that are shown.
const SHOWN_CHARS: usize = 500;
/// A connection that is idle for longer is closed.
const IDLE: Duration = Duration::from_secs(30);

/// Speaks to receivers; cheap to clone.
#[derive(Clone)]
pub struct Outbound {
    http: Client,
    guard: Arc<Guard>,
    timeout: Duration,
}

/// Why a URL may not be reached.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Its address is not public and the settings do not allow it.
    #[error("{0}")]
    NotAllowed(String),
    /// Its host has no address.
    #[error("`{0}` has no address")]
    Unknown(String),
}

/// What a receiver said.
struct Answer {
    status: u16,
    /// The beginning of the body.
    text: String,
    retry_after: Option<Duration>,
}

/// `Retry-After` in seconds (RFC 9110, section 10.2.3); its other form, a date, is passed over.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

impl Outbound {
    /// With the names of the machine's resolver.
    pub fn new(config: &WebhookConfig) -> anyhow::Result<Self> {
        Self::with_names(config, Arc::new(SystemNames))
    }

    /// With the names of another resolver.
    pub fn with_names(config: &WebhookConfig, names: Arc<dyn Resolve>) -> anyhow::Result<Self> {
        let guard = Arc::new(Guard { allowed: config.webhook_allow.clone(), names });
        let http = Client::builder()
            .user_agent(concat!("barycenter/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::clone(&guard))
            .redirect(redirect::Policy::none())
            // A proxy would resolve the name by itself, and be within.
            .no_proxy()
            .pool_idle_timeout(IDLE)
            .timeout(config.timeout())
            .build()
            .context("no HTTP client for webhooks could be made")?;
        Ok(Self { http, guard, timeout: config.timeout() })
    }

    /// Checks that a URL's host has addresses and that all of them may be reached.
    pub async fn check(&self, url: &Url) -> Result<(), Refusal> {
        let Some(name) = self.guard.name_to_resolve(url)? else { return Ok(()) };
        let resolved = tokio::time::timeout(self.timeout, self.guard.addresses(name)).await;
        resolved.unwrap_or_else(|_| Err(Refusal::Unknown(name.to_owned()))).map(drop)
    }

    /// Posts JSON and tells what came of it; anything but 2xx is an error.
    pub async fn post(&self, url: &Url, headers: HeaderMap, body: String) -> Outcome {
        let begun = Instant::now();
        let sent = self.try_post(url, headers, body).await;
        let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Answer { status, text, retry_after } = match sent {
            Ok(answer) => answer,
            Err(error) => return Outcome { duration_ms, error: Some(error), ..Outcome::default() },
        };
        let error = match status {
            200..=299 => None,
            300..=399 => Some(format!("the receiver answered {status}; redirects are not followed")),
            _ => Some(format!("the receiver answered {status}")),
        };
        let answer = (!text.is_empty()).then_some(text);
        Outcome { status_code: Some(status), duration_ms, answer, error, retry_after }
    }

    async fn try_post(&self, url: &Url, mut headers: HeaderMap, body: String) -> Result<Answer, String> {
        // The client resolves names alone: an address that stands in the URL is checked here.
        self.guard.name_to_resolve(url).map_err(|refusal| refusal.to_string())?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let sent = self.http.post(url.clone()).headers(headers).body(body).send().await;
        let mut answer = sent.map_err(|error| self.explain(&error))?;
        let mut bytes = Vec::new();
        while bytes.len() < MAX_ANSWER_BYTES {
            match answer.chunk().await.map_err(|error| self.explain(&error))? {
                Some(chunk) => bytes.extend_from_slice(&chunk),
                None => break,
            }
        }
        let is_shown = |c: &char| !c.is_control() || *c == '\n';
        let text = String::from_utf8_lossy(&bytes).chars().filter(is_shown).take(SHOWN_CHARS).collect();
        Ok(Answer { status: answer.status().as_u16(), text, retry_after: retry_after(answer.headers()) })
    }

    /// What a failure was, without the URL, which may hold a token.
    fn explain(&self, error: &reqwest::Error) -> String {
        if error.is_timeout() {
            return format!("no whole answer within {} s", self.timeout.as_secs());
        }
        let mut cause: &(dyn Error + 'static) = error;
        while let Some(source) = cause.source() {
            cause = source;
            if let Some(refusal) = cause.downcast_ref::<Refusal>() {
                return refusal.to_string();
            }
        }
        if error.is_connect() { format!("no connection: {cause}") } else { format!("the exchange broke off: {cause}") }
    }
}

/// Resolves names to addresses that may be reached.
struct Guard {
    allowed: Vec<Allowed>,
    names: Arc<dyn Resolve>,
}

impl Guard {
    /// The name whose addresses are to be checked; `None` where the URL holds an address, and that may be reached.
    fn name_to_resolve<'a>(&self, url: &'a Url) -> Result<Option<&'a str>, Refusal> {
        match url.host() {
            Some(Host::Domain(name)) => Ok(Some(name)),
            Some(Host::Ipv4(address)) => self.check_address(None, address.into()).map(|()| None),
            Some(Host::Ipv6(address)) => self.check_address(None, address.into()).map(|()| None),
            None => Err(Refusal::Unknown(String::new())),
        }
    }

    /// The addresses of a name, where all of them may be reached: one that may not is reason enough to distrust the name.
    async fn addresses(&self, name: &str) -> Result<Vec<SocketAddr>, Refusal> {
        let unknown = || Refusal::Unknown(name.to_owned());
        let asked: Name = name.parse().map_err(|_| unknown())?;
        let addresses: Vec<SocketAddr> = self.names.resolve(asked).await.map_err(|_| unknown())?.collect();
        if addresses.is_empty() {
            return Err(unknown());
        }
        addresses.iter().try_for_each(|address| self.check_address(Some(name), address.ip()))?;
        Ok(addresses)
    }

    fn check_address(&self, name: Option<&str>, address: IpAddr) -> Result<(), Refusal> {
        let Some(what) = special(address) else { return Ok(()) };
        if self.allowed.iter().any(|allowed| allows(allowed, name, address)) {
            return Ok(());
        }
        let place = name.map_or_else(|| address.to_string(), |name| format!("`{name}` leads to {address}, which"));
        Err(Refusal::NotAllowed(format!(
            "{place} is no public address ({what}); the server's --webhook-allow can let it through"
        )))
    }
}

fn allows(allowed: &Allowed, name: Option<&str>, address: IpAddr) -> bool {
    match (allowed, name) {
        (Allowed::Prefix(prefix), _) => prefix.contains(&address.to_canonical()),
        (Allowed::Host(_), None) => false,
        (Allowed::Host(host), Some(name)) => {
            let name = name.trim_end_matches('.');
            name == host || host.starts_with('.') && name.ends_with(host.as_str())
        }
    }
}

/// Lets the HTTP client ask the guard.
impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = Self { allowed: self.allowed.clone(), names: Arc::clone(&self.names) };
        Box::pin(async move {
            let addresses = guard.addresses(name.as_str()).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The machine's resolver.
struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbound(allow: &[&str]) -> Outbound {
        let webhook_allow = allow.iter().map(|text| text.parse().unwrap()).collect();
        Outbound::new(&WebhookConfig { webhook_allow, webhook_timeout_seconds: 5 }).unwrap()
    }

    async fn refusal(outbound: &Outbound, url: &str) -> Option<String> {
        outbound.check(&url.parse().unwrap()).await.err().map(|refusal| refusal.to_string())
    }

    #[tokio::test]
    async fn an_address_is_looked_at_however_the_url_writes_it() {
        let outbound = outbound(&[]);
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.0.0.1:8080/",
            "http://017700000001/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://localhost/",
            "http://LOCALHOST:99/",
        ] {
            let refusal = refusal(&outbound, url).await.unwrap_or_default();
            assert!(refusal.contains("loopback"), "{url}: {refusal}");
        }
        assert_eq!(refusal(&outbound, "http://1.1.1.1:9999/").await, None);
        let metadata = refusal(&outbound, "http://169.254.169.254/latest/meta-data").await.unwrap();
        assert!(metadata.contains("cloud metadata"), "{metadata}");
    }

    #[tokio::test]
    async fn what_the_settings_allow_is_let_through_and_nothing_beside_it() {
        let by_prefix = outbound(&["127.0.0.0/31", "::1"]);
        assert_eq!(refusal(&by_prefix, "http://127.0.0.1/").await, None);
        assert_eq!(refusal(&by_prefix, "http://[::ffff:127.0.0.1]/").await, None);
        assert!(refusal(&by_prefix, "http://127.0.0.2/").await.is_some());
        let by_name = outbound(&["localhost"]);
        assert_eq!(refusal(&by_name, "http://localhost/").await, None);
        assert!(refusal(&by_name, "http://127.0.0.1/").await.is_some(), "the name is allowed, not the address");
        let below = Allowed::Host(".svc.local".into());
        let address = IpAddr::from([10, 0, 0, 1]);
        assert!(allows(&below, Some("a.svc.local"), address));
        assert!(allows(&below, Some("a.svc.local."), address));
        assert!(!allows(&below, Some("asvc.local"), address));
    }
}
