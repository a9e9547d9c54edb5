//! The nouns of the cluster: the kinds of `lorikeet.dev/v1alpha1`, one kind per file, and the words of their status.
//!
//! Types only. What can be refused when a user applies is a CEL rule here, and nowhere else: the API server runs the
//! rules in a cluster, [`admit`] runs the same ones where there is none. Must not decide, read or write anything.

#![allow(
    unreachable_pub,
    reason = "KubeSchema defines a private shadow of each type with the same visibility"
)]

pub mod adapter;

pub mod condition;
pub mod deployment;
pub mod source;
pub mod yaml;

pub use adapter::{Adapter, AdapterSpec, AdapterStatus};
pub use condition::{ConditionType, Reason};
pub use deployment::{Deployment, DeploymentSpec, DeploymentStatus};

/// The API group.
pub const GROUP: &str = "lorikeet.dev";
/// The one version that is served and stored.
pub const VERSION: &str = "v1alpha1";
/// The finalizer of Adapters: what holds up a deletion while running requests end.
pub const FINALIZER: &str = "lorikeet.dev/drain";
/// The field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "lorikeet-operator";
