//! Pods on nodes that kube-scheduler chooses: A100 nodes as the clouds and NVIDIA's feature discovery label them, tainted as
//! GPU nodes are. And rollouts there, which never wait for GPUs that the old replicas hold.

mod providers;

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment as Workload;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use serde_json::{Value, json};

use crate::manifests::{deployment, with};
use crate::nodes::{is_ready, is_unschedulable, node, node_of, nodes_of, pods};
use crate::proxy::Fault;
use crate::stage::{Stage, is_ready_deployment};
use crate::until::{PATIENCE, until};

/// What a provider says of a node.
type Labels = &'static [(&'static str, &'static str)];

const GKE: &str = "cloud.google.com/gke-accelerator";
const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
const PRODUCT: &str = "nvidia.com/gpu.product";

/// Nodes with a GPU each: name, and the labels that say which.
const GPU_NODES: [(&str, Labels); 6] = [
    ("gke-80gb", &[(GKE, "nvidia-a100-80gb")]),
    ("eks-80gb", &[(INSTANCE_TYPE, "p4de.24xlarge")]),
    ("aks-80gb", &[(INSTANCE_TYPE, "Standard_NC24ads_A100_v4")]),
    ("nfd-80gb", &[(PRODUCT, "NVIDIA-A100-SXM4-80GB")]),
    ("gke-40gb", &[(GKE, "nvidia-tesla-a100")]),
    ("gke-t4", &[(GKE, "nvidia-tesla-t4")]),
];
const CPU_NODES: [&str; 3] = ["cpu-a", "cpu-b", "cpu-c"];

async fn with_nodes(name: &str) -> Option<Stage> {
    let mut stage = Stage::scheduled(name).await?;
    for (name, labels) in GPU_NODES {
        node(&stage, name, labels).await;
    }
    for name in CPU_NODES {
        node(&stage, name, &[]).await;
    }
    stage.start_operator().await;
    Some(stage)
}

fn names(nodes: &[&str]) -> BTreeSet<String> {
    nodes.iter().map(|name| (*name).to_owned()).collect()
}

fn on(namespace: &str, name: &str, replicas: u32, accelerator: &str) -> Value {
    with(deployment(namespace, name, replicas), "/spec/nodePool/accelerator", json!(accelerator))
}

fn image(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.containers.first()?.image.as_deref()
}

/// Replaces every replica of `base` by one of `image`; how many were ready at the fewest meanwhile.
async fn roll(stage: &Stage, base: &Value, image_of: &str) -> usize {
    let name = base["metadata"]["name"].as_str().expect("a name");
    stage.kubectl.apply(&[with(base.clone(), "/spec/image", json!(image_of))]);
    until_rolled(stage, name, image_of).await
}

/// Waits until every replica of Deployment `name` is one of `image`; how many were ready at the fewest meanwhile.
async fn until_rolled(stage: &Stage, name: &str, image_of: &str) -> usize {
    let mut fewest = usize::MAX;
    until(&format!("{name} runs {image_of}"), PATIENCE, async || {
        let pods = pods(stage, name).await;
        fewest = fewest.min(pods.iter().filter(|pod| is_ready(pod)).count());
        let is_done = pods.iter().all(|pod| image(pod) == Some(image_of));
        let deployment = stage.get::<lorikeet_crds::Deployment>(name).await?;
        (is_done && is_ready_deployment(&deployment)).then_some(())
    })
    .await;
    fewest
}

