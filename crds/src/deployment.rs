//! The kind `Deployment`: a base model on a pool of nodes, shared by its adapters.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::SourceSpec;

/// A Deployment is a base model on a pool of nodes. Each replica holds the model once and shares it among all adapters
/// that name the Deployment.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "lorikeet.dev",
    version = "v1alpha1",
    kind = "Deployment",
    plural = "deployments",
    singular = "deployment",
    shortname = "ldep",
    category = "lorikeet",
    namespaced,
    cel,
    doc = "A base model on a pool of nodes, shared by its adapters.",
    status = "DeploymentStatus",
    derive = "PartialEq",
    derive = "Default",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(json_path = ".status.conditions[?(@.type==\"Ready\")].status", name = "Ready", type_ = "string"),
    printcolumn(json_path = ".status.conditions[?(@.type==\"Ready\")].reason", name = "Reason", type_ = "string"),
    printcolumn(json_path = ".status.readyReplicas", name = "Replicas", type_ = "integer"),
    printcolumn(json_path = ".status.adapters.ready", name = "Adapters", type_ = "integer"),
    printcolumn(json_path = ".status.adapters.total", name = "Of", type_ = "integer"),
    printcolumn(json_path = ".status.model.name", name = "Model", type_ = "string"),
    printcolumn(json_path = ".spec.model.source", name = "Source", type_ = "string", priority = 1),
    printcolumn(json_path = ".status.url", name = "URL", type_ = "string"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date"),
    validation = Rule::new("size(self.metadata.name) <= 50").message("metadata.name: at most 50 characters, as children are named after it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name: expected lower-case letters, digits and -, first a letter, last a letter or digit, as its Service is named so")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel)]
pub struct DeploymentSpec {
    /// The base model.
    pub model: ModelSpec,
    /// How many replicas run, from 0 to 1024. A person writes it, or an autoscaler by /scale; the operator never does. With
    /// `autoscaling` fewer or more than its bounds are not followed. Default: `1`, or `autoscaling.minReplicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1024))]
    pub replicas: Option<i32>,
    /// The nodes it runs on: a preset, or labels of one's own. Default: any node, on the CPU.
    #[serde(default)]
    pub node_pool: NodePool,
    /// What its adapters may take, and whose they may be.
    #[serde(default)]
    pub adapters: AdapterBudget,
    /// Limits of each replica.
    #[serde(default)]
    pub serving: Serving,
    /// The bounds of `replicas` for whatever scales it by demand: a HorizontalPodAutoscaler, or KEDA, that names this
    /// Deployment as its target. None is made here. Default: no bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// How replicas are replaced.
    #[serde(default)]
    pub rollout: Rollout,
    /// Who may call it. Default: whoever reaches its Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Leaves everything as it is: no child is written, no adapter moved, until it is false again. Default: `false`.
    #[serde(default)]
    pub paused: bool,
    /// The runtime's image, of the operator's release or a later one: the inspector beside each replica is of it too. Default: the
    /// operator's `--runtime-image`. Example: `ghcr.io/lorikeet-dev/lorikeet:0.1.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// The runtime's resources, as a container has them; the GPUs of the node pool are added. Default: none asked for.
    /// `limits.memory` holds the model and `adapters.hostMemory`, without a GPU `adapters.gpuMemory` too: it is
    /// more than those together. Fetched files take nine tenths of `limits.ephemeral-storage`, or 50 GiB: give it more than
    /// the model's files take. Example: `{requests: {cpu: 4, memory: 40Gi}, limits: {memory: 40Gi, ephemeral-storage: 60Gi}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// The base model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.servedName) == has(oldSelf.servedName) && (!has(self.servedName) || self.servedName == oldSelf.servedName)")
    .message("servedName: cannot be changed; clients know the model by it"))]
pub struct ModelSpec {
    /// Where its files are.
    #[serde(flatten)]
    pub source: SourceSpec,
    /// The name that requests use as `model`. It cannot be changed. Default: metadata.name. Example: `mistral-7b`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$')")
        .message("servedName: expected letters, digits and . _ / -, first and last a letter or digit"))]
    pub served_name: Option<String>,
    /// Quantizes the weights while they are loaded: `none` (as the source has them), `q8_0` (8 bits a weight) or `q4_k` (4
    /// bits). Default: `none`.
    #[serde(default)]
    pub quantization: Quantization,
}

/// Quantization at load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// As the source has them.
    #[default]
    None,
    /// 8 bits a weight and a scale for 32.
    Q8_0,
    /// 4 bits a weight with scales and minima for 32.
    Q4K,
}

/// The nodes of a Deployment: a preset, or labels of one's own; neither is the CPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.accelerator) && has(self.nodeSelector))")
    .message("nodePool: expected accelerator or nodeSelector, got both"))]
pub struct NodePool {
    /// A preset: the labels of that GPU on GKE, EKS, AKS and of NVIDIA feature discovery, and one `nvidia.com/gpu`. Default:
    /// none, the CPU. Example: `nvidia-a100-80gb`.
    // Of an optional enum the generated schema has the enum's own words: they are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    /// Node labels of one's own, in the place of a preset. Default: any node. Example: `{pool: gpu}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("size(self) > 0")
        .message("nodeSelector: expected at least one label; leave the field out for any node"))]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Further taints that the pods tolerate; that of `nvidia.com/gpu` they do with a GPU. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// GPUs of each replica, 0 or 1. Default: `1` with an accelerator, `0` without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub gpus: Option<i32>,
}

