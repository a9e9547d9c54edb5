//! Node pools: which nodes have an accelerator, by the labels that the clouds and NVIDIA's feature discovery give them, and
//! which taints its pods tolerate. Pure.

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Toleration,
};
use lorikeet_crds::deployment::{Accelerator, NodePool};

use crate::decide::scale::gpus;

/// The resource that device plugins offer, and the taint of nodes that have it.
pub const GPU: &str = "nvidia.com/gpu";

/// How one of them names an accelerator: by all of these labels, each with any of its values.
type Labels = &'static [(&'static str, &'static [&'static str])];

const GKE: &str = "cloud.google.com/gke-accelerator";
/// On EKS and AKS, however a node came about.
const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
/// NVIDIA GPU feature discovery. A partition (`-MIG-…`) and a part of its time (`-SHARED`) have names of their own.
const PRODUCT: &str = "nvidia.com/gpu.product";

// Karpenter, and EKS Auto Mode, give an A100 one name and say beside it how many MiB it has, as they do of an H100 of 80 GB.
const A100_40GB: [Labels; 5] = [
    &[(GKE, &["nvidia-tesla-a100"])],
    &[(INSTANCE_TYPE, &["p4d.24xlarge", "Standard_ND96asr_v4"])],
    &[
        ("karpenter.k8s.aws/instance-gpu-name", &["a100"]),
        ("karpenter.k8s.aws/instance-gpu-memory", &["40960"]),
    ],
    &[
        ("eks.amazonaws.com/instance-gpu-name", &["a100"]),
        ("eks.amazonaws.com/instance-gpu-memory", &["40960"]),
    ],
    &[(PRODUCT, &["NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"])],
];
const A100_80GB: [Labels; 5] = [
    &[(GKE, &["nvidia-a100-80gb"])],
    &[(
        INSTANCE_TYPE,
        &[
            "p4de.24xlarge",
            "Standard_NC24ads_A100_v4",
            "Standard_NC48ads_A100_v4",
            "Standard_NC96ads_A100_v4",
            "Standard_ND96amsr_A100_v4",
        ],
    )],
    &[
        ("karpenter.k8s.aws/instance-gpu-name", &["a100"]),
        ("karpenter.k8s.aws/instance-gpu-memory", &["81920"]),
    ],
    &[
        ("eks.amazonaws.com/instance-gpu-name", &["a100"]),
        ("eks.amazonaws.com/instance-gpu-memory", &["81920"]),
    ],
    &[(PRODUCT, &["NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe", "NVIDIA-A100-PCIE-80GB"])],
];

/// Nodes that any of them says have `accelerator`.
#[must_use]
pub fn affinity(accelerator: Accelerator) -> Affinity {
    let ways = match accelerator {
        Accelerator::NvidiaA100_40Gb => A100_40GB,
        Accelerator::NvidiaA100_80Gb => A100_80GB,
    };
    let required = |(key, values): &(&str, &[&str])| NodeSelectorRequirement {
        key: (*key).to_owned(),
        operator: "In".to_owned(),
        values: Some(values.iter().map(|&value| value.to_owned()).collect()),
    };
    let term = |labels: Labels| NodeSelectorTerm {
        match_expressions: Some(labels.iter().map(required).collect()),
        match_fields: None,
    };
    Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: ways.into_iter().map(term).collect(),
            }),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// What `pool` says, and with GPUs their taint.
#[must_use]
pub fn tolerations(pool: &NodePool) -> Vec<Toleration> {
    let mut all = pool.tolerations.clone();
    if gpus(pool) > 0 {
        all.push(Toleration {
            key: Some(GPU.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoSchedule".to_owned()),
            ..Toleration::default()
        });
    }
    all
}
