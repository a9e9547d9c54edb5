//! Build: a valid fleet becomes the objects that carry it in a cluster. Pure and infallible: what could be wrong was
//! refused before. Names differ from the Deployment's own, as `apps/v1` has a kind of that name too.

pub mod access;
pub mod arguments;
pub mod health;
pub mod inspector;
pub mod pool;
pub mod registry;
pub mod services;
pub mod workload;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment as Workload;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource as _;
use lorikeet_crds::Deployment;

use crate::build::arguments::Reach;
use crate::decide::validate::ValidFleet;
use crate::fleet::{Fleet, FleetKey};

/// The label that every child and pod of a Deployment bears, with its name.
pub const LABEL: &str = "lorikeet.dev/deployment";
/// The port of the public face.
pub const PUBLIC_PORT: i32 = 8080;
/// The port of the admin face.
pub const ADMIN_PORT: i32 = 8081;
/// The port of the inspector beside a replica.
pub const INSPECT_PORT: i32 = 8082;

/// What the operator itself is set to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The runtime's image where a Deployment names none.
    pub image: String,
    /// The namespace that the operator's own pods run in: it alone may reach the admin face.
    pub namespace: String,
    /// What sources may lead to.
    pub reach: Reach,
}

/// Everything that is applied for one Deployment, beside the admin Secret, whose content is random.
#[derive(Clone, Debug)]
pub struct Children {
    /// `<name>-runtime`.
    pub workload: Workload,
    /// What is around the pods.
    pub surroundings: Surroundings,
    /// `<name>-registry-<n>`: what a replica serves that starts while the operator is away.
    pub registry: Vec<ConfigMap>,
}

/// What is around the pods, whatever they are: nothing that a spec could have wrong is in it.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// `<name>`, and `<name>-replicas` without an address of its own.
    pub services: [Service; 2],
    /// `<name>-runtime`.
    pub disruption: PodDisruptionBudget,
    /// `<name>-runtime`, without a token.
    pub account: ServiceAccount,
    /// `<name>-runtime`: nothing but the three ports in.
    pub network: NetworkPolicy,
}

/// The children of `deployment`.
#[must_use]
pub fn build(fleet: &Fleet, deployment: &Deployment, valid: &ValidFleet, settings: &Settings) -> Children {
    let scope = Scope::of(&fleet.key, deployment);
    Children {
        workload: workload::workload(&scope, fleet, deployment, valid, settings),
        surroundings: around(&scope, settings),
        registry: registry::registry(&scope, valid),
    }
}

/// What is around the pods of `deployment`, valid or not.
#[must_use]
pub fn surroundings(key: &FleetKey, deployment: &Deployment, settings: &Settings) -> Surroundings {
    around(&Scope::of(key, deployment), settings)
}

fn around(scope: &Scope, settings: &Settings) -> Surroundings {
    Surroundings {
        services: [services::public(scope), services::replicas(scope)],
        disruption: access::disruption(scope),
        account: access::account(scope),
        network: access::network(scope, settings),
    }
}

/// Whose children: names, labels and the owner.
#[derive(Clone, Debug)]
pub struct Scope {
    key: FleetKey,
    owner: OwnerReference,
}

impl Scope {
    /// The scope of `deployment`'s children.
    #[must_use]
    pub fn of(key: &FleetKey, deployment: &Deployment) -> Self {
        Self { key: key.clone(), owner: deployment.controller_owner_ref(&()).unwrap_or_default() }
    }

    /// `<name><suffix>`.
    #[must_use]
    pub fn name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.key.name)
    }

    /// The labels that select the pods.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(LABEL.to_owned(), self.key.name.clone())])
    }

    /// The selector of the pods.
    #[must_use]
    pub fn selector(&self) -> LabelSelector {
        LabelSelector { match_labels: Some(self.labels()), ..LabelSelector::default() }
    }

    /// The metadata of the child `<name><suffix>`.
    #[must_use]
    pub fn metadata(&self, suffix: &str) -> ObjectMeta {
        let mut labels = self.labels();
        labels.insert("app.kubernetes.io/name".to_owned(), "lorikeet".to_owned());
        labels.insert("app.kubernetes.io/instance".to_owned(), self.key.name.clone());
        labels.insert("app.kubernetes.io/managed-by".to_owned(), lorikeet_crds::FIELD_MANAGER.to_owned());
        ObjectMeta {
            name: Some(self.name(suffix)),
            namespace: Some(self.key.namespace.clone()),
            labels: Some(labels),
            owner_references: Some(vec![self.owner.clone()]),
            ..ObjectMeta::default()
        }
    }
}
