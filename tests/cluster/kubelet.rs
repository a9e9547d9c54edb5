//! Stands for the kubelets of one namespace, and for the scheduler where there is none: binds pods, starts a replica for
//! each when the Secrets are there that it needs (a scripted one, or the real binary: `container`), with the registry that is
//! there then, keeps the pod's status true, brings the files of its admin Secret up to date a while after that changed, and
//! lets a pod go when it is deleted and its replica has had its farewell.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt as _};
use lorikeet_tests::client::Client as Face;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::container;
use crate::fake::{Access, Fake, Script};
use crate::registry;
use crate::until::{PATIENCE, until};

/// The node that every pod is bound to. It does not exist: nothing here needs it.
pub(crate) const NODE: &str = "node-of-the-test";
/// Before a step that failed is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// So long after a Secret changed its files in the pods do. A kubelet takes a minute or more.
const REFRESH: Duration = Duration::from_secs(1);

/// The replicas of one namespace; they end with it.
pub(crate) struct Kubelet {
    shared: Arc<Shared>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// What all pods of a namespace share.
pub(crate) struct Shared {
    client: Client,
    pub(crate) namespace: String,
    script: Mutex<Script>,
    fakes: Mutex<BTreeMap<String, Arc<Fake>>>,
    /// Public faces of real replicas, by pod.
    faces: Mutex<BTreeMap<String, Face>>,
    /// Who chooses the nodes.
    binder: Binder,
    /// What pods find now in the admin Secrets that changed after they started, by the Secret's name.
    pub(crate) mounts: watch::Sender<BTreeMap<String, Access>>,
    /// While it is set, the files in the pods stay as they are.
    holds: watch::Sender<bool>,
}

/// Who chooses the node of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binder {
    /// Nobody else: every pod goes to [`NODE`].
    Kubelet,
    /// kube-scheduler.
    Scheduler,
}

/// Runs one pod until the task is dropped.
type Run = fn(Arc<Shared>, Pod) -> BoxFuture<'static, ()>;

impl Kubelet {
    /// For the pods of `namespace`, whose replicas behave as `script` says.
    pub(crate) fn start(client: Client, namespace: &str, script: Script) -> Self {
        Self::binding(client, namespace, script, Binder::Kubelet)
    }

    /// As [`Self::start`], for pods whose nodes `binder` chooses.
    pub(crate) fn binding(client: Client, namespace: &str, script: Script, binder: Binder) -> Self {
        Self::running(client, namespace, script, binder, |shared, pod| Box::pin(run(shared, pod)))
    }

    /// As [`Self::start`], with the real binary in each pod.
    pub(crate) fn real(client: Client, namespace: &str) -> Self {
        Self::running(client, namespace, Script::default(), Binder::Kubelet, |shared, pod| {
            Box::pin(container::run(shared, pod))
        })
    }

    fn running(client: Client, namespace: &str, script: Script, binder: Binder, run: Run) -> Self {
        let shared = Arc::new(Shared {
            client,
            namespace: namespace.to_owned(),
            script: Mutex::new(script),
            fakes: Mutex::default(),
            faces: Mutex::default(),
            binder,
            mounts: watch::channel(BTreeMap::new()).0,
            holds: watch::channel(false).0,
        });
        let tasks = [
            tokio::spawn(follow(Arc::clone(&shared), run)),
            tokio::spawn(follow_secrets(Arc::clone(&shared))),
        ];
        Self { shared, _tasks: tasks.map(AbortOnDropHandle::new) }
    }

    /// The files of Secrets in running pods stay as they are, until it is taken back.
    pub(crate) fn hold_mounts(&self, hold: bool) {
        self.shared.holds.send_replace(hold);
    }

    /// Waits until the running pods have `token` among their files.
    pub(crate) async fn until_mounted(&self, secret: &str, token: &[u8]) {
        let mut mounts = self.shared.mounts.subscribe();
        let has = |all: &BTreeMap<String, Access>| {
            all.get(secret).is_some_and(|access| access.token.as_bytes() == token)
        };
        let mounted = tokio::time::timeout(PATIENCE, mounts.wait_for(has)).await;
        assert!(mounted.is_ok(), "the files of {secret} are not brought up to date");
    }

    /// How replicas behave that start from now on.
    pub(crate) fn next(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.shared.script.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The replicas that run now, ordered by pod.
    pub(crate) fn fakes(&self) -> Vec<Arc<Fake>> {
        self.shared.fakes().values().cloned().collect()
    }

    /// The public faces of the real replicas that are ready, ordered by pod.
    pub(crate) fn faces(&self) -> Vec<Face> {
        self.shared.faces().values().cloned().collect()
    }

    /// Waits until exactly `count` replicas run.
    pub(crate) async fn until_running(&self, count: usize) -> Vec<Arc<Fake>> {
        until(&format!("{count} replicas run"), PATIENCE, async || {
            Some(self.fakes()).filter(|fakes| fakes.len() == count)
        })
        .await
    }
}

impl Shared {
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn pods(&self) -> Api<Pod> {
        self.api()
    }

