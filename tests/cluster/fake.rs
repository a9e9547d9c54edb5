//! A scripted replica: speaks `runtime/api` over TLS with a token, serves no model. Hundreds fit in one process.

mod face;
mod gauge;
mod holding;
mod inspector;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lorikeet_api::{DesiredAdapter, Failure, InspectRequest, ReportedSet, Version};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub(crate) use self::face::Access;
use self::face::Guard;
use self::gauge::Gauge;
use self::holding::Holding;
use self::inspector::Inspections;
pub(crate) use self::inspector::{Shelf, config};

/// The ports that the operator's pods say for the admin face, and for the inspector.
const ADMIN_PORT: u16 = 8081;
const INSPECT_PORT: u16 = 8082;

/// How a replica behaves. All of it may change while it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    /// It takes connections and never answers.
    pub(crate) hung: bool,
    /// Before each answer.
    pub(crate) delay: Duration,
    /// A load takes that long.
    pub(crate) load: Duration,
    /// Adapters by name whose loads do not end.
    pub(crate) stalls: Vec<String>,
    /// Adapters by name that it cannot load, and why.
    pub(crate) refuses: Vec<(String, Failure)>,
    /// Names that it never gives up: their drain does not end.
    pub(crate) clings: Vec<String>,
    /// The base model is not loaded yet.
    pub(crate) base_loads: bool,
    /// As that, and the admin face says only so.
    pub(crate) says_it_loads: bool,
    /// It takes no desired set: the status and the message of its answer.
    pub(crate) rejects: Option<(u16, &'static str)>,
    /// What it says that the sources of all that it loaded resolve to.
    pub(crate) revision: Option<&'static str>,
    /// A long poll is answered after that time at the latest, whatever the caller allows.
    pub(crate) longest_poll: Option<Duration>,
    /// Each answer ends its connection: the next one begins with a handshake.
    pub(crate) closes: bool,
    /// When its pod is to go it serves on for as long as the pod's `preStop` sleeps; else it ends at once.
    pub(crate) farewell: bool,
    /// What the inspector beside it finds.
    pub(crate) shelf: Shelf,
    /// The inspector takes connections and never answers.
    pub(crate) inspector_hung: bool,
    /// No inspector listens, from the start of the pod on.
    pub(crate) inspector_away: bool,
    /// Counts the writes that are under way, at all that have a copy of this script.
    pub(crate) writes: Gauge,
}

/// A write that it heard.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) at: Instant,
    /// PUT or PATCH.
    pub(crate) whole: bool,
    pub(crate) version: Version,
    /// The replica took it over.
    pub(crate) taken: bool,
    pub(crate) set: Vec<DesiredAdapter>,
    pub(crate) removed: Vec<String>,
}

/// One replica.
pub(crate) struct Fake {
    name: String,
    address: SocketAddr,
    guard: Mutex<Guard>,
    script: Mutex<Script>,
    holding: Mutex<Holding>,
    heard: Mutex<Vec<Heard>>,
    /// When it first heard of each adapter.
    firsts: Mutex<BTreeMap<String, Instant>>,
    /// Grows with each change of what it would report.
    changed: watch::Sender<u64>,
    inspections: Inspections,
    polls: AtomicUsize,
    strangers: AtomicUsize,
    restarts: AtomicU32,
    /// Its container starts: the files of its volumes are not read yet.
    starts: AtomicBool,
    /// Its readiness probe has passed: an adapter that is pinned later takes no replica back.
    was_ready: AtomicBool,
}

impl Fake {
    /// Binds an address of loopback of its own and serves there until the task that it returns is dropped; answers nothing
    /// before [`Self::begin`].
    pub(crate) async fn start(
        name: &str,
        script: Script,
        access: Access,
    ) -> (Arc<Self>, tokio_util::task::AbortOnDropHandle<()>) {
        let listener = own_address().await;
        let fake = Arc::new(Self {
            name: name.to_owned(),
            address: listener.local_addr().expect("a bound address"),
            holding: Mutex::new(Holding::new(instance(name, 0))),
            guard: Mutex::new(Guard::of(&access)),
            script: Mutex::new(script),
            heard: Mutex::default(),
            firsts: Mutex::default(),
            changed: watch::channel(0).0,
            inspections: Inspections::default(),
            polls: AtomicUsize::new(0),
            strangers: AtomicUsize::new(0),
            restarts: AtomicU32::new(0),
            starts: AtomicBool::new(true),
            was_ready: AtomicBool::new(false),
        });
        let faces = futures::future::join(
            face::serve(listener, Arc::clone(&fake), face::router(&fake)),
            inspect(Arc::clone(&fake)),
        );
        let served = tokio::spawn(async move { ((), ()) = faces.await });
        (fake, tokio_util::task::AbortOnDropHandle::new(served))
    }

    /// The pod that it stands for.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens: the pod's address.
    pub(crate) fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    /// The files of its admin Secret are these now, and it reads them.
    pub(crate) fn remount(&self, access: &Access) {
        lock(&self.guard).take_over(access);
    }

