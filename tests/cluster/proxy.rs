//! A proxy between the operator and the API server that makes faults: of single requests, of watch events, of all.

mod confine;
mod relay;
mod watches;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::audit::Passed;
use crate::control_plane::{ControlPlane, configuration};

/// A request of the operator.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// `GET`, `POST`, `PUT`, `PATCH`, `DELETE`.
    pub(crate) method: String,
    /// Without the query; of a view that is confined, of its namespace.
    pub(crate) path: String,
    /// The query, undecoded.
    pub(crate) query: String,
}

impl Call {
    /// Its path and query.
    pub(crate) fn target(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }

    /// Whether it changes something. A Lease is no state of ours.
    pub(crate) fn is_write(&self) -> bool {
        self.method != "GET" && !self.is_lease()
    }

    /// Whether it puts a finalizer on an Adapter, or takes it off: nothing else of one is patched beside its status.
    pub(crate) fn is_of_finalizer(&self) -> bool {
        self.method == "PATCH" && self.path.contains("/adapters/") && !self.path.ends_with("/status")
    }

    /// Whether it keeps or reads a Lease.
    pub(crate) fn is_lease(&self) -> bool {
        self.path.contains("/coordination.k8s.io/")
    }

    /// Whether it asks for events until it is cut.
    pub(crate) fn is_watch(&self) -> bool {
        self.method == "GET" && self.query.contains("watch=")
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {}", self.method, self.target())
    }
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It waits first.
    Delay(Duration),
    /// The API server never sees it; the answer is this status.
    Refuse(u16, &'static str),
    /// The API server never sees it; the connection breaks.
    CutBefore,
    /// The API server carries it out; the connection breaks before the answer.
    CutAfter,
    /// As `CutAfter`, and from then on nothing gets through: see [`Proxy::struck`].
    Strike,
    /// No answer ever.
    Hang,
    /// It is on its way until [`Proxy::deliver`]; the API server carries it out though nobody waits for the answer any more.
    Hold,
}

/// What happens to an event of a watch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EventFault {
    /// Nothing.
    None,
    /// It is not passed on.
    Drop,
    /// In its place the watcher is told that its version is too old (410 Gone).
    Gone,
}

type Judge = Box<dyn FnMut(&Call) -> Fault + Send>;
type EventJudge = Box<dyn FnMut(&Call, &Value) -> EventFault + Send>;

struct State {
    judge: Option<Judge>,
    events: Option<EventJudge>,
    calls: Vec<Call>,
    /// The namespace that stands for the whole cluster.
    confined: Option<String>,
    /// Nothing gets through.
    down: bool,
    /// Lists as they were when the view was frozen, by path and query; while it is, watches hear nothing.
    frozen: Option<BTreeMap<String, Bytes>>,
    /// Every list that was asked for.
    lists: BTreeMap<String, ()>,
}

struct Shared {
    state: Mutex<State>,
    /// Grows when all watches are to end.
    severed: watch::Sender<u64>,
    struck: watch::Sender<Option<Call>>,
    /// How many requests are on their way.
    held: watch::Sender<usize>,
    upstream: reqwest::Client,
    /// Without a slash at its end.
    server: String,
    /// Where what was passed on and answered is kept, if anywhere.
    passed: Option<Passed>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The proxy; it ends with its value.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Before the API server of `plane`, passing everything on.
    pub(crate) async fn start(plane: &ControlPlane) -> Self {
        // It may have been installed by another test of this program.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = configuration(&plane.admin()).await;
        let mut upstream = reqwest::Client::builder().no_proxy().tcp_nodelay(true);
        if let Some(authority) = &config.root_cert {
            let certificates = authority.iter().map(|one| reqwest::Certificate::from_der(one));
            upstream = upstream.tls_certs_only(certificates.map(|one| one.expect("a certificate")));
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                judge: None,
                events: None,
                calls: Vec::new(),
                confined: None,
                down: false,
                frozen: None,
                lists: BTreeMap::new(),
            }),
            severed: watch::channel(0).0,
            struck: watch::channel(None).0,
            held: watch::channel(0).0,
            upstream: upstream.build().expect("a client"),
            server: config.cluster_url.to_string().trim_end_matches('/').to_owned(),
            passed: plane.passed(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let task = tokio::spawn(relay::serve(listener, Arc::clone(&shared)));
        Self { address, shared, _task: AbortOnDropHandle::new(task) }
    }

    /// Where the operator reaches it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Judges every request from now on.
    pub(crate) fn judge(&self, judge: impl FnMut(&Call) -> Fault + Send + 'static) {
        self.shared.state().judge = Some(Box::new(judge));
    }

    /// Judges every event of every watch from now on.
    pub(crate) fn judge_events(&self, judge: impl FnMut(&Call, &Value) -> EventFault + Send + 'static) {
        self.shared.state().events = Some(Box::new(judge));
    }

    /// Passes everything on again.
    pub(crate) fn heal(&self) {
        {
            let mut state = self.shared.state();
            (state.judge, state.events, state.down) = (None, None, false);
        }
        self.shared.struck.send_replace(None);
        self.thaw();
    }

    /// The API server is gone: connections break, watches too.
    pub(crate) fn down(&self) {
        self.shared.state().down = true;
        self.sever();
    }

    /// Ends every watch that runs.
    pub(crate) fn sever(&self) {
        self.shared.severed.send_modify(|count| *count += 1);
    }

    /// The request that was judged [`Fault::Strike`], once the API server has answered it.
    pub(crate) fn struck(&self) -> Option<Call> {
        self.shared.struck.borrow().clone()
    }

    /// How many requests that were judged [`Fault::Hold`] are on their way.
    pub(crate) fn held(&self) -> usize {
        *self.shared.held.borrow()
    }

    /// What is on its way arrives.
    pub(crate) fn deliver(&self) {
        self.shared.held.send_replace(0);
    }

    /// From now on the operator is shown `namespace` for the whole cluster.
    pub(crate) fn confine(&self, namespace: &str) {
        self.shared.state().confined = Some(namespace.to_owned());
    }

    /// From now on the operator sees the cluster as it is now: lists are answered with what they hold now, watches
    /// hear nothing. Writes go through.
    pub(crate) async fn freeze(&self, token: &str) {
        let lists: Vec<String> = self.shared.state().lists.keys().cloned().collect();
        let mut frozen = BTreeMap::new();
        for list in lists {
            let url = format!("{}{list}", self.shared.server);
            let answer = self.shared.upstream.get(url).bearer_auth(token).send().await.expect("a list");
            frozen.insert(list, answer.bytes().await.expect("a whole list"));
        }
        self.shared.state().frozen = Some(frozen);
    }

    /// The operator sees the cluster as it is again.
    pub(crate) fn thaw(&self) {
        if self.shared.state().frozen.take().is_some() {
            self.sever();
        }
    }

    /// Every request that came so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.state().calls.clone()
    }

    /// How many writes came so far.
    pub(crate) fn writes(&self) -> usize {
        self.shared.state().calls.iter().filter(|call| call.is_write()).count()
    }
}