/// How many replicas Deployment `name` may have beyond those asked for while they are replaced.
async fn surge(stage: &Stage, name: &str) -> Option<IntOrString> {
    let workload = stage.get::<Workload>(&format!("{name}-runtime")).await?;
    workload.spec?.strategy?.rolling_update?.max_surge
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_land_on_the_nodes_that_their_pool_names_and_rollouts_never_wait_for_their_own_gpus() {
    let Some(stage) = with_nodes("gpus").await else { return };
    let namespace = stage.namespace.clone();
    let great = on(&namespace, "great", 4, "nvidia-a100-80gb");
    let small = on(&namespace, "small", 1, "nvidia-a100-40gb");
    stage.kubectl.apply(&[great.clone(), small, deployment(&namespace, "cpu", 3)]);
    for name in ["great", "small", "cpu"] {
        stage.until_deployment_ready(name).await;
    }
    assert_eq!(nodes_of(&stage, "great").await, names(&["aks-80gb", "eks-80gb", "gke-80gb", "nfd-80gb"]));
    assert_eq!(nodes_of(&stage, "small").await, names(&["gke-40gb"]));
    assert_eq!(nodes_of(&stage, "cpu").await, names(&CPU_NODES), "one on each node");

    // Every GPU is held by an old replica: they are replaced one by one.
    let fewest = roll(&stage, &great, "registry.example/lorikeet:2").await;
    assert!(fewest >= 3, "{fewest} ready at the fewest");
    assert_eq!(surge(&stage, "great").await, Some(IntOrString::Int(0)));
    // One is free: a new replica comes first.
    let three = on(&namespace, "great", 3, "nvidia-a100-80gb");
    stage.kubectl.apply(&[with(three.clone(), "/spec/image", json!("registry.example/lorikeet:2"))]);
    until("a GPU is free", PATIENCE, async || (nodes_of(&stage, "great").await.len() == 3).then_some(()))
        .await;
    stage.until_deployment_ready("great").await;
    let fewest = roll(&stage, &three, "registry.example/lorikeet:3").await;
    assert_eq!(fewest, 3, "a replica was taken away before its successor was there");
    assert_eq!(surge(&stage, "great").await, Some(IntOrString::Int(1)));
}

/// The next write of the workload of Deployment `name` is on its way until it is delivered.
fn hold_workload(stage: &Stage, name: &str) {
    let (path, mut is_held) = (format!("/deployments/{name}-runtime"), false);
    stage.proxy.judge(move |call| {
        if is_held || call.method != "PATCH" || !call.path.ends_with(&path) {
            return Fault::None;
        }
        is_held = true;
        Fault::Hold
    });
}

/// A pod of somebody else, on `node` without asking the scheduler, with its GPU.
fn take_gpu(stage: &Stage, node: &str) {
    stage.kubectl.apply(&[json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger", "namespace": stage.system},
        "spec": {
            "nodeName": node,
            // The only account that there is.
            "serviceAccountName": "lorikeet-operator",
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "stranger", "image": "registry.example/stranger:1",
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })]);
}

/// A rollout begins with a new replica, as a GPU is free; another's pod has it by the time that the new replica is made. What
/// goes keeps its GPU until it has drained.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_whose_free_gpu_another_takes_goes_on_one_by_one_and_ends() {
    const NEXT: &str = "registry.example/lorikeet:2";
    let Some(stage) = with_nodes("taken").await else { return };
    stage.kubelet.next(|script| script.farewell = true);
    let great = on(&stage.namespace, "great", 3, "nvidia-a100-80gb");
    stage.kubectl.apply(std::slice::from_ref(&great));
    stage.until_deployment_ready("great").await;
    assert_eq!(surge(&stage, "great").await, Some(IntOrString::Int(0)), "nobody was asked for a free GPU");
    let held = nodes_of(&stage, "great").await;
    let free = names(&["aks-80gb", "eks-80gb", "gke-80gb", "nfd-80gb"]);
    let free = free.difference(&held).next().expect("four for three").clone();

    // The operator has found it free, and writes so.
    hold_workload(&stage, "great");
    stage.kubectl.apply(&[with(great, "/spec/image", json!(NEXT))]);
    until("the rollout is on its way", PATIENCE, async || (stage.proxy.held() == 1).then_some(())).await;
    take_gpu(&stage, &free);
    stage.proxy.deliver();
    let ready = until("the new replica waits for a node", PATIENCE, async || {
        let pods = pods(&stage, "great").await;
        pods.iter().find(|pod| image(pod) == Some(NEXT) && is_unschedulable(pod))?;
        Some(pods.iter().filter(|pod| is_ready(pod)).count())
    })
    .await;
    assert_eq!(surge(&stage, "great").await, Some(IntOrString::Int(1)));
    assert_eq!(ready, 3, "a replica was taken away though a GPU was free");

    until("an old replica is to go first", PATIENCE, async || {
        (surge(&stage, "great").await == Some(IntOrString::Int(0))).then_some(())
    })
    .await;
    let fewest = until_rolled(&stage, "great", NEXT).await;
    assert!(fewest >= 2, "{fewest} ready at the fewest");
    assert_eq!(nodes_of(&stage, "great").await, held);
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), &stage.system);
    let stranger = pods.get("stranger").await.expect("it was not touched");
    assert_eq!(node_of(&stranger), Some(free.as_str()));
}

/// More replicas than GPUs: the status says what is waited for, and the rest serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_a_node_is_named_as_what_is_waited_for() {
    let Some(mut stage) = Stage::scheduled("no-node").await else { return };
    node(&stage, "only", &[(GKE, "nvidia-a100-80gb")]).await;
    stage.start_operator().await;
    stage.kubectl.apply(&[on(&stage.namespace, "great", 2, "nvidia-a100-80gb")]);
    until("the status says so", PATIENCE, async || {
        let status = stage.get::<lorikeet_crds::Deployment>("great").await?.status?;
        let ready = lorikeet_crds::condition::find(&status.conditions, lorikeet_crds::ConditionType::Ready)?;
        let says =
            ready.reason == lorikeet_crds::Reason::Unschedulable.as_str() && status.ready_replicas == 1;
        says.then_some(())
    })
    .await;
}
