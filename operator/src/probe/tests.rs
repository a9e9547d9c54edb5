//! Probes against a server of this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use lorikeet_crds::condition::{Saying, Truth, conditions};
use lorikeet_crds::{Adapter, AdapterStatus, ConditionType, Reason};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

mod beside;

use super::*;
use crate::fleet::{AdapterFacts, Capacity, ConfigFault, Unread};

const CONFIG: &str = r#"{"peft_type": "LORA", "r": 8, "base_model_name_or_path": "acme/base"}"#;

/// A server of `/acme/sql/resolve/main/` and of some ways to be none.
#[derive(Clone, Default)]
struct Server {
    asked: Arc<AtomicUsize>,
    is_broken: Arc<AtomicBool>,
    secrets: Arc<AtomicUsize>,
}

impl Server {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }
}

/// A weights file of 900 bytes of tensors.
fn weights() -> Vec<u8> {
    let mut file = 92_u64.to_le_bytes().to_vec();
    file.resize(1000, b' ');
    file
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    server.asked.fetch_add(1, Ordering::SeqCst);
    if request.headers().contains_key("authorization") {
        server.secrets.fetch_add(1, Ordering::SeqCst);
    }
    let path = request.uri().path().to_owned();
    let (folder, file) = path.rsplit_once('/').unwrap();
    let status = |code: u16| axum::http::StatusCode::from_u16(code).unwrap();
    let to = |place: &str| (status(302), [("location", place.to_owned())]).into_response();
    if server.is_broken.load(Ordering::SeqCst) {
        return status(500).into_response();
    }
    match (folder, file) {
        ("/loop", _) => to(&path),
        ("/inside", _) => to("http://10.0.0.1/x"),
        (folder, _) if folder.starts_with("/to/") => to(&folder[4..].replacen('/', "://", 1)),
        ("/moved", file) => to(&format!("/whole/{file}")),
        ("/broken", _) => status(500).into_response(),
        ("/closed", _) => status(401).into_response(),
        (folder, _) if folder.starts_with("/hangs") => std::future::pending().await,
        ("/long", "adapter_config.json") => vec![b' '; 2 << 20].into_response(),
        ("/odd", "adapter_config.json") => "[]".into_response(),
        ("/light", "adapter_model.safetensors") => status(404).into_response(),
        ("/whole", "adapter_model.safetensors") => weights().into_response(),
        (_, "adapter_config.json") => CONFIG.into_response(),
        (_, "adapter_model.safetensors") => part(request.headers()),
        _ => status(404).into_response(),
    }
}

fn part(headers: &HeaderMap) -> Response {
    assert_eq!(headers["range"], "bytes=0-7");
    let body = Body::from(weights()[..8].to_vec());
    (axum::http::StatusCode::PARTIAL_CONTENT, [("content-range", "bytes 0-7/1000")], body).into_response()
}

struct Scene {
    probes: Probes,
    readers: Readers,
    fleet: Fleet,
    changed: UnboundedReceiver<FleetKey>,
}

impl Scene {
    fn new(hub: &str, change: impl FnOnce(&mut ProbeConfig)) -> Self {
        let mut config = ProbeConfig {
            limit: Duration::from_secs(60),
            concurrent: 4,
            fresh: Duration::from_secs(60),
            hub: hub.to_owned(),
            hosts: HostPolicy { allow: vec!["127.0.0.1".parse().unwrap()] },
            paths: false,
        };
        change(&mut config);
        let (tell, changed) = unbounded_channel();
        let fleet = Fleet {
            key: FleetKey { namespace: "here".to_owned(), name: "base".to_owned() },
            deployment: None,
            adapters: Vec::new(),
            namespaces: BTreeMap::new(),
            unread: Unread::default(),
            probes: BTreeMap::new(),
            replicas: Vec::new(),
            capacity: Capacity::default(),
            moves: 8,
            claims: "/models".to_owned(),
            url: None,
            workload: None,
        };
        let readers = Readers::Inspectors([].into());
        Self { probes: Probes::new(config, News { some: tell.clone(), all: tell }), readers, fleet, changed }
    }

