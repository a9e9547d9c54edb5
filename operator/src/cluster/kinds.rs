//! The kinds of a Deployment's children, and how each is reached. No decision what they hold.

use k8s_openapi::api::apps::v1::Deployment as Workload;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ApiResource;
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde::Serialize;
use serde_json::Value;

use crate::build::{Children, Surroundings};

/// A kind of child, in the order in which they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChildKind {
    /// The account without a token.
    Account,
    /// Nothing in but the three ports.
    Network,
    /// The two Services.
    Service,
    /// A shard of the registry.
    Registry,
    /// One replica at a time may be taken away.
    Disruption,
    /// The pods. Last: it needs the others.
    Workload,
}

impl ChildKind {
    /// Every kind, in the order in which they are applied.
    pub const ALL: [Self; 6] =
        [Self::Account, Self::Network, Self::Service, Self::Registry, Self::Disruption, Self::Workload];

    /// As the API server knows it.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        match self {
            Self::Account => ApiResource::erase::<ServiceAccount>(&()),
            Self::Network => ApiResource::erase::<NetworkPolicy>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::Registry => ApiResource::erase::<ConfigMap>(&()),
            Self::Disruption => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::Workload => ApiResource::erase::<Workload>(&()),
        }
    }

    /// A handle on those of `namespace`, or on all.
    #[must_use]
    pub fn api(self, client: Client, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &self.resource()),
            None => Api::all_with(client, &self.resource()),
        }
    }
}

/// A child as it should be.
#[derive(Clone, Debug)]
pub struct Child {
    /// Its kind.
    pub kind: ChildKind,
    /// Its name.
    pub name: String,
    /// All of it.
    pub object: Value,
}

/// The children one by one, in the order in which they are applied.
///
/// # Errors
/// One of them has no form as JSON: a fault of who built it.
pub fn each(children: &Children) -> serde_json::Result<Vec<Child>> {
    let mut all = around(&children.surroundings)?;
    for shard in &children.registry {
        all.push(child(ChildKind::Registry, shard)?);
    }
    all.push(child(ChildKind::Workload, &children.workload)?);
    all.sort_by_key(|child| child.kind);
    Ok(all)
}

/// As [`each`], of what is around the pods.
///
/// # Errors
/// As [`each`].
pub fn around(surroundings: &Surroundings) -> serde_json::Result<Vec<Child>> {
    let Surroundings { services: [public, replicas], disruption, account, network } = surroundings;
    Ok(vec![
        child(ChildKind::Account, account)?,
        child(ChildKind::Network, network)?,
        child(ChildKind::Service, public)?,
        child(ChildKind::Service, replicas)?,
        child(ChildKind::Disruption, disruption)?,
    ])
}

fn child(kind: ChildKind, object: &impl Serialize) -> serde_json::Result<Child> {
    let object = serde_json::to_value(object)?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Ok(Child { kind, name, object })
}
