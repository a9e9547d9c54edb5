//! What a replica should hold: the whole set, under a version. Never what it holds.

use serde::{Deserialize, Serialize};

/// A version of the desired set. Ordered by `epoch`, then `sequence`.
///
/// The epoch grows when the writer changes (a new leader takes the Lease's transition count), the sequence with each
/// write of one writer: a set written late by a deposed leader is older than any set of its successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// The writer's term.
    pub epoch: u64,
    /// The writer's count of writes in that term.
    pub sequence: u64,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}

/// The whole set of adapters that a replica serves. What is not named here is drained and forgotten, except
/// adapters that were named on the command line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredSet {
    /// Must be newer than the version that the replica has; an equal set under an equal version is accepted again.
    pub version: Version,
    /// The adapters, in any order; names are unique.
    pub adapters: Vec<DesiredAdapter>,
}

/// A change of the desired set: with ten thousand adapters a whole set is megabytes, a change is a line.
///
/// `A` is one adapter: who writes to many replicas may choose a form that shares what is the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredChange<A = DesiredAdapter> {
    /// The version that the replica must have: the change was computed against it.
    pub base: Version,
    /// The version that it has then; newer than `base`.
    pub version: Version,
    /// Adapters that are new or differ, whole.
    #[serde(default = "Vec::new")]
    pub set: Vec<A>,
    /// Names that are no longer desired.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// One adapter of the desired set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredAdapter {
    /// The name that requests use as `model`.
    pub name: String,
    /// Where its files are: a path below a source root, `https://`, `hf://`, `s3://`.
    pub source: String,
    /// The revision of the source, where the source has revisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The Secret that opens the source: a sub-folder's name of the replica's folder of credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// `sha256:<hex>` of the content; anything else is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Keep it resident here: it is loaded ahead of requests and evicted after all that is not placed.
    #[serde(default)]
    pub resident: bool,
    /// Never evict it; the replica is ready only when it is resident.
    #[serde(default)]
    pub pinned: bool,
    /// Of two that could be evicted, the lower goes first.
    #[serde(default)]
    pub priority: i32,
    /// The greatest rank accepted; the replica's own limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rank: Option<u32>,
}

/// The answer to a write: what was taken over, not what is loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// The replica's process, as in [`crate::ReportedSet::instance`].
    pub instance: String,
    /// The version that is now desired.
    pub version: Version,
}
