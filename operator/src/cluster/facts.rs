//! What is kept of a pod: the few facts that a fleet needs. Pure.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Pod;

/// The annotation of a pod's template that says which generation of the admin Secret it was made with.
pub const ADMIN_ANNOTATION: &str = "lorikeet.dev/admin-secret";

/// A pod of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// Changes when the pod, or a container of it, is another.
    pub incarnation: String,
    /// It is being deleted.
    pub leaving: bool,
    /// Its containers have ended for good.
    pub finished: bool,
    /// Where its admin face is: the pod's address and the port that its spec names `admin`.
    pub address: Option<SocketAddr>,
    /// Which generation of the admin Secret it was made with.
    pub admin: Option<String>,
    /// Why it cannot be scheduled.
    pub unschedulable: Option<String>,
}

impl PodFacts {
    /// The facts of `pod`.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let scheduled =
            status.and_then(|status| status.conditions.as_ref()).into_iter().flatten().find(|condition| {
                condition.type_ == "PodScheduled"
                    && condition.status == "False"
                    && condition.reason.as_deref() == Some("Unschedulable")
            });
        Self {
            incarnation: incarnation(pod),
            leaving: pod.metadata.deletion_timestamp.is_some(),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            address: address(pod),
            admin: pod.metadata.annotations.as_ref().and_then(|all| all.get(ADMIN_ANNOTATION)).cloned(),
            unschedulable: scheduled.map(|condition| condition.message.clone().unwrap_or_default()),
        }
    }
}

fn address(pod: &Pod) -> Option<SocketAddr> {
    let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    let ports = pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|container| &container.ports);
    let admin = ports.flatten().find(|port| port.name.as_deref() == Some("admin"))?;
    Some(SocketAddr::new(ip, u16::try_from(admin.container_port).ok()?))
}

fn incarnation(pod: &Pod) -> String {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    containers.into_iter().flatten().fold(uid, |all, container| {
        let id = container.container_id.as_deref().unwrap_or_default();
        format!("{all}/{}:{id}", container.restart_count)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(changes: serde_json::Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "x", "uid": "u", "annotations": {ADMIN_ANNOTATION: "g1"}},
            "spec": {"containers": [{"name": "runtime", "ports": [{"name": "http", "containerPort": 1}, {"name": "admin", "containerPort": 8081}]}]},
            "status": {"podIP": "127.0.0.9", "phase": "Running", "containerStatuses": [{
                "name": "runtime", "restartCount": 0, "containerID": "c0", "image": "", "imageID": "", "ready": true
            }]}
        });
        for (pointer, value) in changes.as_object().unwrap() {
            *pod.pointer_mut(pointer).unwrap() = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn the_admin_face_is_at_the_port_that_is_named_so() {
        let facts = PodFacts::of(&pod(json!({})));
        assert_eq!(facts.address, "127.0.0.9:8081".parse().ok());
        assert_eq!(facts.admin.as_deref(), Some("g1"));
        let none = PodFacts::of(&pod(json!({"/spec/containers/0/ports/1/name": "other"})));
        assert_eq!(none.address, None);
    }

    #[test]
    fn a_restarted_container_is_another_incarnation_and_readiness_is_not() {
        let first = PodFacts::of(&pod(json!({})));
        let unready = PodFacts::of(&pod(json!({"/status/containerStatuses/0/ready": false})));
        assert_eq!(first, unready);
        let again = PodFacts::of(&pod(json!({"/status/containerStatuses/0/restartCount": 1})));
        assert_ne!(first.incarnation, again.incarnation);
    }
}