    pub(crate) fn faces(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Face>> {
        self.faces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fakes(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Fake>>> {
        self.fakes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One task for each pod, by uid: a pod of the same name is another pod.
async fn follow(shared: Arc<Shared>, run: Run) {
    let mut tasks: BTreeMap<String, AbortOnDropHandle<()>> = BTreeMap::new();
    // Those that are to go, with what runs them.
    let mut going: BTreeMap<String, AbortOnDropHandle<()>> = BTreeMap::new();
    let config = watcher::Config::default();
    let mut events = std::pin::pin!(watcher::watcher(shared.pods(), config));
    while let Some(event) = events.next().await {
        // The watcher tries again by itself.
        let Ok(event) = event else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        match event {
            Event::Apply(pod) | Event::InitApply(pod) => {
                let uid = pod.uid().unwrap_or_default();
                if pod.metadata.deletion_timestamp.is_some() {
                    going.entry(uid).or_insert_with_key(|uid| {
                        let released = release(Arc::clone(&shared), pod, tasks.remove(uid));
                        AbortOnDropHandle::new(tokio::spawn(released))
                    });
                } else {
                    tasks.entry(uid).or_insert_with(|| {
                        AbortOnDropHandle::new(tokio::spawn(run(Arc::clone(&shared), pod)))
                    });
                }
            }
            Event::Delete(pod) => {
                let uid = pod.uid().unwrap_or_default();
                drop((tasks.remove(&uid), going.remove(&uid)));
            }
            Event::Init | Event::InitDone => {}
        }
    }
}

/// Brings the files of admin Secrets up to date.
async fn follow_secrets(shared: Arc<Shared>) {
    let mut events = std::pin::pin!(watcher::watcher(shared.api::<Secret>(), watcher::Config::default()));
    let mut refreshes = tokio::task::JoinSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(secret) | Event::InitApply(secret)) => {
                refreshes.spawn(refresh(Arc::clone(&shared), secret.name_any()));
            }
            Ok(_) => {}
            // The watcher tries again by itself.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
        while refreshes.try_join_next().is_some() {}
    }
}

/// What `secret` is by then comes into the pods.
async fn refresh(shared: Arc<Shared>, secret: String) {
    tokio::time::sleep(REFRESH).await;
    // It ends with the namespace's kubelet.
    let _ = shared.holds.subscribe().wait_for(|holds| !holds).await;
    let found = shared.api::<Secret>().get_opt(&secret).await.ok().flatten();
    if let Some(access) = found.and_then(read) {
        shared.mounts.send_modify(|all| drop(all.insert(secret, access)));
    }
}

/// Once the pod's containers have ended, which `running` is, the API server may forget it.
async fn release(shared: Arc<Shared>, pod: Pod, running: Option<AbortOnDropHandle<()>>) {
    let takes_leave = shared.script.lock().unwrap_or_else(PoisonError::into_inner).farewell;
    if running.is_some() && takes_leave {
        tokio::time::sleep(farewell(&pod)).await;
    }
    drop(running);
    let conditions = Preconditions { uid: pod.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(conditions), ..DeleteParams::default().grace_period(0) };
    // Whoever deleted it before did the same.
    let _ = shared.pods().delete(&pod.name_any(), &params).await;
}

/// How long the pod's `preStop` sleeps before its process is told to end.
fn farewell(pod: &Pod) -> Duration {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let sleeps = containers.filter_map(|one| one.lifecycle.as_ref()?.pre_stop.as_ref()?.sleep.as_ref());
    let seconds = sleeps.map(|sleep| u64::try_from(sleep.seconds).unwrap_or(0)).max();
    Duration::from_secs(seconds.unwrap_or(0))
}

/// Removes the replica from the table when its pod's task ends.
struct Registered {
    shared: Arc<Shared>,
    name: String,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.fakes().remove(&self.name);
    }
}

/// Runs one pod until the task is dropped.
async fn run(shared: Arc<Shared>, pod: Pod) {
    let name = pod.name_any();
    bind(&shared, &pod).await;
    until_there(&shared, &pod).await;
    let mut mounts = shared.mounts.subscribe();
    let Some((secret, access)) = access(&shared, &pod).await else { return };
    let script = shared.script.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (fake, _served) = Fake::start(&name, script, access).await;
    let mut changes = fake.watch();
    shared.fakes().insert(name.clone(), Arc::clone(&fake));
    let _registered = Registered { shared: Arc::clone(&shared), name };
    let (mut begun, mut told) = (None, None);
    loop {
        changes.mark_unchanged();
        let restarts = fake.restarts();
        if begun != Some(restarts) {
            let Ok(registry) = registry::adapters(&shared, &pod).await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            begun = Some(restarts);
            fake.begin(registry);
        }
        let now = (fake.is_ready(), fake.restarts());
        if told != Some(now) {
            if report(&shared, fake.name(), fake.ip(), now).await.is_err() {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            told = Some(now);
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = mounts.changed() => {
                if let Some(access) = mounts.borrow_and_update().get(&secret) {
                    fake.remount(access);
                }
            }
        }
    }
}

/// Waits until `pod` has a node, and gives it one where nobody else does.
pub(crate) async fn bind(shared: &Shared, pod: &Pod) {
    if shared.binder == Binder::Scheduler {
        let is_bound = |pod: Pod| pod.spec.is_some_and(|spec| spec.node_name.is_some());
        while !shared.pods().get(&pod.name_any()).await.is_ok_and(is_bound) {
            tokio::time::sleep(PAUSE).await;
        }
        return;
    }
    if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
        return;
    }
    let binding = Binding {
        metadata: ObjectMeta { name: pod.metadata.name.clone(), ..ObjectMeta::default() },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(NODE.to_owned()),
            ..ObjectReference::default()
        },
    };
    let params = PostParams::default();
    // It may be bound or gone by now.
    let _: Result<serde_json::Value, _> =
        shared.pods().create_subresource("binding", &pod.name_any(), &params, &binding).await;
}

/// Waits until there is every Secret that the pod cannot start without; while one is not, its status says what a kubelet's
/// would: nothing of the Secret.
async fn until_there(shared: &Shared, pod: &Pod) {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let secrets =
        volumes.filter_map(|volume| volume.secret.as_ref().filter(|one| one.optional != Some(true)));
    let names: Vec<&String> = secrets.filter_map(|secret| secret.secret_name.as_ref()).collect();
    let api: Api<Secret> = shared.api();
    let mut is_told = false;
    loop {
        let mut missing = 0;
        for name in &names {
            missing += usize::from(!api.get_opt(name).await.is_ok_and(|found| found.is_some()));
        }
        if missing == 0 {
            return;
        }
        is_told = is_told || wait(shared, &pod.name_any()).await.is_ok();
        tokio::time::sleep(PAUSE).await;
    }
}

/// Writes the status of pod `name`, whose volumes are not mounted.
async fn wait(shared: &Shared, name: &str) -> Result<(), kube::Error> {
    let conditions = ["PodReadyToStartContainers", "ContainersReady", "Ready"]
        .map(|type_| json!({"type": type_, "status": "False"}));
    let status = json!({"status": {
        "phase": "Pending", "conditions": conditions,
        "containerStatuses": [{
            "name": "runtime", "image": "runtime", "imageID": "", "ready": false, "started": false,
            "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}},
        }],
    }});
    let params = PatchParams::default();
    shared.pods().patch_status(name, &params, &Patch::Strategic(&status)).await.map(drop)
}

/// The Secret of the pod's volume `admin`.
fn admin_secret(pod: &Pod) -> Option<String> {
    let volumes = pod.spec.as_ref()?.volumes.as_ref()?;
    let volume = volumes.iter().find(|volume| volume.name == "admin")?;
    volume.secret.as_ref()?.secret_name.clone()
}

/// What the kubelet mounts, and of which Secret: it waits for one that is not there yet. Nothing, when the pod mounts none.
pub(crate) async fn access(shared: &Shared, pod: &Pod) -> Option<(String, Access)> {
    let secret = admin_secret(pod)?;
    let api: Api<Secret> = shared.api();
    loop {
        if let Some(access) = api.get(&secret).await.ok().and_then(read) {
            return Some((secret, access));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a replica needs of an admin Secret.
fn read(secret: Secret) -> Option<Access> {
    let mut data = secret.data?;
    let mut field = |key: &str| data.remove(key).map(|value| value.0);
    let (certificate, key) = (field("tls.crt")?, field("tls.key")?);
    let token = String::from_utf8(field("token")?).ok()?;
    Some(Access { certificate, key, token: token.trim().to_owned() })
}

/// Writes the status of pod `name`: its address, and whether it is ready and how often its container restarted.
pub(crate) async fn report(
    shared: &Shared,
    name: &str,
    ip: IpAddr,
    now: (bool, u32),
) -> Result<(), kube::Error> {
    let (ready, restarts) = now;
    let time = jiff::Timestamp::now().to_string();
    let truth = |value: bool| if value { "True" } else { "False" };
    let conditions: Vec<_> =
        [("PodReadyToStartContainers", true), ("Initialized", true), ("PodScheduled", true)]
            .into_iter()
            .chain([("ContainersReady", ready), ("Ready", ready)])
            .map(|(type_, value)| json!({"type": type_, "status": truth(value), "lastTransitionTime": time}))
            .collect();
    let status = json!({"status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": time, "conditions": conditions,
        "initContainerStatuses": [{
            "name": "inspector", "image": "runtime", "imageID": "", "ready": true, "started": true,
            "restartCount": 0, "containerID": format!("test://{name}/inspector"),
            "state": {"running": {"startedAt": time}},
        }],
        "containerStatuses": [{
            "name": "runtime", "image": "runtime", "imageID": "", "ready": ready, "started": true,
            "restartCount": restarts, "containerID": format!("test://{name}/{restarts}"),
            "state": {"running": {"startedAt": time}},
        }],
    }});
    let params = PatchParams::default();
    shared.pods().patch_status(name, &params, &Patch::Strategic(&status)).await.map(drop)
}
