//! Writes to replicas that answer over TLS, as all of them do: no more are under way at once than may be, and one that hangs
//! holds up nobody.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures::{StreamExt as _, stream};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use internment::ArcIntern;
use jiff::Timestamp;
use lorikeet_api::{ADAPTERS_PATH, Accepted, DesiredAdapter, DesiredSet};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::credentials::{Credentials, make};
use crate::replicas::client::{Access, Pass, work};

const HOST: &str = "localhost";
/// Everything here takes less, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the replicas of a test count together.
struct Counts {
    under_way: watch::Sender<usize>,
    most: AtomicUsize,
    answered: watch::Sender<usize>,
    polls: watch::Sender<usize>,
    /// Writes that may be answered.
    answers: Semaphore,
}

impl Counts {
    fn begin(&self) -> UnderWay<'_> {
        self.under_way.send_modify(|count| {
            *count += 1;
            self.most.fetch_max(*count, Ordering::Relaxed);
        });
        UnderWay(self)
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

/// A write, until it is answered or given up.
struct UnderWay<'a>(&'a Counts);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|count| *count -= 1);
    }
}

/// How a replica behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Answers,
    /// It never answers a write.
    Hangs,
    /// It never holds a report back.
    Chatters,
    /// It begins its next report and does not end it.
    Stops,
}

/// One replica's face.
#[derive(Clone)]
struct Face {
    counts: Arc<Counts>,
    behaviour: Behaviour,
}