    fn adapter(&mut self, source: &str) -> &mut Adapter {
        let mut adapter = Adapter::default();
        adapter.metadata.name = Some(format!("a{}", self.fleet.adapters.len()));
        adapter.metadata.namespace = Some("here".to_owned());
        adapter.metadata.generation = Some(2);
        adapter.spec.source.source = source.to_owned();
        self.fleet.adapters.push(Arc::new(adapter));
        Arc::make_mut(self.fleet.adapters.last_mut().unwrap())
    }

    fn is_reading(&self) -> bool {
        self.probes.inner.memory().is_reading()
    }

    fn ask(&self) -> BTreeMap<AdapterKey, Probe> {
        self.probes.of(&self.fleet, &self.readers).probes
    }

    /// Asks until nothing is pending: when there is news, and when it is time.
    async fn read(&mut self) -> Vec<Probe> {
        loop {
            let Probed { probes, again, .. } = self.probes.of(&self.fleet, &self.readers);
            if !probes.values().any(|probe| *probe == Probe::Pending) {
                return probes.into_values().collect();
            }
            tokio::select! {
                told = self.changed.recv() => assert_eq!(told.as_ref(), Some(&self.fleet.key)),
                () = tokio::time::sleep(again.expect("it is to be asked about again")) => {}
            }
        }
    }
}

fn facts(bytes: Option<u64>) -> Probe {
    Probe::Facts(AdapterFacts {
        rank: 8,
        rank_field: "r".to_owned(),
        base_model: Some("acme/base".to_owned()),
        bytes,
    })
}