    /// Changes how it behaves.
    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut lock(&self.script));
        self.tell();
    }

    /// How it behaves.
    pub(crate) fn behaviour(&self) -> Script {
        lock(&self.script).clone()
    }

    /// The container restarts: a new process, which has forgotten everything. It begins when its kubelet lets it.
    pub(crate) fn restart(&self) {
        self.starts.store(true, Ordering::Relaxed);
        self.was_ready.store(false, Ordering::Relaxed);
        let count = self.restarts.fetch_add(1, Ordering::Relaxed) + 1;
        *lock(&self.holding) = Holding::new(instance(&self.name, count));
        self.tell();
    }

    /// The container has started, and finds `registry` beside it.
    pub(crate) fn begin(self: &Arc<Self>, registry: Vec<DesiredAdapter>) {
        let loads = lock(&self.holding).preset(registry);
        self.starts.store(false, Ordering::Relaxed);
        face::load(self, loads);
    }

    /// Waits until the container has started.
    async fn until_begun(&self) {
        let mut changes = self.watch();
        while self.starts.load(Ordering::Relaxed) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Adapter `name` is gone, as if it had been unloaded by hand; the version stays.
    pub(crate) fn lose(&self, name: &str) {
        lock(&self.holding).lose(name);
        self.tell();
    }

    /// So many requests at a time are for adapter `name`, until this is said again.
    #[track_caller]
    pub(crate) fn asked(&self, name: &str, demand: u32) {
        assert!(lock(&self.holding).asked(name, demand), "{} does not know {name}", self.name);
        self.tell();
    }

    /// How often the container restarted.
    pub(crate) fn restarts(&self) -> u32 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// What it would report.
    pub(crate) fn report(&self) -> ReportedSet {
        self.report_after(None)
    }

    /// What it would report that changed after report `after`.
    fn report_after(&self, after: Option<u64>) -> ReportedSet {
        let script = self.behaviour();
        let mut report = lock(&self.holding).report(!script.base_loads, after);
        let revision = script.revision.map(str::to_owned);
        report.base.revision.clone_from(&revision);
        for one in report.adapters.iter_mut().filter(|one| one.digest.is_some()) {
            one.revision.clone_from(&revision);
        }
        report
    }

    /// Whether its readiness probe would pass: the base model and all that is pinned at the start are loaded.
    pub(crate) fn is_ready(&self) -> bool {
        let script = self.behaviour();
        if self.starts.load(Ordering::Relaxed) || script.base_loads || script.says_it_loads {
            return false;
        }
        let is_ready = self.was_ready.load(Ordering::Relaxed) || lock(&self.holding).pinned_are_ready();
        self.was_ready.store(is_ready, Ordering::Relaxed);
        is_ready
    }

    /// Whether it serves adapter `name` from its device.
    pub(crate) fn serves(&self, name: &str) -> bool {
        lock(&self.holding).serves(name)
    }

    /// Every write that it heard, the oldest first.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        lock(&self.heard).clone()
    }

    /// The sources that the inspector beside it was asked for, the oldest first.
    pub(crate) fn inspected(&self) -> Vec<InspectRequest> {
        self.inspections.all()
    }

    /// When it first heard of adapter `name`.
    pub(crate) fn first_heard(&self, name: &str) -> Option<Instant> {
        lock(&self.firsts).get(name).copied()
    }

    /// Fails the test when it was ever told to give up one of `names`: by a change, or by a whole set that lacks what it had
    /// heard of.
    pub(crate) fn assert_kept(&self, names: &[&str]) {
        for write in self.heard() {
            for &name in names {
                let was_told = self.first_heard(name).is_some_and(|first| first < write.at);
                let lacks = write.whole && was_told && write.set.iter().all(|one| one.name != name);
                let gives_up = lacks || write.removed.iter().any(|one| one == name);
                assert!(!gives_up, "{} was told to give up {name}: {write:?}", self.name);
            }
        }
    }

    /// How many polls it has answered.
    pub(crate) fn polls(&self) -> usize {
        self.polls.load(Ordering::Relaxed)
    }

    /// How many requests came with a token that is not its own.
    pub(crate) fn strangers(&self) -> usize {
        self.strangers.load(Ordering::Relaxed)
    }

    /// Hears of changes of what it would report.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

/// The face of the inspector beside `fake`, where there is one.
async fn inspect(fake: Arc<Fake>) {
    if !fake.behaviour().inspector_away {
        let listener = TcpListener::bind((fake.ip(), INSPECT_PORT)).await.expect("an address of its own");
        face::serve(listener, Arc::clone(&fake), inspector::router(&fake)).await;
    }
}

/// Locks, also after a test's panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn instance(name: &str, restarts: u32) -> String {
    format!("{name}-process-{restarts}")
}

/// A listener on the admin port of a loopback address that nobody else has.
pub(crate) async fn own_address() -> TcpListener {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Programs that run side by side begin at different places.
    let offset = std::process::id().wrapping_mul(211);
    loop {
        let host = offset.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 0xFF_FF00 + 0x100;
        let [_, a, b, c] = host.to_be_bytes();
        if c == 0 || c == 255 {
            continue;
        }
        if let Ok(listener) = TcpListener::bind((IpAddr::from([127, a, b, c]), ADMIN_PORT)).await {
            return listener;
        }
    }
}