/// It says once that it holds nothing, and nothing new after that; one that chatters says the same at any time.
async fn report(State(face): State<Face>, RawQuery(query): RawQuery) -> Response {
    face.counts.polls.send_modify(|count| *count += 1);
    let is_next = query.is_some_and(|query| query.contains("after="));
    match face.behaviour {
        Behaviour::Answers | Behaviour::Hangs if is_next => std::future::pending().await,
        Behaviour::Stops if is_next => {
            let begin = stream::once(async { Ok::<_, Infallible>(r#"{"instance": "one", "adapters": ["#) });
            return Body::from_stream(begin.chain(stream::pending())).into_response();
        }
        _ => {}
    }
    let none = json!({"used": 0, "budget": 0});
    Json(json!({
        "instance": "one", "report": 1, "version": null, "draining": false, "resident": none, "host": none,
        "base": {"name": "base", "ready": true}, "complete": true, "adapters": [], "removed": [],
    }))
    .into_response()
}

async fn put(State(face): State<Face>, Json(set): Json<DesiredSet>) -> Json<Accepted> {
    let under_way = face.counts.begin();
    if face.behaviour == Behaviour::Hangs {
        std::future::pending::<()>().await;
    }
    face.counts.answers.acquire().await.expect("it is never closed").forget();
    drop(under_way);
    face.counts.answered.send_modify(|count| *count += 1);
    Json(Accepted { instance: "one".to_owned(), version: set.version })
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, face: Face) {
    let router = Router::new().route(ADAPTERS_PATH, get(report).put(put)).with_state(face);
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            // Whoever hangs up ends it.
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn acceptor(credentials: &Credentials) -> TlsAcceptor {
    let chain = CertificateDer::pem_slice_iter(credentials.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(credentials.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// A fleet of replicas that were heard and have nothing yet.
struct Scene {
    counts: Arc<Counts>,
    replicas: Replicas,
    fleet: FleetKey,
    names: Vec<String>,
    _served: Vec<AbortOnDropHandle<()>>,
    changed: mpsc::UnboundedReceiver<FleetKey>,
}

impl Scene {
    /// `count` of them, of which the first behaves as `first`; `concurrent` writes may be under way.
    async fn new(count: usize, concurrent: u16, first: Behaviour) -> Self {
        // Another test may have done it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let credentials = make(HOST, 3, Timestamp::now()).unwrap();
        let pass = Pass { authority: credentials.authority.clone(), token: credentials.token.clone() };
        let access = Arc::new(Access { newest: pass, former: None });
        let counts = Arc::new(Counts {
            under_way: watch::channel(0).0,
            most: AtomicUsize::new(0),
            answered: watch::channel(0).0,
            polls: watch::channel(0).0,
            answers: Semaphore::new(0),
        });
        let (mut endpoints, mut served) = (BTreeMap::new(), Vec::new());
        for at in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let behaviour = if at == 0 { first } else { Behaviour::Answers };
            let face = Face { counts: Arc::clone(&counts), behaviour };
            served.push(tokio::spawn(serve(listener, acceptor(&credentials), face)));
            let (host, access) = (HOST.to_owned(), Arc::clone(&access));
            let endpoint = Endpoint { host, address, incarnation: String::new(), access };
            endpoints.insert(format!("r{at:02}"), endpoint);
        }
        let (tell, mut changed) = mpsc::unbounded_channel();
        let (mut replicas, fleet) =
            (Replicas::new(Arc::new(Versions::new(1)), concurrent, tell), FleetKey::default());
        replicas.observe(&fleet, &endpoints);
        let names: Vec<String> = endpoints.into_keys().collect();
        let is_heard = |name: &String| matches!(replicas.contact(&fleet, name), Contact::Reported(_));
        while !names.iter().all(is_heard) {
            in_time("every replica is heard", changed.recv()).await.expect("their actors are there");
        }
        let served = served.into_iter().map(AbortOnDropHandle::new).collect();
        Self { counts, replicas, fleet, names, _served: served, changed }
    }

    /// All of `names` should hold one adapter.
    fn want(&self, names: &[String]) {
        let one = DesiredAdapter { name: "sql".to_owned(), ..DesiredAdapter::default() };
        let list: DesiredList = Arc::new([ArcIntern::new(one)]);
        let desired = names.iter().map(|name| (name.clone(), Arc::clone(&list))).collect();
        self.replicas.want(&self.fleet, desired);
    }
}

/// `work`, which must end in time.
async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// Waits until `counted` is `least` or more.
async fn until(what: &str, counted: &watch::Sender<usize>, least: usize) {
    let mut counted = counted.subscribe();
    in_time(what, counted.wait_for(|count| *count >= least)).await.expect("it is counted");
}

/// As many as may be were under way at once; on a machine that stands still, as many again that are late.
#[track_caller]
fn assert_bounded(most: usize, concurrent: usize) {
    assert!((concurrent..=2 * concurrent).contains(&most), "{most} at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_writes_are_under_way_at_once_as_may_be_and_no_more() {
    let (count, concurrent) = (12, 3);
    let scene = Scene::new(count, concurrent, Behaviour::Answers).await;
    scene.want(&scene.names);
    let Scene { counts, .. } = &scene;
    for answered in 0..count {
        let left = usize::from(concurrent).min(count - answered);
        until("the next ones are under way", &counts.under_way, left).await;
        counts.answers.add_permits(1);
    }
    until("all are answered", &counts.answered, count).await;
    assert_bounded(counts.most(), usize::from(concurrent));
    assert_eq!(*counts.answered.borrow(), count, "one was written to twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_hangs_holds_one_place_and_the_others_are_written_to_meanwhile() {
    let scene = Scene::new(8, 2, Behaviour::Hangs).await;
    let Scene { counts, names, .. } = &scene;
    scene.want(&names[..1]);
    until("it is written to", &counts.under_way, 1).await;
    counts.answers.add_permits(names.len());
    scene.want(names);
    until("the others have answered", &counts.answered, names.len() - 1).await;
    assert_eq!(*counts.under_way.borrow(), 1, "nobody waited for it");
    let mut under_way = counts.under_way.subscribe();
    in_time("it is given up", under_way.wait_for(|count| *count == 0)).await.expect("it is counted");
    assert_bounded(counts.most(), 2);
}

/// The clock stands from the moment that the write is under way: what passes after that is what the actor waits for.
#[tokio::test]
async fn a_write_that_hangs_is_given_up_after_the_time_of_an_answer() {
    let scene = Scene::new(1, 1, Behaviour::Hangs).await;
    scene.want(&scene.names);
    until("it is written to", &scene.counts.under_way, 1).await;
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let mut under_way = scene.counts.under_way.subscribe();
    in_time("it is given up", under_way.wait_for(|count| *count == 0)).await.expect("it is counted");
    let (took, limit) = (began.elapsed(), Duration::from_secs(5) + work(1));
    // A timer of the runtime goes by whole milliseconds.
    assert!(took > limit / 2 && took <= limit + Duration::from_millis(2), "{took:?} of {limit:?}");
}

/// The clock stands here too: what passes is what lies between the polls.
#[tokio::test]
async fn a_replica_that_always_has_something_to_say_is_asked_at_a_pace() {
    let scene = Scene::new(1, 1, Behaviour::Chatters).await;
    tokio::time::pause();
    let (began, before) = (tokio::time::Instant::now(), *scene.counts.polls.borrow());
    until("it is asked on", &scene.counts.polls, before + 40).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(39 * 25), "{took:?} for 40 polls");
}

/// Reports of thousands of adapters come in many pieces, and the next one may never come.
#[test]
fn a_replica_that_stops_within_its_report_keeps_no_thread_and_is_told_of() {
    let threads = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(1).enable_all().build();
    threads.unwrap().block_on(async {
        let mut scene = Scene::new(1, 1, Behaviour::Stops).await;
        until("it is asked for the next report", &scene.counts.polls, 2).await;
        // What it sent first has arrived long since.
        tokio::time::sleep(Duration::from_millis(200)).await;
        in_time("the one thread is free", tokio::task::spawn_blocking(|| ())).await.unwrap();
        let contact = |scene: &Scene| scene.replicas.contact(&scene.fleet, &scene.names[0]);
        while !matches!(contact(&scene), Contact::Unreachable { .. }) {
            in_time("it is told of", scene.changed.recv()).await.expect("its actor is there");
        }
    });
}
