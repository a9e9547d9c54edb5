//! Takes the port of a face. Must not know what is served there.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

/// Listens at `address`. `[::]` is every address of both families; of IPv4 alone where the host has no IPv6.
///
/// # Errors
/// The port is taken, or the address is not of this host.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    match bound.as_ref().err().and_then(|error| instead(address, error.kind())) {
        Some(other) => TcpListener::bind(other).await,
        None => bound,
    }
}

/// Every address of IPv4, where `error` says that every address of both families cannot be had.
fn instead(address: SocketAddr, error: ErrorKind) -> Option<SocketAddr> {
    let is_every = address.ip() == Ipv6Addr::UNSPECIFIED;
    (is_every && error != ErrorKind::AddrInUse).then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_address_of_both_families_answers() {
        let listener = bind("[::]:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let ends = if address.is_ipv6() { vec!["127.0.0.1", "::1"] } else { vec!["127.0.0.1"] };
        for end in ends {
            assert!(tokio::net::TcpStream::connect((end, address.port())).await.is_ok(), "{end}");
        }
        assert!(bind(address).await.is_err(), "the port is taken");
    }

    #[test]
    fn only_a_host_without_ipv6_has_ipv4_alone() {
        let of = |address: &str, error| instead(address.parse().unwrap(), error);
        assert_eq!(of("[::]:80", ErrorKind::Unsupported), "0.0.0.0:80".parse().ok());
        assert_eq!(of("[::]:80", ErrorKind::AddrNotAvailable), "0.0.0.0:80".parse().ok());
        assert_eq!(of("[::]:80", ErrorKind::AddrInUse), None);
        assert_eq!(of("[::1]:80", ErrorKind::AddrNotAvailable), None);
    }
}
