//! A control plane that `KUBECONFIG` names, in the place of our own: taken when nothing of a scenario can land on a real node
//! and kube-controller-manager works there, and refused with the reason before anything is changed else.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use lorikeet_tests::args;
use lorikeet_tests::say::say;
use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, apply_kinds, configuration, new_folder};
use crate::ground::Ground;
use crate::kubectl::flattened;
use crate::kubelet::NODE;
use crate::nodes::is_up;

/// Whether the scenario that asks is to be skipped, as it needs a control plane of its own and one is given: that is said,
/// with `why`.
pub(crate) fn skips(why: &str) -> bool {
    let skips = args::kubeconfig().is_some();
    if skips {
        let thread = std::thread::current();
        // The harness names the thread of a scenario after it; one thread for all has said the name before.
        let name = thread.name().filter(|name| *name != "main").unwrap_or("this scenario");
        say(&format!("skipped: {name} needs a control plane of its own: {why}"));
    }
    skips
}

/// The control plane that `kubeconfig` names: the value of `KUBECONFIG`, one file or several.
pub(crate) async fn take(kubeconfig: &Path) -> Result<ControlPlane, String> {
    let folder = new_folder();
    let admin = folder.join("admin");
    // Whatever the files refer to is in this one.
    let whole = flattened(kubeconfig)?;
    std::fs::write(&admin, "").expect("a file");
    std::fs::set_permissions(&admin, Permissions::from_mode(0o600)).expect("its owner's alone");
    std::fs::write(&admin, whole).expect("written");
    let config = configuration(&admin).await;
    if config.accept_invalid_certs || config.proxy_url.is_some() || config.tls_server_name.is_some() {
        return Err(format!(
            "expected an API server that is reached directly and by the name in its certificate, got {} with one of \
             insecure-skip-tls-verify, proxy-url and tls-server-name",
            config.cluster_url
        ));
    }
    let plane = ControlPlane::elsewhere(folder, run());
    let nodes = Api::<Node>::all(plane.client().await).list(&ListParams::default()).await;
    without_nodes(&nodes.map_err(|error| format!("its nodes cannot be listed: {error}"))?.items)?;
    apply_kinds(&plane.kubectl()).await;
    with_controllers(&plane)?;
    Ok(plane)
}

/// Scripted replicas stand for pods: a real kubelet would start them too.
fn without_nodes(nodes: &[Node]) -> Result<(), String> {
    let up: Vec<String> =
        nodes.iter().filter(|node| is_up(node)).map(Node::name_any).filter(|name| name != NODE).collect();
    if up.is_empty() {
        return Ok(());
    }
    Err(format!(
        "expected a control plane without nodes, got {} of them that are Ready, as {}: the suite's pods would land there. Without \
         KUBECONFIG the suite starts a control plane of its own",
        up.len(),
        up[0]
    ))
}

/// Nothing of a scenario would ever become Ready without the controllers of Deployments and ReplicaSets.
fn with_controllers(plane: &ControlPlane) -> Result<(), String> {
    const SEEN: &str = "--for=jsonpath={.status.observedGeneration}=1";
    let ground = Ground::new(plane, "probe");
    let kubectl = plane.kubectl();
    kubectl.try_apply(&ground.documents(&[probe(&ground.namespace)]))?;
    for what in ["deployments.apps", "replicasets.apps"] {
        let wait = ["wait", what, "--all", SEEN, "--timeout=30s", "--namespace", &ground.namespace];
        kubectl.try_run(&wait).map_err(|said| {
            format!("expected kube-controller-manager to run there, but nobody sees to {what}: {said}")
        })?;
    }
    Ok(())
}

/// A Deployment that needs no pod.
fn probe(namespace: &str) -> Value {
    let labels = json!({"app": "probe"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "probe", "namespace": namespace},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "probe", "image": "registry.example/probe:1"}]},
            },
        },
    })
}

/// What no other run on the same control plane bears: the time, to the microsecond.
fn run() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    format!("{:x}", since.as_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: &str) -> Node {
        let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).expect("a node")
    }

    #[test]
    fn a_control_plane_with_nodes_that_are_ready_is_refused_by_the_name_of_one() {
        assert_eq!(without_nodes(&[]), Ok(()));
        assert_eq!(without_nodes(&[node("gone", "Unknown"), node(NODE, "True")]), Ok(()));
        let why = without_nodes(&[node("gone", "False"), node("worker", "True")])
            .expect_err("pods would land there");
        assert!(
            why.starts_with(
                "expected a control plane without nodes, got 1 of them that are Ready, as worker:"
            ),
            "{why}"
        );
    }
}
