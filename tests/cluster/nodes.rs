//! Nodes for kube-scheduler, and the pods that it puts there. They have no kubelet of their own: the stage's stands for it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::stage::Stage;

/// A node that the scheduler may use; with labels that name a GPU, it has one, and the taint of such nodes.
pub(crate) async fn node(stage: &Stage, name: &str, of_gpu: &[(&str, &str)]) {
    let nodes: Api<Node> = Api::all(stage.client.clone());
    let mut labels =
        BTreeMap::from([("kubernetes.io/hostname", name), ("topology.kubernetes.io/zone", name)]);
    labels.extend(of_gpu.iter().copied());
    let object = json!({"metadata": {"name": name, "labels": labels}});
    let parsed = serde_json::from_value(object).expect("a node");
    nodes.create(&PostParams::default(), &parsed).await.expect("it is made");
    let mut room = json!({"cpu": "16", "memory": "64Gi", "pods": "20"});
    let mut taints = json!([]);
    if !of_gpu.is_empty() {
        room["nvidia.com/gpu"] = json!("1");
        taints = json!([{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]);
    }
    let status = json!({"status": {
        "capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}],
    }});
    let params = PatchParams::default();
    nodes.patch_status(name, &params, &Patch::Merge(&status)).await.expect("its status is taken");
    // Whoever makes a node finds it tainted as not ready.
    nodes
        .patch(name, &params, &Patch::Merge(&json!({"spec": {"taints": taints}})))
        .await
        .expect("its taints");
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
