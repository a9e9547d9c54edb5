//! One port in front of several replicas, as a Service is: each request goes to the ready replica that has the fewest. Must
//! not know what a replica is or when it is ready.
//!
//! * [`connections`]: how many there may be
//! * [`relay`]: one request, asked again elsewhere when its replica ends before it answers
//! * [`replay`]: its body, as it comes and again
//! * [`answer`]: what comes back; a stream that breaks ends with an event that says so

mod answer;
mod connections;
mod relay;
mod replay;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub use connections::Connections;
use relay::relay;

/// A replica on loopback that does not answer within this time has gone.
const CONNECT: Duration = Duration::from_secs(2);
/// While none is ready a request waits so long for one: a replica that is replaced fails nobody.
const HOLD: Duration = Duration::from_secs(10);
/// A connection may ask nothing for so long.
const IDLE: Duration = Duration::from_secs(75);

/// A replica that requests may go to.
#[derive(Clone)]
struct Backend {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

/// Who may answer, and whose turn it is.
#[derive(Clone)]
struct Backends {
    known: watch::Receiver<Vec<Backend>>,
    turn: Arc<AtomicUsize>,
}

/// A port; dropped, it takes no further connection. Requests under way go on, idle connections are closed.
pub struct Proxy {
    backends: watch::Sender<Vec<Backend>>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Takes connections from `listener`, as long as `connections` has room for them.
    #[must_use]
    pub fn start(listener: TcpListener, connections: Connections) -> Self {
        let (backends, known) = watch::channel(Vec::new());
        let known = Backends { known, turn: Arc::default() };
        let accepting = tokio::spawn(accept(listener, connections, known));
        Self { backends, _task: AbortOnDropHandle::new(accepting) }
    }

    /// New requests go to these.
    pub fn set(&self, addresses: &[SocketAddr]) {
        self.backends.send_if_modified(|backends| {
            if backends.iter().map(|backend| &backend.address).eq(addresses) {
                return false;
            }
            let of = |address: &SocketAddr| {
                let known = backends.iter().find(|backend| backend.address == *address).cloned();
                known.unwrap_or_else(|| Backend { address: *address, requests: Arc::default() })
            };
            *backends = addresses.iter().map(of).collect();
            true
        });
    }
}

async fn accept(listener: TcpListener, connections: Connections, backends: Backends) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                if let Some(permit) = connections.admit(&client) {
                    let serving = serve(client, backends.clone());
                    tokio::spawn(async move {
                        let _permit = permit;
                        serving.await;
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One client's connection, until it closes or the port is given up.
async fn serve(client: TcpStream, backends: Backends) {
    // A token is a small packet: waiting to fill a larger one would delay it.
    let _ = client.set_nodelay(true);
    let mut given_up = backends.known.clone();
    let service =
        service_fn(|request| relay(request, backends.clone()).map(Ok::<_, std::convert::Infallible>));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(client), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { while given_up.changed().await.is_ok() {} } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

impl Backends {
    /// A connection to the one that has the fewest requests; of those with as few, each in its turn. Waits for one, but
    /// not for another than those of `except`: who has asked one already is told so soon.
    async fn reach(&mut self, except: &[SocketAddr]) -> Option<(SocketAddr, TcpStream, Held)> {
        let waited = tokio::time::timeout(HOLD, async {
            loop {
                let mut known = self.known.borrow_and_update().clone();
                known.retain(|backend| !except.contains(&backend.address));
                let reached = self.first_of(known).await;
                if reached.is_some() || !except.is_empty() {
                    return reached;
                }
                // The port is given up: so is whoever waits at it.
                self.known.changed().await.ok()?;
            }
        });
        waited.await.ok()?
    }

    async fn first_of(&self, mut backends: Vec<Backend>) -> Option<(SocketAddr, TcpStream, Held)> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = backends.len().max(1);
        backends.rotate_left(turn % count);
        backends.sort_by_key(|backend| backend.requests.load(Ordering::Relaxed));
        for backend in backends {
            let held = Held::of(&backend.requests);
            let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(backend.address));
            if let Ok(Ok(replica)) = connecting.await {
                let _ = replica.set_nodelay(true);
                return Some((backend.address, replica, held));
            }
        }
        None
    }
}

/// One request, counted.
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
mod tests;
