//! The real `lorikeet` in a pod's place, and the inspector beside it: started with the arguments of the pod's containers, whose
//! paths are folders of this machine, on an address of its own.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use kube::ResourceExt as _;
use lorikeet_tests::args;
use lorikeet_tests::client::Client;
use lorikeet_tests::replica::binary;

use crate::fake::{Access, own_address};
use crate::kubelet::{Shared, access, bind, report};
use crate::registry;
use crate::tethered::Tethered;

/// The port that the operator's pods say for the inspector.
const INSPECT_PORT: u16 = 8082;
/// Between two probes.
const PROBE: Duration = Duration::from_millis(100);

/// Runs one pod until the task is dropped.
pub(crate) async fn run(shared: Arc<Shared>, pod: Pod) {
    bind(&shared, &pod).await;
    let mut mounts = shared.mounts.subscribe();
    let Some((secret, access)) = access(&shared, &pod).await else { return };
    let folder = tempfile::tempdir().expect("a folder for the pod");
    mount(&shared, &pod, folder.path(), &access).await;
    // Held while the address is chosen, given up for the container.
    let ip = own_address().await.local_addr().expect("a bound address").ip();
    let name = pod.name_any();
    let log = folder.path().join("log");
    let spec = pod.spec.as_ref().expect("a pod has a spec");
    let beside = spec.init_containers.iter().flatten().map(|container| {
        let log = folder.path().join(format!("{}.log", container.name));
        Tethered::start(&binary(), &arguments(container, folder.path(), ip), &[], log).shown()
    });
    let beside: Vec<Tethered> = beside.collect();
    // A replica is not started before the inspector answers.
    while tokio::net::TcpStream::connect((ip, INSPECT_PORT)).await.is_err() {
        tokio::time::sleep(PROBE).await;
    }
    let process =
        Tethered::start(&binary(), &arguments(&spec.containers[0], folder.path(), ip), &[], log).shown();
    let face = Client::of(format!("http://{ip}:8080"));
    let mut pod = Running { shared, name, process, beside };
    let mut told = None;
    loop {
        pod.process.assert_running();
        pod.beside.iter_mut().for_each(Tethered::assert_running);
        let asked = Client::send(face.request(reqwest::Method::GET, "/ready")).await;
        let ready = asked.is_ok_and(|answer| answer.status == 200);
        if told != Some(ready) && report(&pod.shared, &pod.name, ip, (ready, 0)).await.is_ok() {
            told = Some(ready);
            if ready {
                pod.shared.faces().insert(pod.name.clone(), face.clone());
            }
        }
        if mounts.has_changed().unwrap_or(false)
            && let Some(access) = mounts.borrow_and_update().get(&secret)
        {
            write(&folder.path().join("admin"), access);
        }
        tokio::time::sleep(PROBE).await;
    }
}

/// A pod's process; its face goes with it.
struct Running {
    shared: Arc<Shared>,
    name: String,
    process: Tethered,
    beside: Vec<Tethered>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.faces().remove(&self.name);
    }
}

/// What the kubelet puts into the pod's folders.
async fn mount(shared: &Shared, pod: &Pod, folder: &Path, access: &Access) {
    for name in ["admin", "registry", "cache", "credentials"] {
        std::fs::create_dir_all(folder.join(name)).expect("a folder of the pod");
    }
    write(&folder.join("admin"), access);
    for (file, text) in registry::files(shared, pod).await.expect("the API server answers") {
        std::fs::write(folder.join("registry").join(file), text).expect("a shard of the registry");
    }
    for name in credentials(pod) {
        let found = shared.api::<Secret>().get_opt(name).await.expect("the API server answers");
        let place = folder.join("credentials").join(name);
        std::fs::create_dir_all(&place).expect("a folder of a Secret");
        for (key, value) in found.and_then(|secret| secret.data).into_iter().flatten() {
            std::fs::write(place.join(key), value.0).expect("an entry of a Secret");
        }
    }
}

/// The Secrets of sources that `pod` mounts.
fn credentials(pod: &Pod) -> impl Iterator<Item = &String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let of_sources = volumes.filter(|volume| volume.name.starts_with("credentials-"));
    of_sources.filter_map(|volume| volume.secret.as_ref()?.secret_name.as_ref())
}

/// The files of the admin Secret.
fn write(folder: &Path, access: &Access) {
    std::fs::write(folder.join("tls.crt"), &access.certificate).expect("tls.crt");
    std::fs::write(folder.join("tls.key"), &access.key).expect("tls.key");
    std::fs::write(folder.join("token"), &access.token).expect("token");
}

fn arguments(container: &Container, folder: &Path, ip: IpAddr) -> Vec<String> {
    let place = |name: &str| folder.join(name).display().to_string();
    let moved = |argument: &String| {
        argument
            .replace("[::]:", &format!("{ip}:"))
            .replace("/etc/lorikeet/admin", &place("admin"))
            .replace("/etc/lorikeet/credentials", &place("credentials"))
            .replace("/etc/lorikeet/registry", &place("registry"))
            .replace("--cache-dir=/cache", &format!("--cache-dir={}", place("cache")))
            .replace("--source-root=/models", &format!("--source-root={}", args::root().display()))
    };
    container.args.iter().flatten().map(moved).collect()
}
