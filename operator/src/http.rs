//! The operator's own face: `/healthz` (it works), `/readyz` (it has seen the cluster), `/metrics`. Decides nothing.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Router, response::Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// The loop turns at least once a second; without a turn for so long it stands still.
const LONGEST_STANDSTILL: Duration = Duration::from_secs(60);

/// Whether the process works and has seen what it must.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    longest: Duration,
    turned: AtomicU64,
    ready: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self::within(LONGEST_STANDSTILL)
    }
}

impl Health {
    /// Without a turn for `longest` the loop stands still.
    #[must_use]
    pub fn within(longest: Duration) -> Self {
        let (turned, ready) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { started: Instant::now(), longest, turned, ready }
    }

    /// The loop turned.
    pub fn turn(&self) {
        self.turned.store(self.millis(), Ordering::Relaxed);
    }

    /// Everything was seen once.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Whether everything was seen once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn is_alive(&self) -> bool {
        let since = self.millis().saturating_sub(self.turned.load(Ordering::Relaxed));
        Duration::from_millis(since) < self.longest
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

type Shared = (Arc<Health>, Metrics);

/// Takes the port: with `[::]` of every address, of IPv4 alone where the host has no IPv6.
///
/// # Errors
/// Somebody else has it, or this process may not.
pub async fn bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(listen).await {
        Err(error) if listen.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, listen.port())).await
        }
        bound => bound,
    }
}

/// Answers until `stop`.
pub async fn serve(listener: TcpListener, health: Arc<Health>, metrics: Metrics, stop: CancellationToken) {
    let routes = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(page))
        .with_state((health, metrics));
    if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "health and metrics are not served any more");
    }
}

async fn healthz(State((health, _)): State<Shared>) -> (StatusCode, &'static str) {
    if health.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "the loop stands still\n")
    }
}

async fn readyz(State((health, _)): State<Shared>) -> (StatusCode, &'static str) {
    if health.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the cluster was not seen yet\n")
    }
}

async fn page(State((_, metrics)): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.page()).into_response()
}
