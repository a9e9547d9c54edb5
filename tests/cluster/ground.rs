//! The namespaces of one scenario. Of one of our own control planes everything ends at once; on a given one they go with their
//! value, and everything that is in them, though nobody is left to let go of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lorikeet_tests::say::say;
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::kubectl::Kubectl;

/// What is of the whole cluster bears the id of the process that made it under this label: what a killed one left is found by it.
pub(crate) const PROCESS: &str = "lorikeet-tests/process";
/// The controllers of the control plane empty a namespace in less.
const LIMIT: Duration = Duration::from_secs(60);

/// Two namespaces, made by whoever applies [`Self::documents`].
pub(crate) struct Ground {
    /// Where the scenario's objects are.
    pub(crate) namespace: String,
    /// The operator's own.
    pub(crate) system: String,
    /// What removes them, where they do not end with their control plane.
    given: Option<Kubectl>,
}

impl Ground {
    /// On `plane`, for the scenario `name`.
    pub(crate) fn new(plane: &ControlPlane, name: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = match plane.run() {
            None => format!("{name}-{count}"),
            Some(run) => format!("{name}-{run}-{count}"),
        };
        let system = format!("{namespace}-system");
        let given = plane.run().map(|_| plane.kubectl());
        Self { namespace, system, given }
    }

    /// The namespaces, which take no pod that Pod Security `restricted` would not, and after them `others`.
    pub(crate) fn documents(&self, others: &[Value]) -> Vec<Value> {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let namespace = |name: &String| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let mut documents: Vec<Value> = [&self.namespace, &self.system].map(namespace).into();
        documents.extend_from_slice(others);
        for document in documents.iter_mut().filter(|one| one["metadata"]["namespace"].is_null()) {
            document["metadata"]["labels"][PROCESS] = std::process::id().to_string().into();
        }
        documents
    }
}

/// Whoever made what holds a namespace up, an operator or a kubelet, has ended before.
impl Drop for Ground {
    fn drop(&mut self) {
        let Some(kubectl) = &self.given else { return };
        let both = [self.namespace.as_str(), &self.system];
        let [namespaces, roles] = ["namespaces", "clusterroles,clusterrolebindings"];
        let delete = ["delete", "--ignore-not-found", "--wait=false"];
        let mut said = kubectl.try_run(&[&delete, &[roles, both[1]][..]].concat()).err();
        said = kubectl.try_run(&[&delete, &[namespaces][..], &both].concat()).err().or(said);
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            both.iter().for_each(|namespace| let_go(kubectl, namespace));
            // While there is one it fails; where there is none it is content.
            let wait = ["wait", "--for=delete", "--timeout=2s"];
            let names = both.map(|name| format!("namespace/{name}"));
            match kubectl.try_run(&[&wait, &[names[0].as_str(), &names[1]][..]].concat()) {
                Ok(_) => return,
                Err(error) => said = Some(error),
            }
        }
        say(&format!("left behind: namespaces {both:?}: {}", said.unwrap_or_default()));
    }
}

/// Lets go of what waits for somebody in `namespace`: pods for a kubelet, our kinds for the operator, claims for who keeps volumes.
fn let_go(kubectl: &Kubectl, namespace: &str) {
    let of = ["--namespace", namespace];
    let force = ["delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false"];
    // What fails here the next round tries again, and the last one tells.
    let _ = kubectl.try_run(&[&force, &of[..]].concat());
    let held = kubectl.try_run(&[&["get", "lora,ldep,pvc", "--output=json"], &of[..]].concat());
    let Some(mut held) = held.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok()) else { return };
    let Some(items) = held["items"].as_array_mut().filter(|items| !items.is_empty()) else { return };
    for item in items {
        item["metadata"]["finalizers"] = json!([]);
    }
    let _ = kubectl.feed(&["replace", "-f", "-"], &held.to_string());
}
