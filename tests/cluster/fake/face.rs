//! A scripted replica's admin face: TLS, a bearer token, the paths of `runtime/api`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use lorikeet_api::{
    ADAPTERS_PATH, Accepted, AdminError, AdminErrorBody, DesiredAdapter, DesiredChange, DesiredSet,
    ErrorCode, Version,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::fake::holding::Rejected;
use crate::fake::{Fake, Heard, Script, lock};

/// What a pod finds in its admin Secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Access {
    /// `tls.crt`, PEM.
    pub(crate) certificate: Vec<u8>,
    /// `tls.key`, PEM.
    pub(crate) key: Vec<u8>,
    /// `token`.
    pub(crate) token: String,
}

impl Access {
    /// With this certificate and key; nothing where they are none, or do not belong together.
    fn acceptor(&self) -> Option<TlsAcceptor> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let key = PrivateKeyDer::from_pem_slice(&self.key).ok()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(chain.ok()?, key)
            .ok()?;
        Some(TlsAcceptor::from(Arc::new(config)))
    }
}

/// What a replica took over of the files that it has.
pub(crate) struct Guard {
    acceptor: TlsAcceptor,
    token: String,
}

impl Guard {
    /// At its start.
    pub(crate) fn of(access: &Access) -> Self {
        let acceptor = access.acceptor().expect("tls.crt and tls.key are PEM, and belong together");
        Self { acceptor, token: access.token.clone() }
    }

    /// Later: a certificate that is none is not taken over, as by the runtime.
    pub(crate) fn take_over(&mut self, access: &Access) {
        self.token.clone_from(&access.token);
        self.acceptor = access.acceptor().unwrap_or_else(|| self.acceptor.clone());
    }
}

/// The admin face of `fake`.
pub(crate) fn router(fake: &Arc<Fake>) -> Router {
    Router::new()
        .route(ADAPTERS_PATH, get(report).put(put).patch(patch))
        .route(&format!("{ADAPTERS_PATH}/{{name}}"), get(one))
        .fallback(any(|| async { StatusCode::NOT_FOUND }))
        .with_state(Arc::clone(fake))
        .layer(middleware::from_fn_with_state(Arc::clone(fake), behave))
}

/// Serves `router` behind the certificate of `fake` until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, fake: Arc<Fake>, router: Router) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, router) = (lock(&fake.guard).acceptor.clone(), router.clone());
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = TowerToHyperService::new(router);
            // Whoever hangs up ends it.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// The token, and the script: hung, slow, without patience.
async fn behave(State(fake): State<Arc<Fake>>, request: Request, next: Next) -> Response {
    fake.until_begun().await;
    let script = fake.behaviour();
    let mut response = match opens(&fake, &request) {
        true => answered(&script, request, next).await,
        false => {
            fake.strangers.fetch_add(1, Ordering::Relaxed);
            StatusCode::UNAUTHORIZED.into_response()
        }
    };
    if script.closes {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether `request` has the token.
pub(crate) fn opens(fake: &Fake, request: &Request) -> bool {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    given.and_then(|given| given.strip_prefix("Bearer ")) == Some(&lock(&fake.guard).token)
}

async fn answered(script: &Script, request: Request, next: Next) -> Response {
    let _under_way = (request.method() != Method::GET).then(|| script.writes.begin());
    if script.hung {
        std::future::pending::<()>().await;
    }
    if !script.delay.is_zero() {
        tokio::time::sleep(script.delay).await;
    }
    if script.says_it_loads {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady, "The model is being loaded.");
    }
    if let Some((status, message)) = script.rejects.filter(|_| request.method() != Method::GET) {
        let status = StatusCode::from_u16(status).expect("a status");
        return refusal(status, ErrorCode::InvalidRequest, message);
    }
    next.run(request).await
}

#[derive(Deserialize)]
struct Poll {
    instance: Option<String>,
    after: Option<u64>,
    wait_seconds: Option<u64>,
}

async fn report(State(fake): State<Arc<Fake>>, Query(poll): Query<Poll>) -> Response {
    let script = fake.behaviour();
    let mut changes = fake.watch();
    let wait =
        Duration::from_secs(poll.wait_seconds.unwrap_or(0)).min(script.longest_poll.unwrap_or(Duration::MAX));
    let deadline = tokio::time::Instant::now() + wait;
    let after = loop {
        changes.mark_unchanged();
        let (instance, count) = {
            let holding = lock(&fake.holding);
            (holding.instance().to_owned(), holding.count())
        };
        let after = poll.after.filter(|_| poll.instance.as_ref() == Some(&instance));
        if after.is_none_or(|after| after < count) {
            break after;
        }
        if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
            break after;
        }
    };
    if fake.behaviour().hung {
        std::future::pending::<()>().await;
    }
    fake.polls.fetch_add(1, Ordering::Relaxed);
    Json(fake.report_after(after)).into_response()
}

