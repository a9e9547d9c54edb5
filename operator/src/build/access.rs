//! Who may do what to the pods: an account without a token, a network policy, a disruption budget.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::build::{ADMIN_PORT, PUBLIC_PORT, Scope, Settings};

/// An account that no token is made for: a replica has nothing to ask the API server.
#[must_use]
pub fn account(scope: &Scope) -> ServiceAccount {
    ServiceAccount {
        metadata: scope.metadata("-runtime"),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// One replica may be taken away at a time.
#[must_use]
pub fn disruption(scope: &Scope) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: scope.metadata("-runtime"),
        spec: Some(PodDisruptionBudgetSpec {
            selector: Some(scope.selector()),
            max_unavailable: Some(IntOrString::Int(1)),
            // One that does not serve anyway must not hold up the drain of its node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// Nothing comes in but requests to the public port and the operator to the admin port. What goes out is not limited
/// here: sources are anywhere.
#[must_use]
pub fn network(scope: &Scope, settings: &Settings) -> NetworkPolicy {
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(labelled("kubernetes.io/metadata.name", &settings.namespace)),
        pod_selector: Some(labelled("app.kubernetes.io/name", lorikeet_crds::FIELD_MANAGER)),
        ..NetworkPolicyPeer::default()
    };
    NetworkPolicy {
        metadata: scope.metadata("-runtime"),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(scope.selector()),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule { ports: Some(vec![port(PUBLIC_PORT)]), from: None },
                NetworkPolicyIngressRule { ports: Some(vec![port(ADMIN_PORT)]), from: Some(vec![operator]) },
            ]),
            ..NetworkPolicySpec::default()
        }),
    }
}

fn port(number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(number)),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    }
}

fn labelled(key: &str, value: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])),
        ..LabelSelector::default()
    }
}
