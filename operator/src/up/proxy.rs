//! One port in front of several replicas, as a Service is: each connection goes to the ready replica that has the fewest.
//! Bytes only. Must not know what a replica is or when it is ready.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// A replica on loopback that does not answer within this time has gone.
const CONNECT: Duration = Duration::from_secs(2);
/// While none is ready a connection waits so long for one: a replica that is replaced fails nobody.
const HOLD: Duration = Duration::from_secs(10);

/// What a connection gets that waited in vain: whoever speaks HTTP understands it.
const NOBODY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 105\r\n\r\n{\"error\":{\"message\":\"No replica is ready.\",\
\"type\":\"server_error\",\"param\":null,\"code\":\"no_replica_ready\"}}";

/// A replica that connections may go to.
#[derive(Clone)]
struct Backend {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

/// A port; dropped, it takes no further connection. Those that are open go on.
pub struct Proxy {
    backends: watch::Sender<Vec<Backend>>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Takes connections from `listener`.
    #[must_use]
    pub fn start(listener: TcpListener) -> Self {
        let (backends, known) = watch::channel(Vec::new());
        Self { backends, _task: AbortOnDropHandle::new(tokio::spawn(accept(listener, known))) }
    }

    /// New connections go to these.
    pub fn set(&self, addresses: &[SocketAddr]) {
        self.backends.send_if_modified(|backends| {
            if backends.iter().map(|backend| &backend.address).eq(addresses) {
                return false;
            }
            let of = |address: &SocketAddr| {
                let known = backends.iter().find(|backend| backend.address == *address).cloned();
                known.unwrap_or_else(|| Backend { address: *address, connections: Arc::default() })
            };
            *backends = addresses.iter().map(of).collect();
            true
        });
    }
}

async fn accept(listener: TcpListener, backends: watch::Receiver<Vec<Backend>>) {
    let turn = Arc::new(AtomicUsize::new(0));
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(tokio::spawn(carry(client, backends.clone(), Arc::clone(&turn)))),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn carry(mut client: TcpStream, mut backends: watch::Receiver<Vec<Backend>>, turn: Arc<AtomicUsize>) {
    let reached = tokio::time::timeout(HOLD, async {
        loop {
            let known = backends.borrow_and_update().clone();
            if let Some(reached) = reach(known, turn.fetch_add(1, Ordering::Relaxed)).await {
                return Some(reached);
            }
            // The port is given up: so is whoever waits at it.
            backends.changed().await.ok()?;
        }
    });
    let Ok(Some((mut replica, held))) = reached.await else {
        return refuse(client).await;
    };
    // A token is a small packet: waiting to fill a larger one would delay it.
    let _ = (client.set_nodelay(true), replica.set_nodelay(true));
    // Either side may go at any time; the other side sees its end.
    let _ = copy_bidirectional(&mut client, &mut replica).await;
    drop(held);
}

/// Says that nobody is ready. What has come of a request is read first: a close before that takes the answer away.
async fn refuse(mut client: TcpStream) {
    let mut thrown_away = [0; 4096];
    while matches!(client.try_read(&mut thrown_away), Ok(1..)) {}
    // It may have gone already.
    let _ = client.write_all(NOBODY).await;
    let _ = client.shutdown().await;
    let rest = async { while matches!(client.read(&mut thrown_away).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(CONNECT, rest).await;
}

/// A connection to the one that has the fewest; of those with as few, each in its turn. The next one where it is gone.
async fn reach(mut backends: Vec<Backend>, turn: usize) -> Option<(TcpStream, Held)> {
    let count = backends.len().max(1);
    backends.rotate_left(turn % count);
    backends.sort_by_key(|backend| backend.connections.load(Ordering::Relaxed));
    for backend in backends {
        let held = Held::of(&backend.connections);
        if let Ok(Ok(replica)) = tokio::time::timeout(CONNECT, TcpStream::connect(backend.address)).await {
            return Some((replica, held));
        }
    }
    None
}

/// One connection, counted.
struct Held(Arc<AtomicUsize>);

impl Held {
    fn of(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says its name to each connection and waits for the other side to close.
    async fn named(name: &'static str) -> (SocketAddr, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    socket.write_all(name.as_bytes()).await.unwrap();
                    let _ = socket.read(&mut [0]).await;
                });
            }
        });
        (address, AbortOnDropHandle::new(task))
    }

    async fn proxy() -> (SocketAddr, Proxy) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (listener.local_addr().unwrap(), Proxy::start(listener))
    }

    async fn ask(address: SocketAddr) -> (TcpStream, String) {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let mut name = [0; 1];
        socket.read_exact(&mut name).await.unwrap();
        (socket, String::from_utf8_lossy(&name).into_owned())
    }

    #[tokio::test]
    async fn connections_are_spread_and_go_on_when_their_replica_takes_no_more() {
        let ((a, _a), (b, _b), (port, proxy)) = (named("a").await, named("b").await, proxy().await);
        proxy.set(&[a, b]);
        let mut open = Vec::new();
        for _ in 0..6 {
            open.push(ask(port).await);
        }
        assert_eq!(open.iter().filter(|(_, name)| name == "a").count(), 3);
        proxy.set(&[b]);
        assert_eq!(ask(port).await.1, "b");
        for (socket, _) in &mut open {
            socket.write_all(b"x").await.unwrap();
        }
    }

    #[tokio::test]
    async fn one_that_is_gone_is_passed_over_and_a_connection_waits_for_one() {
        let ((a, _a), (port, proxy)) = (named("a").await, proxy().await);
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let waiting = tokio::spawn(ask(port));
        proxy.set(&[gone]);
        proxy.set(&[gone, a]);
        assert_eq!(waiting.await.unwrap().1, "a");
    }

    #[test]
    fn the_answer_when_nobody_is_ready_has_the_length_that_it_says() {
        let text = std::str::from_utf8(NOBODY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
