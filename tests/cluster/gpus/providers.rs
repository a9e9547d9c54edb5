//! Every provider's A100 nodes, as it labels them: each size is found, and nothing else is taken for it.

use std::collections::BTreeSet;

use super::{GKE, INSTANCE_TYPE, Labels, PRODUCT, on};
use crate::nodes::{is_unschedulable, node, node_of, nodes_of, pods};
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

/// One node of each kind that a provider has with an A100 of 40 GB.
const OF_40GB: [(&str, Labels); 7] = [
    ("gke-a2-highgpu", &[(GKE, "nvidia-tesla-a100"), (INSTANCE_TYPE, "a2-highgpu-1g")]),
    ("eks-p4d", &[(INSTANCE_TYPE, "p4d.24xlarge")]),
    ("karpenter-p4d", &karpenter("a100", "40960")),
    ("auto-mode-p4d", &auto_mode("a100", "40960")),
    ("aks-nd96asr", &[(INSTANCE_TYPE, "Standard_ND96asr_v4")]),
    ("nfd-sxm-40gb", &[(PRODUCT, "NVIDIA-A100-SXM4-40GB")]),
    ("nfd-pcie-40gb", &[(PRODUCT, "NVIDIA-A100-PCIE-40GB")]),
];
/// And of 80 GB.
const OF_80GB: [(&str, Labels); 10] = [
    ("gke-a2-ultragpu", &[(GKE, "nvidia-a100-80gb"), (INSTANCE_TYPE, "a2-ultragpu-1g")]),
    ("eks-p4de", &[(INSTANCE_TYPE, "p4de.24xlarge")]),
    ("karpenter-p4de", &karpenter("a100", "81920")),
    ("auto-mode-p4de", &auto_mode("a100", "81920")),
    ("aks-nc24ads", &[(INSTANCE_TYPE, "Standard_NC24ads_A100_v4")]),
    ("aks-nc48ads", &[(INSTANCE_TYPE, "Standard_NC48ads_A100_v4")]),
    ("aks-nc96ads", &[(INSTANCE_TYPE, "Standard_NC96ads_A100_v4")]),
    ("aks-nd96amsr", &[(INSTANCE_TYPE, "Standard_ND96amsr_A100_v4")]),
    ("nfd-sxm-80gb", &[(PRODUCT, "NVIDIA-A100-SXM4-80GB")]),
    ("nfd-pcie-80gb", &[(PRODUCT, "NVIDIA-A100-80GB-PCIe")]),
];
/// Nodes that have a GPU, and no whole A100.
const OF_OTHERS: [(&str, Labels); 6] = [
    ("gke-h100", &[(GKE, "nvidia-h100-80gb"), (INSTANCE_TYPE, "a3-highgpu-1g")]),
    // As much memory as an A100 has.
    ("karpenter-p5", &karpenter("h100", "81920")),
    ("auto-mode-p5", &auto_mode("h100", "81920")),
    ("aks-nc40ads-h100", &[(INSTANCE_TYPE, "Standard_NC40ads_H100_v5")]),
    ("nfd-partition", &[(PRODUCT, "NVIDIA-A100-SXM4-80GB-MIG-3g.40gb")]),
    ("nfd-shared", &[(PRODUCT, "NVIDIA-A100-SXM4-40GB-SHARED")]),
];

/// What Karpenter says of a node's GPUs.
const fn karpenter(name: &'static str, mebibytes: &'static str) -> [(&'static str, &'static str); 2] {
    [("karpenter.k8s.aws/instance-gpu-name", name), ("karpenter.k8s.aws/instance-gpu-memory", mebibytes)]
}

/// What EKS Auto Mode does.
const fn auto_mode(name: &'static str, mebibytes: &'static str) -> [(&'static str, &'static str); 2] {
    [("eks.amazonaws.com/instance-gpu-name", name), ("eks.amazonaws.com/instance-gpu-memory", mebibytes)]
}

/// One replica more than there are nodes for: it waits rather than take another's.
#[tokio::test(flavor = "multi_thread")]
async fn each_size_of_a100_is_found_at_every_provider_and_nothing_else_is_taken_for_it() {
    let Some(mut stage) = Stage::scheduled("providers").await else { return };
    for (name, labels) in OF_40GB.iter().chain(&OF_80GB).chain(&OF_OTHERS) {
        node(&stage, name, labels).await;
    }
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    let fits = |nodes: &[(&str, Labels)]| nodes.iter().map(|(name, _)| (*name).to_owned()).collect();
    let sizes: [(&str, BTreeSet<String>); 2] = [("a100-40gb", fits(&OF_40GB)), ("a100-80gb", fits(&OF_80GB))];
    for (size, fitting) in &sizes {
        let replicas = u32::try_from(fitting.len()).expect("a few") + 1;
        stage.kubectl.apply(&[on(&namespace, size, replicas, &format!("nvidia-{size}"))]);
    }
    for (size, fitting) in &sizes {
        let waiting = until(&format!("each {size} has a node, or none is left"), PATIENCE, async || {
            let pods = pods(&stage, size).await;
            let waiting = pods.iter().filter(|pod| node_of(pod).is_none());
            let is_settled = pods.len() == fitting.len() + 1 && waiting.clone().all(is_unschedulable);
            is_settled.then(|| waiting.count())
        });
        let waiting = waiting.await;
        assert_eq!((&nodes_of(&stage, size).await, waiting), (fitting, 1), "of {size}");
    }
}
