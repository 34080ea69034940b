//! Where webhooks may lead and how long receivers may take.

use std::{str::FromStr, time::Duration};

use ipnet::IpNet;

/// Where webhooks may lead and how long receivers may take.
#[derive(Clone, Debug, clap::Args)]
pub struct WebhookConfig {
    /// Addresses (`10.1.0.0/16`, `::1`), hosts (`hooks.internal`) or domains (`.svc.cluster.local`) that webhooks may lead to although
    /// they are not public; may be given several times.
    ///
    /// None unless told: webhooks reach public addresses alone.
    #[arg(long = "webhook-allow", env = "BARYCENTER_WEBHOOK_ALLOW", value_delimiter = ',', value_name = "PREFIX|HOST")]
    pub webhook_allow: Vec<Allowed>,
    /// Seconds that the receiver of a webhook has for its answer.
    #[arg(long = "webhook-timeout-seconds", env = "BARYCENTER_WEBHOOK_TIMEOUT_SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=30))]
    pub webhook_timeout_seconds: u32,
}

impl WebhookConfig {
    /// How long a try may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.webhook_timeout_seconds.into())
    }
}

/// What webhooks may reach although it is not public.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// The addresses of a prefix.
    Prefix(IpNet),
    /// A host of this name; one that begins with a dot stands for every host below it.
    Host(String),
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(prefix) = text.parse::<IpNet>() {
            return Ok(Self::Prefix(prefix));
        }
        if let Ok(address) = text.parse::<std::net::IpAddr>() {
            return Ok(Self::Prefix(address.into()));
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if text.trim_matches('.').is_empty() || !text.chars().all(is_name) {
            return Err(format!("`{text}` is neither a prefix such as 10.1.0.0/16 nor the name of a host"));
        }
        Ok(Self::Host(text.to_ascii_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_addresses_and_hosts_are_told_apart() {
        assert_eq!("10.1.0.0/16".parse(), Ok(Allowed::Prefix("10.1.0.0/16".parse().unwrap())));
        assert_eq!("::1".parse(), Ok(Allowed::Prefix("::1/128".parse().unwrap())));
        assert_eq!("Hooks.internal".parse(), Ok(Allowed::Host("hooks.internal".into())));
        for wrong in ["", ".", "10.1.0.0/40", "http://host", "a host"] {
            assert!(wrong.parse::<Allowed>().is_err(), "{wrong}");
        }
    }
}
