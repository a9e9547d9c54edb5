//! Nodes for kube-scheduler, and the pods that it puts there; and the one of all pods where nobody schedules, for a given control
//! plane, which misses it. They have no kubelet of their own: the stage's stands for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use crate::kubectl::Kubectl;
use crate::kubelet::NODE;
use crate::stage::Stage;

/// A node says so often that it is there. Who hears nothing for 40 seconds takes it for lost.
const BEAT: Duration = Duration::from_secs(10);

/// A node that the scheduler may use; with labels that name a GPU, it has one, and the taint of such nodes.
pub(crate) async fn node(stage: &Stage, name: &str, of_gpu: &[(&str, &str)]) {
    let room = json!({"cpu": "16", "memory": "64Gi", "pods": "20"});
    make(&stage.client, name, of_gpu, room).await.expect("it is made");
}

/// As [`node`], with `room` beside a GPU; one that is there is said to be alive.
async fn make(client: &Client, name: &str, of_gpu: &[(&str, &str)], mut room: Value) -> kube::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut labels =
        BTreeMap::from([("kubernetes.io/hostname", name), ("topology.kubernetes.io/zone", name)]);
    labels.extend(of_gpu.iter().copied());
    let object = json!({"metadata": {"name": name, "labels": labels}});
    let parsed = serde_json::from_value(object).expect("a node");
    match nodes.create(&PostParams::default(), &parsed).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        made => drop(made?),
    }
    let mut taints = json!([]);
    if !of_gpu.is_empty() {
        room["nvidia.com/gpu"] = json!("1");
        taints = json!([{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]);
    }
    let status = json!({"status": {
        "capacity": room, "allocatable": room,
        "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": Timestamp::now().to_string()}],
    }});
    let params = PatchParams::default();
    nodes.patch_status(name, &params, &Patch::Merge(&status)).await?;
    // Whoever makes a node finds it tainted as not ready.
    nodes.patch(name, &params, &Patch::Merge(&json!({"spec": {"taints": taints}}))).await.map(drop)
}

/// Keeps [`NODE`] alive, while there is one of these: pods that are bound to no node are deleted where somebody sees to that, and
/// a scheduler that finds no node says so of each pod.
pub(crate) struct Upheld {
    kubectl: Kubectl,
    task: Option<AbortOnDropHandle<()>>,
}

/// How many there are. It is held while the node is deleted too: who comes then makes it anew afterwards.
static UPHELD: Mutex<usize> = Mutex::new(0);

impl Upheld {
    /// By `client`; removed by `kubectl` at the end.
    pub(crate) fn new(client: Client, kubectl: Kubectl) -> Self {
        *UPHELD.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let mut beat = tokio::time::interval(BEAT);
        let beats = async move {
            loop {
                beat.tick().await;
                let room = json!({"cpu": "1000", "memory": "100Ti", "pods": "1000"});
                // The next beat makes good what fails.
                let _ = make(&client, NODE, &[], room).await;
            }
        };
        Self { kubectl, task: Some(AbortOnDropHandle::new(tokio::spawn(beats))) }
    }
}

impl Drop for Upheld {
    fn drop(&mut self) {
        drop(self.task.take());
        let mut count = UPHELD.lock().unwrap_or_else(PoisonError::into_inner);
        *count -= 1;
        if *count == 0 {
            // Where it stays it is soon taken for lost.
            let _ = self.kubectl.try_run(&["delete", "node", NODE, "--ignore-not-found", "--wait=false"]);
        }
    }
}

/// Whether pods may land there.
pub(crate) fn is_up(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// The pods of Deployment `name` that are not going.
pub(crate) async fn pods(stage: &Stage, name: &str) -> Vec<Pod> {
    let params = ListParams::default().labels(&format!("lorikeet.dev/deployment={name}"));
    let all = stage.api::<Pod>().list(&params).await.expect("pods");
    all.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
}

/// The nodes that they are on.
pub(crate) async fn nodes_of(stage: &Stage, name: &str) -> BTreeSet<String> {
    pods(stage, name).await.iter().filter_map(node_of).map(str::to_owned).collect()
}

/// The node that it is on.
pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Whether its readiness probe passes.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Whether the scheduler looked for a node for it, and found none.
pub(crate) fn is_unschedulable(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|one| one.reason.as_deref() == Some("Unschedulable"))
}
