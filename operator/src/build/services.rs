//! The Services of a Deployment: one address for requests, and the replicas one by one for the operator.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::build::{ADMIN_PORT, PUBLIC_PORT, Scope};

/// `<name>`: requests.
#[must_use]
pub fn public(scope: &Scope) -> Service {
    Service {
        metadata: scope.metadata(""),
        spec: Some(ServiceSpec {
            selector: Some(scope.labels()),
            ports: Some(vec![port("http", PUBLIC_PORT)]),
            type_: Some("ClusterIP".to_owned()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// `<name>-replicas`: the admin faces, those of replicas that are not ready too, since only they can be made ready.
#[must_use]
pub fn replicas(scope: &Scope) -> Service {
    Service {
        metadata: scope.metadata("-replicas"),
        spec: Some(ServiceSpec {
            selector: Some(scope.labels()),
            ports: Some(vec![port("admin", ADMIN_PORT)]),
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}
