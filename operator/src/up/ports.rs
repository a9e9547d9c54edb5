//! The ports of the Deployments: the n-th by name answers on the first port + n - 1. Must not know what stands behind them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

use crate::up::proxy::{Connections, Proxy};

/// The ports that are held, by the place of their Deployment.
pub struct Ports {
    first: SocketAddr,
    connections: Connections,
    held: BTreeMap<usize, Proxy>,
}

/// Why a Deployment has no port.
#[derive(Debug, thiserror::Error)]
pub enum NoPort {
    /// There is none.
    #[error("--listen {first}: the {further} ports after it are not all ports; give a lower one")]
    Beyond {
        /// That of the first.
        first: SocketAddr,
        /// How many come after it.
        further: usize,
    },
    /// Another program has it.
    #[error("its port {address} cannot be had: {source}")]
    Taken {
        /// Where it would answer.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

impl Ports {
    /// `first` is kept, whether there is a Deployment or not.
    ///
    /// # Errors
    /// It has no address.
    pub fn new(first: TcpListener, connections: Connections) -> io::Result<Self> {
        let address = first.local_addr()?;
        let proxy = Proxy::start(first, connections.clone());
        Ok(Self { first: address, connections, held: BTreeMap::from([(0, proxy)]) })
    }

    /// Where the Deployment at `index` is asked; nothing where its port is not held.
    #[must_use]
    pub fn url(&self, index: usize) -> Option<String> {
        let address = self.held.contains_key(&index).then(|| self.address(index))??;
        Some(format!("http://{}", reachable(address)))
    }

    /// Holds the port of the Deployment at `index`.
    ///
    /// # Errors
    /// It cannot be had.
    pub async fn hold(&mut self, index: usize) -> Result<(), NoPort> {
        if self.held.contains_key(&index) {
            return Ok(());
        }
        let address = self.address(index).ok_or(NoPort::Beyond { first: self.first, further: index })?;
        let listener =
            TcpListener::bind(address).await.map_err(|source| NoPort::Taken { address, source })?;
        self.held.insert(index, Proxy::start(listener, self.connections.clone()));
        Ok(())
    }

    /// Gives up those beyond `count` Deployments.
    pub fn keep(&mut self, count: usize) {
        self.held.retain(|index, _| *index < count.max(1));
    }

    /// Requests at the port at `index` go to these replicas.
    pub fn lead(&self, index: usize, replicas: &[SocketAddr]) {
        self.held.get(&index).into_iter().for_each(|proxy| proxy.set(replicas));
    }

    /// Takes no further connection. Requests under way go on.
    pub fn close(&mut self) {
        self.held.clear();
    }

    fn address(&self, index: usize) -> Option<SocketAddr> {
        let port = self.first.port().checked_add(u16::try_from(index).ok()?)?;
        Some(SocketAddr::new(self.first.ip(), port))
    }
}

/// An address to call: that of every interface is called here.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_cannot_be_had_is_no_other_deployments_matter() {
        // Two ports that follow each other, and another program's between.
        let (first, taken) = loop {
            let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let Some(next) = first.local_addr().unwrap().port().checked_add(1) else { continue };
            if let Ok(taken) = TcpListener::bind(("127.0.0.1", next)).await {
                break (first, taken);
            }
        };
        let port = first.local_addr().unwrap().port();
        let mut ports = Ports::new(first, Connections::new(8)).unwrap();
        ports.hold(0).await.unwrap();
        let refused = ports.hold(1).await.unwrap_err().to_string();
        assert!(refused.contains(&format!("its port 127.0.0.1:{} cannot be had", port + 1)), "{refused}");
        assert_eq!((ports.url(0), ports.url(1)), (Some(format!("http://127.0.0.1:{port}")), None));
        drop(taken);
        ports.hold(1).await.unwrap();
        assert!(ports.url(1).is_some());
        ports.keep(0);
        assert!(ports.url(0).is_some() && ports.url(1).is_none());
        let beyond = usize::from(u16::MAX - port) + 1;
        let refused = ports.hold(beyond).await.unwrap_err().to_string();
        assert!(refused.contains(&format!("--listen 127.0.0.1:{port}: the {beyond} ports after it")));
    }
}
