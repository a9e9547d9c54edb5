//! A real control plane on loopback: etcd, kube-apiserver with RBAC and an audit log, kube-controller-manager with the
//! controllers of Deployments, ReplicaSets, disruption budgets, garbage and namespaces, and for those who ask kube-scheduler.
//! No node: see `kubelet`. Or one that is given: see `given`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use lorikeet_tests::args;
use lorikeet_tests::process::free_address;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::audit::{Audit, Passed};
use crate::certificates::{Authority, Pair, token_keys};
use crate::given::{self, skips};
use crate::kubectl::Kubectl;
use crate::tethered::Tethered;
use crate::until::until;

/// What a control plane is made of.
const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// The controllers that the suites need; none of them writes anything while nothing changes.
const CONTROLLERS: [&str; 5] = [
    "garbage-collector-controller",
    "namespace-controller",
    "deployment-controller",
    "replicaset-controller",
    "disruption-controller",
];

const AUDIT_POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
  "rules": [
    {"level": "None", "users": ["system:apiserver", "system:anonymous"]},
    {"level": "None", "userGroups": ["system:masters"]},
    {"level": "Metadata"}
  ]
}"#;

/// A control plane; one of ours ends with its value.
pub(crate) struct ControlPlane {
    folder: PathBuf,
    made: Made,
}

/// Who made it.
enum Made {
    /// We did.
    Here(Programs),
    /// It was given: what passed our proxies stands for its audit log, and names bear the `run`.
    Elsewhere { run: String, passed: Passed },
}

/// What one of ours consists of.
struct Programs {
    etcd: SocketAddr,
    address: SocketAddr,
    // Ended in this order: who writes before who keeps.
    processes: Vec<Tethered>,
}

impl ControlPlane {
    /// The one that most scenarios of this program share, each in namespaces of its own: that of `KUBECONFIG`, else one of ours.
    pub(crate) async fn shared() -> Arc<Self> {
        // That one was refused is kept too: the next scenario would find the same.
        static SHARED: OnceCell<Result<Arc<ControlPlane>, String>> = OnceCell::const_new();
        let of = async || match args::kubeconfig() {
            Some(kubeconfig) => given::take(&kubeconfig).await.map(Arc::new),
            None => Ok(Arc::new(Self::start().await)),
        };
        SHARED.get_or_init(of).await.clone().unwrap_or_else(|why| panic!("KUBECONFIG: {why}"))
    }

    /// One of ours for a scenario that may share none, as `why` says of it; nothing where one is given: the scenario is skipped.
    pub(crate) async fn own(why: &str) -> Option<Self> {
        if skips(why) { None } else { Some(Self::start().await) }
    }

    /// A new one, with our kinds applied.
    async fn start() -> Self {
        let folder = new_folder();
        let files = Files::write(&folder);
        let (etcd_address, server_address) = (free_address(), free_address());
        let server = format!("https://{server_address}");
        let log = |name: &str| folder.join(format!("{name}.log"));
        let etcd = Tethered::start(&asset("etcd"), &etcd(&folder, etcd_address), &[], log("etcd"));
        let flags = apiserver(&folder, etcd_address, server_address);
        let mut apiserver =
            Tethered::start(&asset("kube-apiserver"), &flags, &[], log("kube-apiserver")).shown();
        for user in ["admin", "controllers"] {
            let pair = files.authority.user(user, "system:masters");
            write_kubeconfig(&folder.join(user), &server, Some(&files.authority.pem()), &credentials(&pair));
        }
        let kubectl = Kubectl::of(folder.join("admin"));
        until("the API server is ready", Duration::from_secs(120), async || {
            apiserver.assert_running();
            kubectl.try_run(&["get", "--raw", "/readyz"]).is_ok().then_some(())
        })
        .await;
        // Before the garbage collector starts: it looks for new kinds twice a minute only.
        apply_kinds(&kubectl).await;
        let flags = controllers(&folder);
        let manager =
            Tethered::start(&asset("kube-controller-manager"), &flags, &[], log("kube-controller-manager"));
        let processes = vec![manager, apiserver, etcd];
        let made = Made::Here(Programs { etcd: etcd_address, address: server_address, processes });
        Self { folder, made }
    }

    /// The one that the kubeconfig `admin` in `folder` names.
    pub(crate) fn elsewhere(folder: PathBuf, run: String) -> Self {
        Self { folder, made: Made::Elsewhere { run, passed: Passed::default() } }
    }