async fn one(State(fake): State<Arc<Fake>>, Path(name): Path<String>) -> Response {
    let found = fake.report().adapters.into_iter().find(|report| report.name == name);
    found.map_or_else(|| StatusCode::NOT_FOUND.into_response(), |report| Json(report).into_response())
}

async fn put(State(fake): State<Arc<Fake>>, Json(set): Json<DesiredSet>) -> Response {
    let (version, adapters) = (set.version, set.adapters.clone());
    let mut holding = lock(&fake.holding);
    let loads = holding.put(set);
    let (taken, removed) = (loads.is_ok(), Vec::new());
    heard(&fake, Heard { at: Instant::now(), whole: true, version, taken, set: adapters, removed });
    drop(holding);
    answer(&fake, version, loads)
}

async fn patch(State(fake): State<Arc<Fake>>, Json(change): Json<DesiredChange>) -> Response {
    let (version, set, removed) = (change.version, change.set.clone(), change.remove.clone());
    let mut holding = lock(&fake.holding);
    let loads = holding.patch(change);
    let taken = loads.is_ok();
    heard(&fake, Heard { at: Instant::now(), whole: false, version, taken, set, removed });
    drop(holding);
    answer(&fake, version, loads)
}

/// In the order in which they were taken over: what the replica holds is locked meanwhile.
fn heard(fake: &Fake, write: Heard) {
    let mut firsts = lock(&fake.firsts);
    for one in &write.set {
        if !firsts.contains_key(&one.name) {
            firsts.insert(one.name.clone(), write.at);
        }
    }
    drop(firsts);
    lock(&fake.heard).push(write);
}

fn answer(fake: &Arc<Fake>, version: Version, loads: Result<Vec<DesiredAdapter>, Rejected>) -> Response {
    match loads {
        Ok(loads) => {
            load(fake, loads);
            let instance = lock(&fake.holding).instance().to_owned();
            Json(Accepted { instance, version }).into_response()
        }
        Err(Rejected) => {
            refusal(StatusCode::CONFLICT, ErrorCode::StaleVersion, "version: expected a newer one")
        }
    }
}

/// An answer that is an error of the API.
pub(crate) fn refusal(status: StatusCode, code: ErrorCode, message: &str) -> Response {
    let (message, kind) = (message.to_owned(), "invalid_request_error".to_owned());
    (status, Json(AdminError { error: AdminErrorBody { message, kind, param: None, code } })).into_response()
}

/// Loads and drains beside the answer, as the script says.
pub(crate) fn load(fake: &Arc<Fake>, loads: Vec<DesiredAdapter>) {
    fake.tell();
    let fake = Arc::clone(fake);
    tokio::spawn(async move {
        let script = fake.behaviour();
        if !script.load.is_zero() {
            tokio::time::sleep(script.load).await;
        }
        let (stalled, loads): (Vec<_>, Vec<_>) =
            loads.into_iter().partition(|one| script.stalls.contains(&one.name));
        for one in stalled {
            tokio::spawn(stall(Arc::clone(&fake), one));
        }
        {
            let mut holding = lock(&fake.holding);
            for wanted in loads {
                let refused = script.refuses.iter().find(|(name, _)| *name == wanted.name);
                holding.loaded(&wanted, refused.map(|(_, failure)| failure.clone()));
            }
            holding.drained(&script.clings);
        }
        fake.tell();
    });
}

/// Loads `wanted` once it is stalled no longer, where the process is the same still.
async fn stall(fake: Arc<Fake>, wanted: DesiredAdapter) {
    let (mut changes, restarts) = (fake.watch(), fake.restarts());
    while fake.behaviour().stalls.contains(&wanted.name) {
        if changes.changed().await.is_err() {
            return;
        }
    }
    if fake.restarts() == restarts {
        lock(&fake.holding).loaded(&wanted, None);
        fake.tell();
    }
}
