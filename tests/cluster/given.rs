//! A control plane that `KUBECONFIG` names, in the place of our own: taken when nothing of a scenario can land on a real node, nobody
//! else uses our kinds and kube-controller-manager works there. Else it is refused with the reason before anything is changed that
//! is not of this run.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{ListParams, PartialObjectMeta};
use kube::{Api, Client, Resource, ResourceExt as _};
use lorikeet_crds::{Adapter, Deployment, GROUP};
use lorikeet_tests::args;
use lorikeet_tests::say::say;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, apply_kinds, configuration, new_folder};
use crate::ground::{Ground, PROCESS};
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
    let client = plane.client().await;
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
    without_nodes(&nodes.map_err(|error| format!("its nodes cannot be listed: {error}"))?.items)?;
    unused(&client).await?;
    with_controllers(&plane)?;
    apply_kinds(&plane.kubectl()).await;
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

/// Our kinds are applied over those that are there, and scenarios loosen them: nobody may use them but runs of these tests.
async fn unused(client: &Client) -> Result<(), String> {
    let mut used = places::<Deployment>(client).await?;
    used.append(&mut places::<Adapter>(client).await?);
    // After the objects: another run may have made a namespace meanwhile.
    let namespaces = Api::<Namespace>::all(client.clone()).list(&ListParams::default()).await;
    let namespaces = namespaces.map_err(|error| format!("its namespaces cannot be listed: {error}"))?;
    without_users(&used, &namespaces.items)
}

/// Kind, namespace and name of each object of kind `K`; none where there is no such kind.
async fn places<K>(client: &Client) -> Result<BTreeSet<(String, String, String)>, String>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let kind = K::kind(&());
    let place = |object: &PartialObjectMeta<K>| {
        (kind.to_string(), object.namespace().unwrap_or_default(), object.name_any())
    };
    match Api::<K>::all(client.clone()).list_metadata(&ListParams::default()).await {
        Ok(all) => Ok(all.items.iter().map(place).collect()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(BTreeSet::new()),
        Err(error) => Err(format!("its {} cannot be listed: {error}", K::plural(&()))),
    }
}

/// What is in a namespace of a scenario, or in one that is gone by now, is nobody's.
fn without_users(used: &BTreeSet<(String, String, String)>, namespaces: &[Namespace]) -> Result<(), String> {
    let is_others = |namespace: &&Namespace| !namespace.labels().contains_key(PROCESS);
    let others: BTreeSet<String> = namespaces.iter().filter(is_others).map(Namespace::name_any).collect();
    let mut users = used.iter().filter(|(_, namespace, _)| others.contains(namespace));
    let Some((kind, namespace, name)) = users.next() else { return Ok(()) };
    Err(format!(
        "expected a control plane where nobody but these tests uses {GROUP}, got {} objects of it in namespaces without the label \
         {PROCESS}, as {kind} {namespace}/{name}: the suite would change their definitions. Without KUBECONFIG it starts a control \
         plane of its own",
        1 + users.count()
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
    fn a_control_plane_where_somebody_else_uses_our_kinds_is_refused_by_the_name_of_one() {
        let namespace = |name: &str, labels: Value| -> Namespace {
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).expect("one")
        };
        let namespaces = [namespace("ours", json!({PROCESS: "7"})), namespace("shop", json!({}))];
        let used = |namespaces: &[&str]| {
            let place = |namespace: &&str| ("Adapter".to_owned(), (*namespace).to_owned(), "sql".to_owned());
            namespaces.iter().map(place).collect()
        };
        assert_eq!(without_users(&used(&["ours", "gone"]), &namespaces), Ok(()));
        let why = without_users(&used(&["ours", "shop"]), &namespaces).expect_err("it is a shop's");
        assert!(why.contains("got 1 objects of it") && why.contains("as Adapter shop/sql:"), "{why}");
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