    /// As [`Self::own`], with a scheduler: pods go to nodes, where there are any.
    pub(crate) async fn with_scheduler() -> Option<Self> {
        let mut plane = Self::own("kube-scheduler chooses among nodes that it makes").await?;
        let kubeconfig = plane.folder.join("controllers").display().to_string();
        let flags = [
            format!("--kubeconfig={kubeconfig}"),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        let log = plane.folder.join("kube-scheduler.log");
        let scheduler = Tethered::start(&asset("kube-scheduler"), &flags, &[], log);
        plane.programs().processes.insert(0, scheduler);
        Some(plane)
    }

    /// What it consists of: only one of ours is asked.
    fn programs(&mut self) -> &mut Programs {
        match &mut self.made {
            Made::Here(programs) => programs,
            Made::Elsewhere { .. } => panic!("a given control plane's programs are not ours"),
        }
    }

    /// Compacts etcd: what was before the newest revision cannot be read any more. The API server is started anew, as its own
    /// memory of the last changes would hide that from whoever watches.
    pub(crate) async fn compact(&mut self) {
        let (folder, kubectl) = (self.folder.clone(), self.kubectl());
        let Programs { etcd, address, processes } = self.programs();
        let ask = async |path: &str, body: Value| -> Value {
            let url = format!("http://{etcd}/v3/kv/{path}");
            let answer = reqwest::Client::new().post(url).json(&body).send().await.expect("etcd answers");
            let answer = answer.error_for_status().expect("etcd does as it is asked");
            answer.json().await.expect("JSON")
        };
        // No key is asked for: the answer's head has the revision.
        let newest = ask("range", json!({"key": base64("none")})).await["header"]["revision"].clone();
        ask("compaction", json!({"revision": newest, "physical": true})).await;
        let flags = apiserver(&folder, *etcd, *address);
        let old = processes.iter_mut().find(|process| process.name() == "kube-apiserver");
        let old = old.expect("it runs");
        old.kill();
        let log = folder.join("kube-apiserver.log");
        *old = Tethered::start(&asset("kube-apiserver"), &flags, &[], log).shown();
        until("the API server is ready again", Duration::from_secs(120), async || {
            kubectl.try_run(&["get", "--raw", "/readyz"]).is_ok().then_some(())
        })
        .await;
    }

    /// Where its files are; those of a program that ended are removed when the next plane starts.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What tells this run of the suite from others on the same control plane; nothing of one of ours, which has no other.
    pub(crate) fn run(&self) -> Option<&str> {
        match &self.made {
            Made::Here(_) => None,
            Made::Elsewhere { run, .. } => Some(run),
        }
    }

    /// Where what passes a proxy before it is kept, where it has no audit log that we could read.
    pub(crate) fn passed(&self) -> Option<Passed> {
        match &self.made {
            Made::Here(_) => None,
            Made::Elsewhere { passed, .. } => Some(passed.clone()),
        }
    }

    /// The kubeconfig of one who may do everything.
    pub(crate) fn admin(&self) -> PathBuf {
        self.folder.join("admin")
    }

    /// kubectl, as one who may do everything.
    pub(crate) fn kubectl(&self) -> Kubectl {
        Kubectl::of(self.admin())
    }

    /// A client, as one who may do everything.
    pub(crate) async fn client(&self) -> kube::Client {
        client(&self.admin()).await
    }

    /// What its API server did for `user`, who must not be one of the tests' own and shows `token`.
    pub(crate) fn audit(&self, user: String, token: &str) -> Audit {
        match &self.made {
            Made::Here(_) => Audit::of_log(self.folder.join("audit.log"), user),
            Made::Elsewhere { passed, .. } => Audit::of_passed(passed.clone(), token.to_owned()),
        }
    }

    /// Writes a kubeconfig for `token` at `server`, a proxy before this one, and returns its path.
    pub(crate) fn kubeconfig(&self, name: &str, server: &str, token: &str) -> PathBuf {
        let path = self.folder.join(name);
        write_kubeconfig(&path, server, None, &json!({"token": token}));
        path
    }
}

/// Applies our kinds, whoever did before, and waits until they are served.
pub(crate) async fn apply_kinds(kubectl: &Kubectl) {
    let kinds = args::root().join("crds/yaml");
    kubectl.run(&["apply", "--server-side", "--force-conflicts", "-f", &kinds.to_string_lossy()]);
    // Their condition Established comes before they can be found. What `explain` finds it keeps for hours: asked too early,
    // that is nothing.
    until("our kinds are served", Duration::from_secs(60), async || {
        let found = kubectl.try_run(&["api-resources", "--api-group=lorikeet.dev", "--output=name"]).ok()?;
        let described = kubectl.try_run(&["get", "--raw", "/openapi/v3/apis/lorikeet.dev/v1alpha1"]).ok()?;
        let is_served =
            |kind: &str| found.contains(&format!("{}s.", kind.to_lowercase())) && described.contains(kind);
        ["Deployment", "Adapter"].into_iter().all(is_served).then_some(())
    })
    .await;
}

/// A client with the credentials of `kubeconfig`.
async fn client(kubeconfig: &Path) -> kube::Client {
    // It may have been installed by another test of this program.
    let _ = rustls::crypto::ring::default_provider().install_default();
    kube::Client::try_from(configuration(kubeconfig).await).expect("a client")
}

/// How a client reaches the API server of `kubeconfig`.
pub(crate) async fn configuration(kubeconfig: &Path) -> kube::Config {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    config.expect("a client's configuration")
}

/// A program of the control plane: all are of KUBEBUILDER_ASSETS, or all of `tests/setup.sh k8s`.
fn asset(name: &str) -> PathBuf {
    match args::kubebuilder_assets() {
        Some(folder) => found(&folder, name).unwrap_or_else(|why| panic!("{why}")),
        None => args::provided(&format!(".cache/k8s/bin/{name}"), "k8s"),
    }
}

/// Of a folder that has all of them: one from elsewhere would be of another release.
fn found(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let lacks: Vec<&str> = PROGRAMS.into_iter().filter(|name| !folder.join(name).exists()).collect();
    if lacks.is_empty() {
        return Ok(folder.join(name));
    }
    Err(format!(
        "KUBEBUILDER_ASSETS={}: expected all of a control plane ({}), but {} is not there; without KUBEBUILDER_ASSETS the one of \
         `tests/setup.sh k8s` is taken",
        folder.display(),
        PROGRAMS.join(", "),
        lacks.join(", ")
    ))
}

/// A folder that bears this process's id. Those of processes that are gone are removed.
pub(crate) fn new_folder() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let run = args::root().join(".cache/k8s/run");
    for entry in std::fs::read_dir(&run).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            // Another test program may be removing it too.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let folder = run.join(format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&folder).expect("a folder for the control plane");
    folder
}

