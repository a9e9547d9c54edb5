//! Which hosts may be asked for files on behalf of whoever may apply an Adapter. Pure.
//!
//! The default lets `https` reach public addresses alone: nothing of this machine, of its network, or of a cloud's
//! metadata service. A rule opens one host or one network, for `http` as well. Names are judged by the addresses that
//! they resolve to, at the moment of the connection, so that a name cannot change its mind in between. Replicas have the
//! same rule: what they would not reach is not read here either.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use reqwest::Url;

/// A host, or a network, that is allowed beyond the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRule {
    /// A host by name or address, at one port or any.
    Host(String, Option<u16>),
    /// Every address of a network.
    Network(IpAddr, u8),
}

/// A text that is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST, HOST:PORT or ADDRESS/BITS, got {0:?}")]
pub struct InvalidHostRule(String);

/// Why a host may not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Forbidden(String);

/// What may be reached. The rule is the replicas' own.
#[derive(Clone, Debug, Default)]
pub struct HostPolicy {
    /// What is allowed beyond public addresses over https.
    pub allow: Vec<HostRule>,
}

impl fmt::Display for HostRule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, None) => out.write_str(host),
            Self::Host(host, Some(port)) => write!(out, "{host}:{port}"),
            Self::Network(address, bits) => write!(out, "{address}/{bits}"),
        }
    }
}

impl FromStr for HostRule {
    type Err = InvalidHostRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidHostRule(text.chars().take(80).collect());
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| invalid())?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(invalid)?;
            return Ok(Self::Network(address, bits));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address, if address.is_ipv4() { 32 } else { 128 }));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| invalid())?)),
            None => (text, None),
        };
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b".-[]:".contains(&byte);
        if host.is_empty() || !host.bytes().all(letters) {
            return Err(invalid());
        }
        Ok(Self::Host(host.to_ascii_lowercase(), port))
    }
}

impl HostPolicy {
    /// Whether `url` may be asked, as far as the URL tells: a name's addresses are judged when it is resolved.
    ///
    /// # Errors
    /// With the reason.
    pub fn check(&self, url: &Url) -> Result<(), Forbidden> {
        let host = url.host_str().unwrap_or_default();
        if self.names(url) {
            return Ok(());
        }
        if url.scheme() != "https"
            && !self.address_of(url).is_some_and(|address| self.allows_network(address))
        {
            return Err(Forbidden(format!("{host}: only https is allowed here")));
        }
        match self.address_of(url) {
            Some(address) if !self.allows(address) => {
                Err(Forbidden(format!("{host}: the address is not public")))
            }
            _ => Ok(()),
        }
    }

    /// Whether a rule names the URL's host and port: then its name may lead anywhere. Every other URL is asked with a
    /// client that connects to allowed addresses alone.
    #[must_use]
    pub fn names(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default().trim_end_matches('.');
        let port = url.port_or_known_default();
        self.allow.iter().any(|rule| match rule {
            HostRule::Host(allowed, at) => allowed == host && (at.is_none() || *at == port),
            HostRule::Network(..) => false,
        })
    }

    /// Whether a connection to `address` is allowed.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        is_public(address) || self.allows_network(address)
    }

    fn allows_network(&self, address: IpAddr) -> bool {
        let plain = address.to_canonical();
        self.allow.iter().any(|rule| match rule {
            HostRule::Network(network, bits) => is_in(plain, *network, *bits),
            HostRule::Host(..) => false,
        })
    }

    fn address_of(&self, url: &Url) -> Option<IpAddr> {
        let host = url.host_str()?;
        host.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }
}

fn is_in(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let shifted = |value: u128, width: u32| value.checked_shr(width - u32::from(bits)).unwrap_or(0);
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            shifted(u128::from(u32::from(a)), 32) == shifted(u128::from(u32::from(b)), 32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => shifted(u128::from(a), 128) == shifted(u128::from(b), 128),
        _ => false,
    }
}

