//! Which addresses are public: what a stranger's URL may make the server speak to.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// Prefixes that are not public, the narrower ones first, and what they are. From IANA's registries of special-purpose addresses,
/// with the addresses at which clouds tell their machines' secrets.
const SPECIAL: &[(&str, &str)] = &[
    ("169.254.169.254/32", "cloud metadata"),
    ("100.100.100.200/32", "cloud metadata"),
    ("168.63.129.16/32", "cloud metadata"),
    ("192.0.0.192/32", "cloud metadata"),
    ("fd00:ec2::254/128", "cloud metadata"),
    ("fd20:ce::254/128", "cloud metadata"),
    ("0.0.0.0/8", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a carrier's customers"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "set aside for protocols"),
    ("192.0.2.0/24", "for documentation"),
    ("192.88.99.0/24", "a relay"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("2001:db8::/32", "for documentation"),
    ("3fff::/20", "for documentation"),
    ("2001::/23", "set aside for protocols"),
    ("2002::/16", "a relay"),
    ("fc00::/7", "unique-local"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
];

/// The only part of IPv6 that is handed out as public.
const GLOBAL_V6: &str = "2000::/3";
/// An IPv4 address behind a translator stands in the last four bytes.
const TRANSLATED_V4: &str = "64:ff9b::/96";

/// What an address is, where it is not public.
pub fn special(address: IpAddr) -> Option<&'static str> {
    let address = embedded_v4(address.to_canonical());
    let found = SPECIAL.iter().find(|(prefix, _)| holds(prefix, address)).map(|(_, what)| *what);
    found.or_else(|| (address.is_ipv6() && !holds(GLOBAL_V6, address)).then_some("reserved"))
}

fn holds(prefix: &str, address: IpAddr) -> bool {
    prefix.parse::<IpNet>().expect("the table holds prefixes").contains(&address)
}

fn embedded_v4(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if holds(TRANSLATED_V4, address) => last_four(v6),
        other => other,
    }
}

fn last_four(address: Ipv6Addr) -> IpAddr {
    let [.., a, b, c, d] = address.octets();
    IpAddr::from([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(address: &str) -> Option<&'static str> {
        special(address.parse().unwrap())
    }

    #[test]
    fn addresses_that_are_not_public_are_told_by_what_they_are() {
        for (address, what) in [
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("::1", "loopback"),
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("::", "unspecified"),
            ("10.0.0.1", "private"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("100.64.0.1", "shared by a carrier's customers"),
            ("169.254.1.1", "link-local"),
            ("fe80::1", "link-local"),
            ("fec0::1", "site-local"),
            ("fd12:3456::1", "unique-local"),
            ("fc00::1", "unique-local"),
            ("169.254.169.254", "cloud metadata"),
            ("100.100.100.200", "cloud metadata"),
            ("168.63.129.16", "cloud metadata"),
            ("192.0.0.192", "cloud metadata"),
            ("fd00:ec2::254", "cloud metadata"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("240.0.0.1", "reserved"),
            ("192.0.2.1", "for documentation"),
            ("198.51.100.1", "for documentation"),
            ("203.0.113.1", "for documentation"),
            ("2001:db8::1", "for documentation"),
            ("3fff::1", "for documentation"),
            ("198.18.0.1", "for benchmarks"),
            ("192.0.0.1", "set aside for protocols"),
            ("2001::1", "set aside for protocols"),
            ("2002:7f00:1::", "a relay"),
            ("100::1", "reserved"),
            ("64:ff9b:1::1", "reserved"),
        ] {
            assert_eq!(told(address), Some(what), "{address}");
        }
    }

    #[test]
    fn an_ipv4_address_within_an_ipv6_one_is_looked_through() {
        assert_eq!(told("::ffff:127.0.0.1"), Some("loopback"));
        assert_eq!(told("::ffff:169.254.169.254"), Some("cloud metadata"));
        assert_eq!(told("::ffff:10.1.2.3"), Some("private"));
        assert_eq!(told("64:ff9b::10.1.2.3"), Some("private"));
        assert_eq!(told("::127.0.0.1"), Some("reserved"), "the deprecated form is no address of anyone");
    }

    #[test]
    fn public_addresses_are_public() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
        ] {
            assert_eq!(told(address), None, "{address}");
        }
    }
}
