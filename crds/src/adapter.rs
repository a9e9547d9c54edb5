//! The kind `Adapter`: a LoRA fine-tune of a Deployment's base model, and where it is kept loaded.

use internment::ArcIntern;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::SourceSpec;

/// How many replicas a status lists, the most telling first. The API server takes most of its time for a status by the rows
/// of this list, and a thousand Adapters turn Ready at once.
pub const LISTED: usize = 16;

/// An Adapter is a LoRA fine-tune of a Deployment's base model. Apply it, and every replica serves it under its name;
/// change its source or digest, and it is swapped without a failed request; delete it, and it drains.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "lorikeet.dev",
    version = "v1alpha1",
    kind = "Adapter",
    plural = "adapters",
    singular = "adapter",
    shortname = "lora",
    category = "lorikeet",
    namespaced,
    cel,
    doc = "A LoRA fine-tune of a Deployment's base model.",
    status = "AdapterStatus",
    derive = "PartialEq",
    derive = "Default",
    selectable = ".spec.deploymentRef.name",
    printcolumn(json_path = ".spec.deploymentRef.name", name = "Deployment", type_ = "string"),
    printcolumn(json_path = ".status.servedName", name = "Model", type_ = "string"),
    printcolumn(json_path = ".status.conditions[?(@.type==\"Ready\")].status", name = "Ready", type_ = "string"),
    printcolumn(json_path = ".status.conditions[?(@.type==\"Ready\")].reason", name = "Reason", type_ = "string"),
    printcolumn(json_path = ".status.replicas.ready", name = "Loaded", type_ = "integer"),
    printcolumn(json_path = ".status.replicas.desired", name = "Desired", type_ = "integer"),
    printcolumn(json_path = ".status.rank", name = "Rank", type_ = "integer"),
    printcolumn(json_path = ".status.bytes", name = "Bytes", type_ = "integer", priority = 1),
    printcolumn(json_path = ".status.digest", name = "Digest", type_ = "string", priority = 1),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name: at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(cel, validation = Rule::new("has(self.servedName) == has(oldSelf.servedName) && (!has(self.servedName) || self.servedName == oldSelf.servedName)")
    .message("servedName: cannot be changed; make a second Adapter under the new name, then delete this one"))]
pub struct AdapterSpec {
    /// The Deployment whose base model it fine-tunes. It cannot be changed. Example: `{name: mistral-7b}`.
    #[x_kube(validation = Rule::new("self == oldSelf").message("deploymentRef: cannot be changed; make a second Adapter"))]
    pub deployment_ref: DeploymentRef,
    /// Where its files are.
    #[serde(flatten)]
    pub source: SourceSpec,
    /// The name that requests use as `model`. It cannot be changed. Unique for a Deployment: of two Adapters with one name
    /// the older is served, the newer is refused. Default: metadata.name. Example: `acme/sql`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$')")
        .message("servedName: expected letters, digits and . _ / -, first and last a letter or digit"))]
    pub served_name: Option<String>,
    /// Where it is kept resident. Every replica serves it in any case: placement decides who needs no load first.
    #[serde(default)]
    pub placement: Placement,
    /// Which base model its `adapter_config.json` may name. `Same`: the Deployment's; an Adapter whose configuration names
    /// the repository of another model is refused. `Any`: the names are not compared, for an Adapter that was trained on
    /// a copy, or on a quantized form, under another name. Shapes are checked in either case. Default: `Same`.
    #[serde(default)]
    pub base_model: BaseModelRule,
}

/// Which base model a configuration may name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BaseModelRule {
    /// The Deployment's.
    #[default]
    Same,
    /// Whichever: names are not compared.
    Any,
}

/// A Deployment by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentRef {
    /// The Deployment's name. Example: `mistral-7b`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The Deployment's namespace. Another one than the Adapter's must be allowed by the Deployment's
    /// `spec.adapters.allowedNamespaces`. Default: the Adapter's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// Where an adapter is kept resident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// On how many replicas: `All`, a number from 1 to 1024, or `Auto` (by measured demand). Default: `All`. Example: `2`.
    #[serde(default = "all_replicas")]
    #[x_kube(validation = Rule::new("self in ['All', 'Auto'] || (self >= 1 && self <= 1024)")
        .message("placement.replicas: expected All, Auto or a number from 1 to 1024"))]
    pub replicas: IntOrString,
    /// Never evicted where it is placed. With `replicas: All` a replica becomes ready only once it is loaded; one that is placed
    /// on some replicas is waited for by none, as which of them it will be is not known before they run. Default: `false`.
    #[serde(default)]
    pub pinned: bool,
    /// Of two adapters that cannot both stay, the lower priority goes. From -1000000 to 1000000. Default: `0`.
    #[serde(default)]
    #[schemars(range(min = -1_000_000, max = 1_000_000))]
    pub priority: i32,
}

impl Default for Placement {
    fn default() -> Self {
        Self { replicas: all_replicas(), pinned: false, priority: 0 }
    }
}

fn all_replicas() -> IntOrString {
    IntOrString::String("All".to_owned())
}

/// What the replicas report of an Adapter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdapterStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled (kstatus); Accepted, Resolved, Loaded.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// The name that requests use as `model`; absent while it has none, as another Adapter has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_name: Option<String>,
    /// The digest of the content that is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The immutable revision that the source resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The greatest rank of its modules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// Bytes that it takes on each replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The modules that it changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub target_modules: Vec<String>,
    /// The model that its `adapter_config.json` says it was trained on, where `spec.baseModel` has it compared with the
    /// Deployment's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub base_model: Option<String>,
    /// How many replicas should keep it resident, and how many do.
    #[serde(default)]
    pub replicas: PlacementCount,
    /// Where it is, replica by replica: those in error first, then those that load or drain, then those that have it; at most
    /// 16. `replicas` counts all.
    // Rows that are the same for most Adapters of a Deployment: kept once, while any of them says so.
    #[serde(default, skip_serializing_if = "is_empty")]
    // Replaced whole: merged by pod, the record of who wrote what would be longer than the status, in each Adapter.
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[schemars(with = "Vec<ReplicaPlacement>", length(max = LISTED))]
    pub placements: ArcIntern<Vec<ReplicaPlacement>>,
}

fn is_empty(placements: &ArcIntern<Vec<ReplicaPlacement>>) -> bool {
    placements.is_empty()
}

/// Replicas, wanted and true.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlacementCount {
    /// Replicas that should keep it resident.
    #[serde(default)]
    pub desired: u32,
    /// Replicas that report that they do.
    #[serde(default)]
    pub ready: u32,
}

/// One replica's report of an adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaPlacement {
    /// The replica's pod.
    pub pod: String,
    /// Resident, Host, Disk or Remote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Registered, Loading, Ready, Failed or Draining; Outdated where it serves a former content, Refused where the replica
    /// does not take what it should hold, Unreachable where it does not answer.
    pub state: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