/// Whether an address is one of the internet's, and of nothing nearer.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol = a == 192 && b == 0 && c == 0;
    let benchmark = a == 198 && (18..20).contains(&b);
    let relay = a == 192 && b == 88 && c == 99;
    // A node's settings on Azure, with what it may.
    let azure = address == Ipv4Addr::new(168, 63, 129, 16);
    !(a == 0
        || a >= 224
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || shared
        || protocol
        || benchmark
        || relay
        || azure)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let words = address.segments();
    // Only 2000::/3 is given out; in it, what carries or stands for IPv4 is judged by nobody here, so it is refused.
    let given_out = words[0] & 0xe000 == 0x2000;
    let teredo_and_kin = words[0] == 0x2001 && words[1] < 0x200;
    let six_to_four = words[0] == 0x2002;
    let documentation = words[0] == 0x2001 && words[1] == 0x0db8 || words[0] == 0x3fff && words[1] < 0x1000;
    given_out && !teredo_and_kin && !six_to_four && !documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str]) -> HostPolicy {
        HostPolicy { allow: allow.iter().map(|rule| rule.parse().unwrap()).collect() }
    }

    fn check(policy: &HostPolicy, url: &str) -> bool {
        policy.check(&Url::parse(url).unwrap()).is_ok()
    }

    #[test]
    fn by_default_only_public_addresses_over_https() {
        let default = HostPolicy::default();
        for good in ["https://huggingface.co/x", "https://1.1.1.1/x", "https://[2606:4700::1111]/x"] {
            assert!(check(&default, good), "{good}");
        }
        for bad in [
            "http://huggingface.co/x",
            "https://127.0.0.1/x",
            "https://2130706433/x",
            "https://0x7f.1/x",
            "https://127.1/x",
            "https://0.0.0.0/x",
            "https://10.1.2.3/x",
            "https://172.16.0.1/x",
            "https://192.168.1.1/x",
            "https://169.254.169.254/latest/meta-data",
            "https://168.63.129.16/x",
            "https://100.64.0.1/x",
            "https://[::1]/x",
            "https://[::ffff:127.0.0.1]/x",
            "https://[::ffff:7f00:1]/x",
            "https://[::127.0.0.1]/x",
            "https://[fe80::1]/x",
            "https://[fd00::1]/x",
            "https://[64:ff9b::a9fe:a9fe]/x",
            "https://[2002:7f00:1::]/x",
            "https://224.0.0.1/x",
            "https://255.255.255.255/x",
        ] {
            assert!(!check(&default, bad), "{bad}");
        }
    }

    #[test]
    fn a_rule_opens_a_host_or_a_network_and_nothing_else() {
        let policy = policy(&["minio.models.svc:9000", "10.2.0.0/16", "mirror"]);
        for good in [
            "http://minio.models.svc:9000/x",
            "http://10.2.255.1/x",
            "http://mirror/x",
            "https://mirror:8443/x",
        ] {
            assert!(check(&policy, good), "{good}");
        }
        for bad in
            ["http://minio.models.svc/x", "http://10.3.0.1/x", "http://mirror.evil/x", "http://x.mirror/x"]
        {
            assert!(!check(&policy, bad), "{bad}");
        }
        let names = |url: &str| policy.names(&Url::parse(url).unwrap());
        for scheme in ["http", "https"] {
            assert!(names(&format!("{scheme}://minio.models.svc:9000/x")));
            assert!(names(&format!("{scheme}://mirror/x")) && names(&format!("{scheme}://mirror:6443/x")));
            for port in ["", ":6443"] {
                assert!(!names(&format!("{scheme}://minio.models.svc{port}/x")), "{scheme} {port}");
            }
        }
        assert!(policy.allows("10.2.3.4".parse().unwrap()) && !policy.allows("10.3.3.4".parse().unwrap()));
        assert!(policy.allows("::ffff:10.2.3.4".parse().unwrap()));
    }

    #[test]
    fn a_text_that_is_no_rule_is_refused() {
        for text in ["", "a b", "1.2.3.4/33", "x/8", "host:port", "https://h"] {
            assert!(text.parse::<HostRule>().is_err(), "{text}");
        }
    }
}
