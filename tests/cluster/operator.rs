//! The operator's process: started with a kubeconfig, ready when it says so, killed when its value goes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lorikeet_tests::args;
use lorikeet_tests::client::Client;
use lorikeet_tests::operator::binary;
use lorikeet_tests::process::free_address;

use crate::tethered::Tethered;
use crate::until::{PATIENCE, until};

/// What an operator is started with.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Who it is: of two with one name, the second takes the Lease over at once.
    pub(crate) identity: String,
    /// The kubeconfig of its account.
    pub(crate) kubeconfig: PathBuf,
    /// Its own namespace.
    pub(crate) namespace: String,
    /// The namespace that it watches; all when absent.
    pub(crate) watches: Option<String>,
    /// How long its Lease lasts.
    pub(crate) lease_seconds: u32,
    /// How often the registry may be written. A test of a few Adapters does not wait for it.
    pub(crate) registry_seconds: u32,
    /// Further flags.
    pub(crate) flags: Vec<String>,
    /// So many seconds its clock is ahead; time passes for it as for others.
    pub(crate) ahead: i32,
    /// Where its log goes.
    pub(crate) log: PathBuf,
}

/// A running operator.
pub(crate) struct Operator {
    process: Tethered,
    http: Client,
}

/// What a test sets so that it does not wait for what a cluster can wait for.
const HASTE: [(&str, &str); 5] = [
    ("secret-seconds", "1"),
    ("backoff-ms", "50"),
    ("max-backoff-seconds", "2"),
    ("api-seconds", "5"),
    ("log-level", "info,lorikeet_operator=debug"),
];
/// A hub where nobody listens: an inspector is asked at once, and no test waits for a name server or depends on what is public.
const NO_HUB: &str = "http://127.0.0.1:1";
/// A flag with this value is left to the operator's own default.
const OWN: &str = "=default";

impl Options {
    /// As users run it: the operator's own defaults in place of a test's haste. What still differs is the hub, and where and who
    /// it is.
    pub(crate) fn unhurried(&mut self) {
        let flags = HASTE.iter().map(|(name, _)| *name).chain(["lease-seconds", "registry-seconds"]);
        self.flags.extend(flags.map(|name| format!("--{name}{OWN}")));
    }
}

impl Operator {
    /// Starts it.
    pub(crate) fn start(options: &Options) -> Self {
        let listen: SocketAddr = free_address();
        let mut arguments = vec!["run".to_owned()];
        let mut set = |name: &str, value: &str| {
            let flag = format!("--{name}=");
            // What a scenario says itself goes.
            if !options.flags.iter().any(|given| given.starts_with(&flag)) {
                arguments.push(flag + value);
            }
        };
        set("kubeconfig", &options.kubeconfig.to_string_lossy());
        set("namespace", &options.namespace);
        if let Some(namespace) = &options.watches {
            set("watch-namespace", namespace);
        }
        set("listen", &listen.to_string());
        set("identity", &options.identity);
        set("lease-seconds", &options.lease_seconds.to_string());
        HASTE.iter().for_each(|(name, value)| set(name, value));
        set("registry-seconds", &options.registry_seconds.to_string());
        set("hf-endpoint", NO_HUB);
        arguments.extend(options.flags.iter().filter(|flag| !flag.ends_with(OWN)).cloned());
        let variables = clock(options.ahead);
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let process = Tethered::start(&binary(), &arguments, &variables, options.log.clone()).shown();
        Self { process, http: Client::of(format!("http://{listen}")) }
    }

    /// Waits until its caches are synced.
    pub(crate) async fn until_ready(&mut self) {
        until("the operator is ready", PATIENCE, async || {
            self.process.assert_running();
            (self.asked("/readyz").await == Some(200)).then_some(())
        })
        .await;
    }

    /// The status of its answer to `GET path`; nothing where it does not answer.
    pub(crate) async fn asked(&self, path: &str) -> Option<u16> {
        let asked = Client::send(self.http.request(reqwest::Method::GET, path)).await;
        asked.ok().map(|answer| answer.status)
    }

    /// Its metrics.
    pub(crate) async fn page(&self) -> String {
        self.http.get("/metrics").await.text
    }

    /// Its process.
    pub(crate) fn process(&mut self) -> &mut Tethered {
        &mut self.process
    }
}

/// A panic of one of its tasks ends no operator: no scenario is to pass over it. And what shows the program another clock
/// leaves that behind where it is killed.
impl Drop for Operator {
    fn drop(&mut self) {
        let has_panicked = self.process.log().contains("panicked at");
        assert!(std::thread::panicking() || !has_panicked, "{}", self.process.log());
        let id = self.process.id();
        for name in [format!("faketime_shm_{id}"), format!("sem.faketime_sem_{id}")] {
            // Mostly it is not there.
            let _ = std::fs::remove_file(Path::new("/dev/shm").join(name));
        }
    }
}

/// What shows a program a clock that is `ahead` so many seconds.
fn clock(ahead: i32) -> Vec<(&'static str, String)> {
    if ahead == 0 {
        return Vec::new();
    }
    let library = args::provided(".venv/lib/libfaketime.so.1", "python");
    vec![
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", format!("{ahead:+}")),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}