fn why(probe: &Probe) -> &str {
    match probe {
        Probe::Refused(failure) => &failure.message,
        Probe::Awaited(whom) => whom,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_source_is_pending_at_first_and_its_fleet_hears_what_was_read() {
    let server = Server::default();
    let url = server.start().await;
    let mut scene = Scene::new(&url, |_| {});
    scene.adapter("hf://acme/sql");
    assert_eq!(scene.ask().into_values().collect::<Vec<_>>(), [Probe::Pending]);
    assert_eq!(scene.read().await, [facts(Some(900))]);
    // Known now: nobody is asked again.
    let asked = server.asked.load(Ordering::SeqCst);
    assert_eq!(scene.read().await, [facts(Some(900))]);
    assert_eq!((asked, server.asked.load(Ordering::SeqCst)), (2, 2));
    assert_eq!(server.secrets.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn each_form_of_a_source_is_read() {
    let server = Server::default();
    let url = server.start().await;
    let mut scene = Scene::new(&url, |_| {});
    for path in ["/plain", "/plain/", "/whole", "/moved", "/plain/adapter_model.safetensors?sig=1"] {
        scene.adapter(&format!("{url}{path}"));
    }
    scene.adapter("hf://acme/sql").spec.source.revision = Some("refs/pr/1".to_owned());
    assert!(scene.read().await.iter().all(|probe| *probe == facts(Some(900))));
}

#[tokio::test]
async fn weights_that_cannot_be_read_are_no_reason_to_accept() {
    let server = Server::default();
    let url = server.start().await;
    let mut scene = Scene::new(&url, |_| {});
    scene.adapter(&format!("{url}/light"));
    assert!(why(&scene.read().await[0]).contains("404"));
}

#[tokio::test]
async fn what_is_no_configuration_is_a_fault_and_what_cannot_be_read_is_none() {
    let server = Server::default();
    let url = server.start().await;
    let mut scene = Scene::new(&url, |_| {});
    for path in ["/long", "/odd", "/loop", "/closed", "/inside"] {
        scene.adapter(&format!("{url}{path}"));
    }
    let probes = scene.read().await;
    assert_eq!(probes[0], Probe::Faulty(ConfigFault::TooLong { limit: 1 << 20 }));
    assert_eq!(probes[1], Probe::Faulty(ConfigFault::NotAnObject("a list")));
    assert!(why(&probes[2]).contains("more than 5 redirects"));
    assert!(why(&probes[3]).contains("401"));
    assert!(why(&probes[4]).contains("10.0.0.1"), "{:?}", probes[4]);
}

#[tokio::test]
async fn an_address_that_is_not_public_is_not_asked() {
    let server = Server::default();
    let url = server.start().await;
    let mut scene = Scene::new("https://hub.invalid", |config| config.hosts = HostPolicy::default());
    scene.adapter(&format!("{url}/plain"));
    scene.adapter(&format!("{}/plain", url.replace("http://", "https://")));
    scene.adapter("https://localhost/plain");
    let probes = scene.read().await;
    assert!(probes.iter().all(|probe| matches!(probe, Probe::Awaited(_))), "{probes:?}");
    assert!(why(&probes[2]).contains("not public"), "{probes:?}");
    assert_eq!(server.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_rule_with_a_port_opens_that_port_alone() {
    let (server, other) = (Server::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let open = server.start().await.replace("127.0.0.1", "localhost");
    let closed = format!("localhost:{}", other.local_addr().unwrap().port());
    let mut scene = Scene::new("https://hub.invalid", |config| {
        config.hosts = HostPolicy { allow: vec![open["http://".len()..].parse().unwrap()] };
    });
    scene.adapter(&format!("{open}/plain"));
    for scheme in ["http", "https"] {
        scene.adapter(&format!("{scheme}://{closed}/plain"));
        scene.adapter(&format!("{open}/to/{scheme}/{closed}"));
    }
    let probes = scene.read().await;
    assert_eq!(probes[0], facts(Some(900)));
    for closed in &probes[1..] {
        let why = why(closed);
        assert!(why.contains("not public") || why.contains("only https is allowed"), "{why}");
    }
    let nobody = tokio::time::timeout(Duration::ZERO, other.accept()).await;
    assert!(nobody.is_err(), "it was connected to: {nobody:?}");
}

#[tokio::test]
async fn a_source_that_hangs_holds_nobody_up_for_longer_than_the_limit() {
    let server = Server::default();
    let url = server.start().await;
    let mut scene = Scene::new(&url, |config| {
        config.limit = Duration::from_millis(50);
        (config.concurrent, config.fresh) = (1, Duration::from_millis(50));
    });
    for index in 0..20 {
        scene.adapter(&format!("{url}/hangs/{index}"));
    }
    let probes = scene.read().await;
    assert!(probes.iter().all(|probe| !why(probe).is_empty()), "{probes:?}");
}

#[tokio::test]
async fn a_host_that_fails_is_left_in_peace_for_a_while() {
    let server = Server::default();
    let url = server.start().await;
    let mut scene =
        Scene::new(&url, |config| (config.concurrent, config.fresh) = (1, Duration::from_millis(50)));
    for _ in 0..20 {
        scene.adapter(&format!("{url}/broken"));
    }
    for (index, adapter) in scene.fleet.adapters.iter_mut().enumerate() {
        Arc::make_mut(adapter).spec.source.digest = Some(format!("sha256:{index}"));
    }
    let probes = scene.read().await;
    assert!(probes.iter().all(|probe| !why(probe).is_empty()), "{probes:?}");
    assert_eq!(server.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_was_refused_is_read_again_after_a_while_and_nothing_flaps() {
    let server = Server::default();
    let url = server.start().await;
    let mut scene = Scene::new(&url, |config| config.fresh = Duration::ZERO);
    scene.adapter("hf://acme/sql");
    scene.read().await;
    let asked = server.asked.load(Ordering::SeqCst);
    // What is known stays while it is read anew, and saying the same is no news.
    while server.asked.load(Ordering::SeqCst) < asked + 2 {
        assert_eq!(scene.read().await, [facts(Some(900))]);
        tokio::task::yield_now().await;
    }
    assert!(scene.changed.try_recv().is_err());
}

#[tokio::test]
async fn what_was_read_stays_while_it_cannot_be_read_again() {
    let server = Server::default();
    let url = server.start().await;
    let mut scene = Scene::new(&url, |config| config.fresh = Duration::ZERO);
    scene.adapter("hf://acme/sql");
    scene.adapter(&format!("{url}/odd"));
    let before = scene.read().await;
    while scene.is_reading() {
        tokio::task::yield_now().await;
    }
    while scene.changed.try_recv().is_ok() {}
    server.is_broken.store(true, Ordering::SeqCst);
    let asked = server.asked.load(Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(scene.read().await, before);
        while scene.is_reading() {
            tokio::task::yield_now().await;
        }
    }
    assert!(server.asked.load(Ordering::SeqCst) > asked);
    assert_eq!(scene.read().await, before);
    assert!(scene.changed.try_recv().is_err(), "nothing new was read");
}

#[tokio::test]
async fn what_is_accepted_or_leaving_is_not_read() {
    let server = Server::default();
    let url = server.start().await;
    let mut scene = Scene::new(&url, |_| {});
    let accepted = Saying {
        condition: ConditionType::Accepted,
        truth: Truth::True,
        reason: Reason::Valid,
        message: String::new(),
    };
    let conditions = conditions(&[], &[accepted], Some(2), jiff::Timestamp::UNIX_EPOCH);
    scene.adapter("hf://acme/sql").status = Some(AdapterStatus { conditions, ..AdapterStatus::default() });
    scene.adapter("hf://acme/sql").metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    assert_eq!(scene.ask(), BTreeMap::new());
    // An edit makes another generation of it.
    Arc::make_mut(&mut scene.fleet.adapters[0]).metadata.generation = Some(3);
    assert_eq!(scene.read().await, [facts(Some(900))]);
    assert_eq!(server.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn with_a_limit_of_zero_nothing_is_read() {
    let mut scene = Scene::new("https://hub.invalid", |config| config.limit = Duration::ZERO);
    scene.adapter("hf://acme/sql");
    assert_eq!(scene.ask(), BTreeMap::new());
}

#[tokio::test]
async fn on_one_machine_folders_are_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["good/claim", "pipe"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    std::fs::write(at("good/claim/adapter_config.json"), CONFIG).unwrap();
    std::fs::write(at("good/claim/adapter_model.safetensors"), weights()).unwrap();
    std::fs::create_dir(at("light")).unwrap();
    std::fs::write(at("light/adapter_config.json"), CONFIG).unwrap();
    // A folder stands for what is no file: opening it must not wait or succeed.
    std::fs::create_dir(at("pipe/adapter_config.json")).unwrap();
    let mut scene = Scene::new("https://hub.invalid", |config| config.paths = true);
    scene.fleet.claims = at("good").display().to_string();
    scene.adapter(&format!("file://{}", at("good/claim").display()));
    scene.adapter("pvc://claim");
    scene.adapter(&format!("file://{}", at("pipe").display()));
    scene.adapter("file:///nowhere/at/all");
    scene.adapter(&format!("file://{}", at("light").display()));
    let probes = scene.read().await;
    assert_eq!(probes[..2], [facts(Some(900)), facts(Some(900))]);
    assert!(why(&probes[2]).contains("not a file"));
    assert!(why(&probes[3]).contains("adapter_config.json"));
    assert!(why(&probes[4]).contains("adapter_model.safetensors"));
}

#[tokio::test]
async fn of_a_fleet_that_is_gone_nothing_is_kept() {
    let server = Server::default();
    let mut scene = Scene::new(&server.start().await, |_| {});
    scene.adapter("hf://acme/sql");
    scene.read().await;
    let asked = server.asked.load(Ordering::SeqCst);
    scene.read().await;
    assert!(scene.probes.inner.reading.knows(&scene.fleet.key));
    assert_eq!(server.asked.load(Ordering::SeqCst), asked, "what it said is known");
    scene.probes.forget(&scene.fleet.key);
    assert!(!scene.probes.inner.reading.knows(&scene.fleet.key));
    scene.read().await;
    assert!(server.asked.load(Ordering::SeqCst) > asked, "it is read anew");
}