struct Files {
    authority: Authority,
}

impl Files {
    fn write(folder: &Path) -> Self {
        let authority = Authority::new();
        let server = authority.server();
        let (private, public) = token_keys();
        for (name, content) in [
            ("ca.crt", authority.pem().as_str()),
            ("server.crt", &server.certificate),
            ("server.key", &server.key),
            ("tokens.key", &private),
            ("tokens.pub", &public),
            ("audit-policy.json", AUDIT_POLICY),
        ] {
            std::fs::write(folder.join(name), content).expect("a file of the control plane");
        }
        Self { authority }
    }
}

fn etcd(folder: &Path, address: SocketAddr) -> Vec<String> {
    let peers = format!("http://{}", free_address());
    vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls=http://{address}"),
        format!("--advertise-client-urls=http://{address}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=error".to_owned(),
    ]
}

fn apiserver(folder: &Path, etcd: SocketAddr, address: SocketAddr) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    vec![
        format!("--etcd-servers=http://{etcd}"),
        format!("--bind-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        format!("--tls-cert-file={}", file("server.crt")),
        format!("--tls-private-key-file={}", file("server.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        "--authorization-mode=RBAC".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", file("tokens.pub")),
        format!("--service-account-signing-key-file={}", file("tokens.key")),
        "--service-cluster-ip-range=10.96.0.0/12".to_owned(),
        // The address that it would publish may not be loopback.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--audit-policy-file={}", file("audit-policy.json")),
        format!("--audit-log-path={}", file("audit.log")),
        "--audit-log-maxsize=4096".to_owned(),
        "--max-requests-inflight=2000".to_owned(),
        "--max-mutating-requests-inflight=1000".to_owned(),
    ]
}

fn controllers(folder: &Path) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", folder.join("controllers").display()),
        format!("--controllers={}", CONTROLLERS.join(",")),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        "--authentication-skip-lookup=true".to_owned(),
        "--kube-api-qps=500".to_owned(),
        "--kube-api-burst=1000".to_owned(),
    ]
}

fn credentials(pair: &Pair) -> Value {
    json!({"client-certificate-data": base64(&pair.certificate), "client-key-data": base64(&pair.key)})
}

fn write_kubeconfig(path: &Path, server: &str, authority: Option<&str>, user: &Value) {
    let mut cluster = json!({"server": server});
    if let Some(authority) = authority {
        cluster["certificate-authority-data"] = json!(base64(authority));
    }
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    std::fs::write(path, config.to_string()).expect("a kubeconfig");
}

pub(crate) fn base64(text: &str) -> String {
    // `ByteString` is bytes that JSON writes as base64.
    let value = serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).expect("base64");
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_lacks_a_program_is_refused_by_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in &PROGRAMS[..3] {
            std::fs::write(folder.path().join(name), "").expect("written");
        }
        let why = found(folder.path(), "etcd").expect_err("the scheduler would be of another release");
        assert!(why.contains("but kube-scheduler is not there"), "{why}");
        std::fs::write(folder.path().join(PROGRAMS[3]), "").expect("written");
        assert_eq!(found(folder.path(), "etcd"), Ok(folder.path().join("etcd")));
    }
}
