//! The client of the API server: from a kubeconfig or the pod's own account, each call bounded in time and counted, and no
//! write let through that the Lease does not cover. Its answers set the clock.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tower::{BoxError, Layer, Service};
use tower_http::timeout::TimeoutBody;

use crate::cluster::clock::Clock;
use crate::metrics::Metrics;

/// The API server ends each watch after so long, and the watcher takes it up again: one that lasts longer has lost its
/// connection.
pub const WATCH_SECONDS: u32 = 60;
/// Longer than the watcher waits itself for that end.
const WATCH_SILENCE: Duration = Duration::from_secs(2 * WATCH_SECONDS as u64);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be used.
    #[error("--kubeconfig: {0}")]
    Kubeconfig(#[from] KubeconfigError),
    /// The files that the environment names cannot be used: no other cluster is meant.
    #[error("KUBECONFIG: {0}")]
    Environment(KubeconfigError),
    /// Neither a kubeconfig nor a pod's account.
    #[error("no cluster is named by --kubeconfig, KUBECONFIG, ~/.kube/config or a pod's account: {0}")]
    Nowhere(#[from] kube::config::InferConfigError),
    /// Certificates or credentials cannot be used.
    #[error("the cluster's credentials: {0}")]
    Credentials(#[from] kube::Error),
}

/// Until when this process may write. Closed at first; a leader opens it anew with each renewal of its Lease. A process that
/// was stopped and goes on after its Lease has ended finds it closed, whatever it was about to do.
#[derive(Clone, Debug)]
pub struct Gate {
    started: Instant,
    open_until: Arc<AtomicU64>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { started: Instant::now(), open_until: Arc::new(AtomicU64::new(0)) }
    }
}

impl Gate {
    /// Writes are let through until then.
    pub fn open_until(&self, until: Instant) {
        let millis = until.saturating_duration_since(self.started).as_millis();
        self.open_until.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    fn is_open(&self) -> bool {
        self.started.elapsed().as_millis() < u128::from(self.open_until.load(Ordering::SeqCst))
    }
}

/// A write that the Lease does not cover.
#[derive(Debug, thiserror::Error)]
#[error("this process does not lead (any more)")]
struct NotLeading;

/// A client of the cluster that `kubeconfig` names. Its default namespace is the kubeconfig's or the pod's.
///
/// # Errors
/// [`ClientError`].
pub async fn connect(
    kubeconfig: Option<PathBuf>,
    limit: Duration,
    metrics: &Metrics,
    gate: Gate,
    clock: Clock,
) -> Result<Client, ClientError> {
    let options = KubeConfigOptions::default();
    let mut config = match kubeconfig {
        Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?,
        // Only where none is named: a file with a fault must not lead to whatever cluster this pod is in.
        None => match Kubeconfig::from_env().map_err(ClientError::Environment)? {
            Some(named) => {
                Config::from_custom_kubeconfig(named, &options).await.map_err(ClientError::Environment)?
            }
            None => Config::infer().await?,
        },
    };
    config.connect_timeout = Some(limit);
    // A retry below us would hide the calls that are made, and our own pauses are longer each time.
    config.default_retry = false;
    let counted = Counted { limit, metrics: metrics.clone(), gate, clock };
    Ok(ClientBuilder::try_from(config)?.with_layer(&counted).build())
}

/// Bounds and counts calls.
#[derive(Clone)]
struct Counted {
    limit: Duration,
    metrics: Metrics,
    gate: Gate,
    clock: Clock,
}

impl<S> Layer<S> for Counted {
    type Service = CountedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CountedService { inner, counted: self.clone() }
    }
}

struct CountedService<S> {
    inner: S,
    counted: Counted,
}

impl<S, B, R> Service<Request<B>> for CountedService<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
    S::Future: Send + 'static,
    R: 'static,
{
    // What an answer has to say comes in pieces: none of them is waited for longer than for its beginning.
    type Response = Response<TimeoutBody<R>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let verb = verb(request.method(), request.uri().query());
        let Counted { limit, metrics, gate, clock } = self.counted.clone();
        if is_write(request.method()) && !is_lease(request.uri().path()) && !gate.is_open() {
            return Box::pin(async { Err(NotLeading.into()) });
        }
        let started = Instant::now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = match tokio::time::timeout(limit, answer).await {
                Ok(answer) => answer,
                Err(late) => Err(late.into()),
            };
            if let Ok(answer) = &answer {
                clock.hear(answer.headers(), started);
            }
            let code = match &answer {
                Ok(answer) => answer.status().as_u16().to_string(),
                Err(error) if error.is::<tokio::time::error::Elapsed>() => "timeout".to_owned(),
                Err(_) => "error".to_owned(),
            };
            metrics.api_calls.with_label_values(&[verb, &code]).inc();
            metrics.api_seconds.with_label_values(&[verb]).observe(started.elapsed().as_secs_f64());
            let silence = if verb == "watch" { WATCH_SILENCE } else { limit };
            Ok(answer?.map(|body| TimeoutBody::new(silence, body)))
        })
    }
}

fn is_write(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The Lease is what one comes to lead by.
fn is_lease(path: &str) -> bool {
    path.starts_with("/apis/coordination.k8s.io/")
}

/// As RBAC names it, as far as method and query tell.
fn verb(method: &Method, query: Option<&str>) -> &'static str {
    let asks = |name: &str| query.is_some_and(|query| query.split('&').any(|part| part.starts_with(name)));
    match *method {
        Method::GET if asks("watch=") => "watch",
        Method::GET if asks("limit=") => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn the_gate_is_open_only_while_it_was_said_to_be() {
        let gate = Gate::default();
        assert!(!gate.is_open());
        gate.open_until(Instant::now() + Duration::from_secs(60));
        assert!(gate.is_open());
        gate.open_until(Instant::now());
        assert!(!gate.is_open());
        assert!(is_write(&Method::PATCH) && !is_write(&Method::GET));
    }

    /// An answer whose rest never comes, as of a connection that is gone without a word.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_breaks_off_is_not_waited_for_longer_than_one_that_never_begins() {
        let silent = || async {
            let rest = futures::stream::pending::<Result<Vec<u8>, BoxError>>();
            Ok::<_, BoxError>(Response::new(Body::from_stream(rest)))
        };
        let limit = Duration::from_secs(15);
        let (gate, clock, metrics) = (Gate::default(), Clock::default(), Metrics::new().unwrap());
        let counted = Counted { limit, metrics, gate, clock };
        for (query, least, most) in [("", limit, limit), ("?watch=true", 2 * limit, WATCH_SILENCE)] {
            let request = Request::get(format!("/api/v1/pods{query}")).body(()).unwrap();
            let service = counted.layer(tower::service_fn(move |_: Request<()>| silent()));
            let began = tokio::time::Instant::now();
            let answer = tower::ServiceExt::oneshot(service, request).await.unwrap();
            let read = axum::body::to_bytes(Body::new(answer.into_body()), 1);
            let read = tokio::time::timeout(2 * WATCH_SILENCE, read).await.expect("it comes to an end");
            read.expect_err("it is given up");
            let took = began.elapsed();
            assert!(took >= least && took <= most + Duration::from_millis(2), "{query}: {took:?}");
        }
    }

    #[test]
    fn calls_are_counted_by_what_they_do() {
        assert_eq!(verb(&Method::GET, Some("&labelSelector=a&watch=true")), "watch");
        assert_eq!(verb(&Method::GET, Some("limit=500&continue=x")), "list");
        assert_eq!(verb(&Method::GET, None), "get");
        assert_eq!(verb(&Method::PATCH, Some("force=true")), "patch");
    }
}
