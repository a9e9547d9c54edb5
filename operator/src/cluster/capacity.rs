//! Free GPUs of a Deployment's nodes, for the order of a rollout.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use crate::build::pool::GPU;

const PAGE: u32 = 500;

/// GPUs that nodes fit for `pod` have and no pod has asked for; nothing where nodes or pods may not be read.
pub async fn free_gpus(client: &Client, pod: &PodSpec) -> Option<u32> {
    let mut free: BTreeMap<String, u32> = BTreeMap::new();
    each(&Api::all(client.clone()), ListParams::default(), |node: Node| {
        let gpus = allocatable(&node);
        if gpus > 0 && fits(pod, &node) {
            free.insert(node.name_any(), gpus);
        }
    })
    .await?;
    if free.is_empty() {
        return Some(0);
    }
    let running = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    each(&Api::all(client.clone()), running, |pod: Pod| {
        let Some(spec) = pod.spec else { return };
        if let Some(gpus) = spec.node_name.as_ref().and_then(|node| free.get_mut(node)) {
            *gpus = gpus.saturating_sub(asked(&spec));
        }
    })
    .await?;
    Some(free.values().sum())
}

/// Shows `see` one object after the other; a page of them is kept at a time, as a cluster has many pods.
async fn each<K>(api: &Api<K>, mut params: ListParams, mut see: impl FnMut(K)) -> Option<()>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    params.limit = Some(PAGE);
    loop {
        let page = api.list(&params).await.inspect_err(|error| {
            tracing::debug!(%error, "free GPUs are not known");
        });
        let page = page.ok()?;
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        page.items.into_iter().for_each(&mut see);
        if params.continue_token.is_none() {
            return Some(());
        }
    }
}

fn whole(quantity: Option<&Quantity>) -> u32 {
    quantity.and_then(|quantity| quantity.0.parse().ok()).unwrap_or(0)
}

fn allocatable(node: &Node) -> u32 {
    whole(node.status.as_ref().and_then(|status| status.allocatable.as_ref()).and_then(|all| all.get(GPU)))
}

fn asked(pod: &PodSpec) -> u32 {
    let of = |container: &k8s_openapi::api::core::v1::Container| {
        let requests = container.resources.as_ref().and_then(|resources| {
            resources
                .requests
                .as_ref()
                .and_then(|all| all.get(GPU))
                .or_else(|| resources.limits.as_ref().and_then(|all| all.get(GPU)))
        });
        whole(requests)
    };
    pod.containers.iter().map(of).sum()
}

/// Whether the scheduler may put `pod` on `node`, as far as labels, cordons, taints and the node's health tell.
fn fits(pod: &PodSpec, node: &Node) -> bool {
    let labels = node.labels();
    let selected =
        pod.node_selector.iter().flatten().all(|(key, value)| labels.get(key).is_some_and(|is| is == value));
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let terms =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected
        && !cordoned
        && is_ready(node)
        && is_tolerated(pod, node)
        && terms.is_none_or(|terms| terms.node_selector_terms.iter().any(|term| meets(term, labels)))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether no taint of `node` keeps `pod` away.
fn is_tolerated(pod: &PodSpec, node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut hard = taints.filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    hard.all(|taint| pod.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint)))
}

/// An empty key or effect stands for all of them.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let has_effect =
        toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == taint.effect);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = |value: &Option<String>| value.clone().unwrap_or_default();
    let has_value = exists || value(&toleration.value) == value(&taint.value);
    has_effect
        && match toleration.key.as_deref().unwrap_or_default() {
            "" => exists,
            key => key == taint.key && has_value,
        }
}

/// Only the operator that our own affinity uses.
fn meets(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>) -> bool {
    term.match_expressions.iter().flatten().all(|expression| {
        expression.operator == "In"
            && labels
                .get(&expression.key)
                .is_some_and(|is| expression.values.iter().flatten().any(|one| one == is))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(labels: Value, cordoned: bool) -> Node {
        let node = json!({"metadata": {"name": "n", "labels": labels}, "spec": {"unschedulable": cordoned}, "status": {"allocatable": {GPU: "8"}, "conditions": [{"type": "Ready", "status": "True"}]}});
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn a_node_fits_by_any_of_the_labels_that_name_the_accelerator() {
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "cloud", "operator": "In", "values": ["a100"]}]},
            {"matchExpressions": [{"key": "product", "operator": "In", "values": ["A100-80GB", "A100-PCIe"]}]}
        ]}}});
        let pod: PodSpec = serde_json::from_value(json!({"containers": [], "affinity": affinity})).unwrap();
        assert!(fits(&pod, &node(json!({"product": "A100-PCIe"}), false)));
        assert!(!fits(&pod, &node(json!({"product": "A100-PCIe"}), true)));
        assert!(!fits(&pod, &node(json!({"product": "T4"}), false)));
        assert_eq!(allocatable(&node(json!({}), false)), 8);
    }

    #[test]
    fn a_node_that_is_not_ready_or_whose_taint_is_not_tolerated_does_not_fit() {
        let pod: PodSpec = serde_json::from_value(
            json!({"containers": [], "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}, {"key": "team", "value": "a"}]}),
        )
        .unwrap();
        let with = |pointer: &str, value: Value| {
            let mut node = serde_json::to_value(node(json!({}), false)).unwrap();
            *node.pointer_mut(pointer).unwrap() = value;
            serde_json::from_value::<Node>(node).unwrap()
        };
        let tainted = |key: &str, value: &str, effect: &str| {
            with("/spec", json!({"taints": [{"key": key, "value": value, "effect": effect}]}))
        };
        assert!(fits(&pod, &tainted(GPU, "present", "NoSchedule")));
        assert!(fits(&pod, &tainted("team", "a", "NoExecute")));
        assert!(fits(&pod, &tainted("dedicated", "other", "PreferNoSchedule")));
        assert!(!fits(&pod, &tainted(GPU, "present", "NoExecute")));
        assert!(!fits(&pod, &tainted("team", "b", "NoSchedule")));
        assert!(!fits(&pod, &tainted("dedicated", "other", "NoSchedule")));
        assert!(!fits(&pod, &with("/status/conditions/0/status", json!("Unknown"))));
    }

    #[test]
    fn what_a_pod_asks_for_counts_once() {
        let pod = json!({"containers": [
            {"name": "a", "resources": {"limits": {GPU: "2"}, "requests": {GPU: "2"}}}, {"name": "b", "resources": {"limits": {GPU: "1"}}}, {"name": "c"}
        ]});
        assert_eq!(asked(&serde_json::from_value(pod).unwrap()), 3);
    }
}
