//! Pods on nodes that kube-scheduler chooses: A100 nodes as the clouds and NVIDIA's feature discovery label them, tainted as
//! GPU nodes are. And rollouts there, which never wait for GPUs that the old replicas hold.

mod providers;

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment as Workload;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use crate::manifests::{deployment, with};
use crate::nodes::{is_ready, node, nodes_of, pods};
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