/// A preset: the labels of that GPU on GKE, EKS, AKS and of NVIDIA feature discovery, and one `nvidia.com/gpu`. Default:
/// none, the CPU. Example: `nvidia-a100-80gb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Accelerator {
    /// NVIDIA A100, 40 GB.
    #[serde(rename = "nvidia-a100-40gb")]
    NvidiaA100_40Gb,
    /// NVIDIA A100, 80 GB.
    #[serde(rename = "nvidia-a100-80gb")]
    NvidiaA100_80Gb,
}

/// What adapters may take on each replica, and whose they may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdapterBudget {
    /// Bytes of the device for resident adapters (on the CPU: of memory, beside `hostMemory`). Default: `8Gi`.
    #[serde(default = "gpu_memory")]
    pub gpu_memory: Quantity,
    /// Bytes of host memory for adapters that wait one copy away. Default: `16Gi`.
    #[serde(default = "host_memory")]
    pub host_memory: Quantity,
    /// The greatest rank that is accepted, from 1 to 1024. Default: `128`.
    #[serde(default = "max_rank")]
    #[schemars(range(min = 1, max = 1024))]
    pub max_rank: u32,
    /// The namespaces whose Adapters may name this Deployment.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,
}

impl Default for AdapterBudget {
    fn default() -> Self {
        Self {
            gpu_memory: gpu_memory(),
            host_memory: host_memory(),
            max_rank: max_rank(),
            allowed_namespaces: AllowedNamespaces::default(),
        }
    }
}

fn gpu_memory() -> Quantity {
    Quantity("8Gi".to_owned())
}

fn host_memory() -> Quantity {
    Quantity("16Gi".to_owned())
}

const fn max_rank() -> u32 {
    128
}

/// Which namespaces: as Gateway API's `allowedRoutes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.selector) == (self.from == 'Selector')")
    .message("allowedNamespaces.selector: expected with from: Selector, and only then"))]
pub struct AllowedNamespaces {
    /// `Same`: those of the Deployment's own namespace. `All`: those of every namespace. `Selector`: besides its own, those
    /// of namespaces with the labels of `selector`. Default: `Same`.
    #[serde(default)]
    pub from: NamespacesFrom,
    /// The labels of the namespaces, with `from: Selector`. Default: none. Example: `{matchLabels: {team: nlp}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Whose Adapters may name a Deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    /// Those of the Deployment's own namespace.
    #[default]
    Same,
    /// Those of every namespace.
    All,
    /// Those of namespaces with certain labels.
    Selector,
}

/// Limits of each replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Serving {
    /// Tokens of prompt and answer together, from 16 to 1048576. Default: what the model was trained for, at most 32768.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 1_048_576))]
    pub max_model_length: Option<u32>,
    /// Sequences that run at once, from 1 to 1024. Default: the runtime's 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub max_sequences: Option<u32>,
    /// Requests that may wait, from 1 to 65536; further ones are answered 429. Default: the runtime's 512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_queue: Option<u32>,
}

/// The bounds of scaling by demand. Who scales writes `spec.replicas` by /scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("autoscaling: expected minReplicas <= maxReplicas"))]
pub struct Autoscaling {
    /// Never fewer replicas run, whatever `replicas` says. From 1 to 1024.
    #[schemars(range(min = 1, max = 1024))]
    pub min_replicas: i32,
    /// Never more replicas run, whatever `replicas` says. From 1 to 1024, at least `minReplicas`.
    #[schemars(range(min = 1, max = 1024))]
    pub max_replicas: i32,
}

/// How replicas are replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// `Surge`: a new replica before the old one goes. `Recreate`: the old one goes first, one by one, after its drain.
    /// `Auto`: surge where a GPU is free for it, else recreate. Default: `Auto`.
    #[serde(default)]
    pub strategy: RolloutStrategy,
    /// How long requests under way may take to finish when a replica stops, or when their adapter is swapped or deleted,
    /// from 0 to 3600: those that take longer end with an error. Default: `60`.
    #[serde(default = "drain_seconds")]
    #[schemars(range(min = 0, max = 3600))]
    pub drain_seconds: u32,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { strategy: RolloutStrategy::Auto, drain_seconds: drain_seconds() }
    }
}

const fn drain_seconds() -> u32 {
    60
}

/// The order of a rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutStrategy {
    /// Surge where the nodes have free GPUs, else recreate one by one.
    #[default]
    Auto,
    /// A new replica before the old one goes.
    Surge,
    /// The old one goes before the new one comes, one by one.
    Recreate,
}

/// Who may call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// A Secret of this namespace whose key `keys` holds one API key a line. Mounted into the pods; the operator never reads
    /// it. Example: `{name: keys}`.
    pub api_keys_secret_ref: LocalObjectReference,
}

/// What is true of a Deployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled (kstatus); Accepted, ModelLoaded, AdaptersReady, Available.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// Replicas that exist, as /scale tells.
    #[serde(default)]
    pub replicas: i32,
    /// Those of them whose model and pinned adapters are loaded.
    #[serde(default)]
    pub ready_replicas: i32,
    /// The labels of its pods, as /scale wants them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The model that is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelStatus>,
    /// Its adapters, counted.
    #[serde(default)]
    pub adapters: AdapterCount,
    /// Where requests go, inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// The model as the replicas report it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// The name that requests use as `model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The immutable revision that the source resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The digest of the content that is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Adapters, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdapterCount {
    /// Adapters that name the Deployment, are allowed to, and are not being deleted.
    #[serde(default)]
    pub total: u32,
    /// Those that are loaded wherever they should be.
    #[serde(default)]
    pub ready: u32,
    /// Those that will not be served as they ask before somebody changes something.
    #[serde(default)]
    pub failed: u32,
}
