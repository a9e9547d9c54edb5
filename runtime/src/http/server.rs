//! The accept loop: sockets in, requests to a router, bounded in number and in time. Must not know a route.
//!
//! hyper is driven here and not through `axum::serve`, because that has no timer: a half-sent head would hold its
//! connection for ever.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt as _;

use super::auth::Keys;
use super::limits::Limits;
use super::socket::Socket;
use super::tls::Certificate;

/// The address of the peer, for the log.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Tells a handler that waits for news when the face stops: it answers at once then.
#[derive(Clone, Debug)]
pub struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Resolves when the face stops.
    pub async fn begun(mut self) {
        stopped(&mut self.0).await;
    }
}

/// One face: a socket and what answers on it.
pub struct Face {
    /// Bound already.
    pub listener: TcpListener,
    /// What answers.
    pub router: Router,
    /// With TLS, or in the clear.
    pub tls: Option<Certificate>,
    /// How many connections, how long for a head.
    pub limits: Limits,
    /// After the stop new connections are still taken for so long, for one request each.
    pub linger: Duration,
}

/// hyper's own answer to a head that is larger than its buffer is a bare 431; ours, with words, comes at half of it.
const HEAD_BUFFER_FACTOR: usize = 2;

/// The answer to a connection above the limit: said at once, so that a flood of idle ones hides no good one for long.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 110\r\n\r\n{\"error\":{\"message\":\"Too many connections.\",\
\"type\":\"server_error\",\"param\":null,\"code\":\"too_many_connections\"}}";

/// So long after the stop whoever sends requests here has learnt of it.
pub const LINGER: Duration = Duration::from_secs(1);

/// Follows a face's files while the process runs: keys and certificates that change are taken over.
pub fn follow(keys: &Keys, tls: Option<&Certificate>) {
    tokio::spawn(keys.clone().watch());
    if let Some(certificate) = tls {
        tokio::spawn(certificate.clone().watch());
    }
}

/// Serves until `stop` turns true, then lets every connection end its request, and lingers. Returns when all have ended.
///
/// Failing to accept (no file descriptors left) is waited out: the loop never ends by it.
pub async fn serve(face: Face, stop: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(face.limits.connections));
    let face = Arc::new(face);
    let all = u32::try_from(face.limits.connections).unwrap_or(u32::MAX);
    let linger = face.linger;
    let mut over = pin!(async {
        stopped(&mut stop.clone()).await;
        tokio::time::sleep(linger).await;
    });
    loop {
        let accepted = tokio::select! {
            accepted = face.listener.accept() => accepted,
            () = &mut over => break,
        };
        match accepted {
            Ok((socket, peer)) => match Arc::clone(&permits).try_acquire_owned() {
                Ok(permit) => {
                    tokio::spawn(connection(Arc::clone(&face), socket, peer, permit, stop.clone()));
                }
                Err(_) => refuse(&socket),
            },
            Err(error) => wait_out(&error).await,
        }
    }
    // Every permit back means that every connection has ended.
    let _ = permits.acquire_many(all).await;
}

/// A connection that died before it was accepted is nobody's fault; anything else (EMFILE) needs time to pass.
async fn wait_out(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        tracing::warn!(%error, "cannot accept a connection; trying again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn refuse(socket: &TcpStream) {
    // The buffer of a fresh socket takes it whole; where it does not, the close says enough.
    let _ = socket.try_write(FULL);
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone: stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(
    face: Arc<Face>,
    socket: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    stop: watch::Receiver<bool>,
) {
    let _permit = permit;
    // A token is a small packet: waiting to fill a larger one would delay it.
    let _ = socket.set_nodelay(true);
    match &face.tls {
        None => exchange(&face, socket, peer, stop).await,
        Some(tls) => match tokio::time::timeout(face.limits.head_time, tls.acceptor().accept(socket)).await {
            Ok(Ok(stream)) => exchange(&face, stream, peer, stop).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
        },
    }
}

async fn exchange<S>(face: &Face, socket: S, peer: SocketAddr, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stopping = Stopping(stop.clone());
    let service = service_fn(move |request: http::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(stopping.clone());
        face.router.clone().oneshot(request)
    });
    // One that comes after the stop has its one request yet to send.
    let came_late = *stop.borrow();
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(face.limits.head_time)
        .max_headers(face.limits.headers.saturating_mul(HEAD_BUFFER_FACTOR))
        .max_buf_size(
            (face.limits.header_bytes + face.limits.uri_bytes).saturating_mul(HEAD_BUFFER_FACTOR).max(8192),
        )
        .keep_alive(!came_late)
        .half_close(false);
    let mut connection =
        pin!(builder.serve_connection(TokioIo::new(Socket::new(socket, face.limits.clone())), service));
    tokio::select! {
        ended = connection.as_mut() => return note(peer, ended),
        () = stopped(&mut stop), if !came_late => connection.as_mut().graceful_shutdown(),
    }
    note(peer, connection.await);
}

fn note(peer: SocketAddr, ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_connection_too_many_has_the_length_that_it_says() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
