//! Who may do what to the pods: an account without a token, a network policy, a disruption budget.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::build::{ADMIN_PORT, INSPECT_PORT, PUBLIC_PORT, Scope, Settings};

const DNS_PORT: i32 = 53;
/// All of IPv4, and what no replica may reach of it: link-local addresses, where clouds hand out a node's credentials, and the
/// address where Azure hands out a node's settings.
const IPV4: (&str, &[&str]) = ("0.0.0.0/0", &["169.254.0.0/16", "168.63.129.16/32"]);
/// All of IPv6, and the same of it; EC2 answers on an address of its own.
const IPV6: (&str, &[&str]) = ("::/0", &["fe80::/10", "fd00:ec2::254/128"]);

/// An account that no token is made for: a replica has nothing to ask the API server.
#[must_use]
pub fn account(scope: &Scope) -> ServiceAccount {
    ServiceAccount {
        metadata: scope.metadata("-runtime"),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// One replica may be taken away at a time: the next one when what replaces it is ready. A share, or a number that has to
/// stay, would hold the drain of an only replica's node up for ever; so that one goes, and nobody is served until it is
/// replaced. Who cannot bear that asks for two.
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

/// Nothing comes in but requests to the public port and the operator to the admin port and the inspector's. Nothing goes out but DNS, and TCP
/// to where sources may be, which is anywhere but a node's own credentials.
#[must_use]
pub fn network(scope: &Scope, settings: &Settings) -> NetworkPolicy {
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(labelled("kubernetes.io/metadata.name", &settings.namespace)),
        pod_selector: Some(labelled("app.kubernetes.io/name", lorikeet_crds::FIELD_MANAGER)),
        ..NetworkPolicyPeer::default()
    };
    // Some networks do not count the cluster's own pods among addresses.
    let pods = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        ..NetworkPolicyPeer::default()
    };
    let dns = vec![port("UDP", Some(DNS_PORT)), port("TCP", Some(DNS_PORT))];
    NetworkPolicy {
        metadata: scope.metadata("-runtime"),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(scope.selector()),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule { ports: Some(vec![port("TCP", Some(PUBLIC_PORT))]), from: None },
                NetworkPolicyIngressRule {
                    ports: Some([ADMIN_PORT, INSPECT_PORT].map(|number| port("TCP", Some(number))).into()),
                    from: Some(vec![operator]),
                },
            ]),
            egress: Some(vec![
                NetworkPolicyEgressRule { ports: Some(dns), to: None },
                NetworkPolicyEgressRule {
                    ports: Some(vec![port("TCP", None)]),
                    to: Some(vec![addresses(IPV4), addresses(IPV6), pods]),
                },
            ]),
        }),
    }
}

/// A port of `protocol`, or all of them.
fn port(protocol: &str, number: Option<i32>) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: number.map(IntOrString::Int),
        protocol: Some(protocol.to_owned()),
        ..NetworkPolicyPort::default()
    }
}

fn addresses((all, except): (&str, &[&str])) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: all.to_owned(),
            except: Some(except.iter().map(|&range| range.to_owned()).collect()),
        }),
        ..NetworkPolicyPeer::default()
    }
}

fn labelled(key: &str, value: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])),
        ..LabelSelector::default()
    }
}
