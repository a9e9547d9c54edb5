//! A fleet: one Deployment, its Adapters and its replicas, as they were observed. Facts only; nothing here decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use lorikeet_api::ReportedSet;
use lorikeet_crds::{Adapter, Deployment};

/// Whose fleet it is: the namespace and name of a Deployment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FleetKey {
    /// The Deployment's namespace.
    pub namespace: String,
    /// The Deployment's name.
    pub name: String,
}

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
    /// Its replicas, ordered by name.
    pub replicas: Vec<Replica>,
    /// What the nodes have free for one more replica.
    pub capacity: Capacity,
    /// The folder below which its replicas find claims, each by its name.
    pub claims: String,
    /// Where its requests go.
    pub url: Option<String>,
    /// What runs the replicas; absent until it exists.
    pub workload: Option<Workload>,
}

/// One replica: a pod, or a process on one machine.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The pod's name.
    pub name: String,
    /// Changes when the containers of the pod restart.
    pub incarnation: String,
    /// Since when it is being deleted.
    pub leaving: bool,
    /// What it says of itself; the error and since when, where it does not answer.
    pub contact: Contact,
}

/// Whether a replica answers.
#[derive(Clone, Debug)]
pub enum Contact {
    /// It has no address yet, or was not asked yet.
    Pending,
    /// Its newest report.
    Reported(Arc<ReportedSet>),
    /// It does not answer: why, since when, and what it said last.
    Unreachable {
        /// Why.
        error: String,
        /// Since when.
        since: Timestamp,
        /// Its last report.
        last: Option<Arc<ReportedSet>>,
    },
}

/// Free accelerators for a surge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// GPUs that nodes of the pool have and no pod has asked for; `None` where nobody can say.
    pub free_gpus: Option<u32>,
    /// The fleet asked for GPUs and runs on a machine that has none.
    pub without_gpus: bool,
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
    /// Why pods cannot be scheduled.
    pub unschedulable: Option<String>,
}
