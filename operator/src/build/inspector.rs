//! The inspector: a container beside each replica that reads, for the operator, the little that judging an Adapter takes of
//! its source. It has what opens sources mounted as the replica has, and nothing else of it: no model, no cache, no GPU.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, HTTPGetAction, Probe, ResourceRequirements, SecurityContext, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::build::INSPECT_PORT;
use crate::build::arguments::{self, Places};
use crate::build::health::{BEGUN, LIVE, Probing};
use crate::build::workload::{port, seconds};

/// The name of its container.
pub const NAME: &str = "inspector";
/// The name of its port.
pub const PORT: &str = "inspect";
/// What it takes, asked for and not more: a pod whose replica is guaranteed what it has stays so.
const RESOURCES: [(&str, &str); 2] = [("cpu", "50m"), ("memory", "64Mi")];

/// It starts before the replica and ends after it, as a container of initialization that is started again: of a pod that has
/// begun it is there, whatever the replica does.
#[must_use]
pub fn inspector(
    image: String,
    places: &Places,
    mounts: Vec<VolumeMount>,
    security: SecurityContext,
) -> Container {
    Container {
        name: NAME.to_owned(),
        image: Some(image),
        args: Some(arguments::inspector(places, &format!("[::]:{INSPECT_PORT}"))),
        restart_policy: Some("Always".to_owned()),
        ports: Some(vec![port(PORT, INSPECT_PORT)]),
        // It is asked from then on, and the replica starts.
        startup_probe: Some(probe(BEGUN)),
        liveness_probe: Some(probe(LIVE)),
        resources: Some(resources()),
        volume_mounts: Some(mounts),
        security_context: Some(security),
        ..Container::default()
    }
}

fn probe(probing: Probing) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(probing.path.to_owned()),
            port: IntOrString::String(PORT.to_owned()),
            scheme: Some("HTTPS".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(seconds(probing.period)),
        timeout_seconds: Some(seconds(probing.timeout)),
        failure_threshold: Some(probing.failures as i32),
        ..Probe::default()
    }
}

fn resources() -> ResourceRequirements {
    let all: BTreeMap<String, Quantity> =
        RESOURCES.map(|(name, quantity)| (name.to_owned(), Quantity(quantity.to_owned()))).into();
    ResourceRequirements { limits: Some(all.clone()), requests: Some(all), ..ResourceRequirements::default() }
}
