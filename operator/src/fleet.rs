//! A fleet: one Deployment, its Adapters and its replicas, as they were observed. Facts only; nothing here decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use internment::ArcIntern;
use jiff::Timestamp;
use lorikeet_api::{AdapterReport, DesiredAdapter, Failure, ReportedSet};
use lorikeet_crds::{Adapter, Deployment};

/// Whose fleet it is: the namespace and name of a Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FleetKey {
    /// The Deployment's namespace.
    pub namespace: String,
    /// The Deployment's name.
    pub name: String,
}

/// (namespace, name) of an Adapter.
pub type AdapterKey = (String, String);

/// What a replica reports. Sixty-four replicas say the same of most of ten thousand adapters: each thing said is kept once,
/// for as long as any of them says it, and is compared by its address.
pub type Report = ReportedSet<Said>;

/// What a replica says of one adapter.
pub type Said = ArcIntern<AdapterReport>;

/// What a replica should hold, ordered by name; what is the same for several replicas is there once.
pub type DesiredList = Arc<[ArcIntern<DesiredAdapter>]>;

/// Everything that a decision about one Deployment may look at.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Whose it is.
    pub key: FleetKey,
    /// The Deployment; absent when Adapters name one that does not exist.
    pub deployment: Option<Arc<Deployment>>,
    /// The Adapters that name it, from any namespace, ordered by (namespace, name).
    pub adapters: Vec<Arc<Adapter>>,
    /// The labels of the namespaces that those Adapters are in.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Of which of these not all of the spec could be read.
    pub unread: Unread,
    /// What was read of the sources of Adapters that are not accepted yet and that no replica has read. One that is not in it
    /// is judged by what is known of it without reading.
    pub probes: BTreeMap<AdapterKey, Probe>,
    /// Its replicas, ordered by name.
    pub replicas: Vec<Replica>,
    /// What the nodes have free for one more replica.
    pub capacity: Capacity,
    /// How many adapters may move to one replica at a time.
    pub moves: usize,
    /// The folder below which its replicas find claims, each by its name.
    pub claims: String,
    /// Where its requests go.
    pub url: Option<String>,
    /// What runs the replicas; absent until it exists.
    pub workload: Option<Workload>,
}

impl Fleet {
    /// Whether some of its replicas are not ready: one that does not answer may be starting.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        self.workload.as_ref().is_some_and(|workload| workload.ready < workload.replicas)
    }
}

/// Objects of which not all of the spec could be read, and why: nobody knows what they ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// The Deployment.
    pub deployment: Option<String>,
    /// Adapters.
    pub adapters: BTreeMap<AdapterKey, String>,
}

/// One replica: a pod, or a process on one machine.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The pod's name.
    pub name: String,
    /// Changes when the containers of the pod restart.
    pub incarnation: String,
    /// It is being deleted.
    pub leaving: bool,
    /// What it says of itself; the error and since when, where it does not answer.
    pub contact: Contact,
    /// Why it does not take what it should hold, where it was asked more than once.
    pub refusal: Option<String>,
}

/// Whether a replica answers.
#[derive(Clone, Debug)]
pub enum Contact {
    /// It has no address yet, or was not asked yet.
    Pending,
    /// It loads its model, and says no more yet.
    Loading,
    /// Its newest report.
    Reported(Arc<Report>),
    /// It does not answer: why, since when, and what it said last.
    Unreachable {
        /// Why.
        error: String,
        /// Since when.
        since: Timestamp,
        /// Its last report.
        last: Option<Arc<Report>>,
    },
}

/// What there is for the fleet: free accelerators for a surge, and what it asked for in vain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// GPUs that nodes of the pool have and no pod has asked for; `None` where nobody can say.
    pub free_gpus: Option<u32>,
    /// The fleet asked for GPUs and runs on a machine that has none.
    pub without_gpus: bool,
    /// The fleet asked to be scaled within bounds, and nobody here does that.
    pub without_scaler: bool,
}

/// What the workload's own controller says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Replicas that exist.
    pub replicas: i32,
    /// Replicas of the newest template.
    pub updated: i32,
    /// Replicas that are ready.
    pub ready: i32,
    /// It has seen its newest spec.
    pub current: bool,
    /// What keeps replicas from running.
    pub hindrance: Option<Hindrance>,
}

/// What keeps replicas from running, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// No node has room for them.
    Unschedulable(String),
    /// A Secret that they need is not there, or lacks what they need of it.
    NoSecret(String),
    /// They have a node, and their volumes are not mounted: what may be the reason.
    Unmounted(String),
    /// They end by themselves and are started again.
    Failing(String),
    /// They have no port that requests could come by.
    NoPort(String),
}

/// What was read of an adapter's source before any replica hears of it: its configuration and the size of its weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It is being read.
    Pending,
    /// What it says of itself.
    Facts(AdapterFacts),
    /// Its configuration is none, for every replica alike.
    Faulty(ConfigFault),
    /// It was read, and is of a kind that nobody judges before it is loaded, and why: the replicas do.
    Unjudged(String),
    /// Nobody is there yet who may read it: what it waits for.
    Awaited(String),
    /// It cannot be read, neither here nor where the replicas would read it: why, in the words of who tried. It is tried again.
    Refused(Failure),
}

impl Probe {
    /// Whether its source was not read: it is being read, waits for who may read it, or was tried in vain.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Pending | Self::Awaited(_) | Self::Refused(_))
    }
}

/// What an adapter says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdapterFacts {
    /// The greatest rank of its configuration.
    pub rank: u64,
    /// The setting that says so: `r`, or `rank_pattern` with a module.
    pub rank_field: String,
    /// The model that it was trained on, as it was called there.
    pub base_model: Option<String>,
    /// Bytes of its weights; absent where nobody says so before they are fetched.
    pub bytes: Option<u64>,
}

/// What is wrong with a configuration, in the words of its reader.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFault {
    /// Longer than anybody reads.
    #[error("expected at most {limit} bytes, got more")]
    TooLong {
        /// What is read.
        limit: u64,
    },
    /// Not JSON.
    #[error("expected JSON: {0}")]
    NotJson(String),
    /// JSON, and no object.
    #[error("expected a JSON object, got {0}")]
    NotAnObject(&'static str),
    /// A setting that no replica takes.
    #[error("{field}: expected {expected}, got {got}")]
    Invalid {
        /// The setting.
        field: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
}
