//! What is kept of a pod, and of the workload that makes it: the few facts that a fleet needs. Pure.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodSpec, PodStatus, Volume};
use serde_json::Value;

use crate::build::inspector;
use crate::decide::mounts::Mounts;
use crate::fleet::{Hindrance, Workload};

/// So long a pod may wait for its volumes before anybody is told: most are mounted within seconds.
const MOUNTED_WITHIN: Duration = Duration::from_secs(30);

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
    /// Where the inspector beside the replica is, once it runs.
    pub inspector: Option<SocketAddr>,
    /// What of users it has mounted.
    pub mounts: Arc<Mounts>,
    /// What keeps it from running. Said in words that stay the same from one attempt to the next.
    pub hindrance: Option<Hindrance>,
    /// It has a node, and its volumes are not mounted there.
    pub unmounted: Option<Unmounted>,
}

/// Since when a pod waits for its volumes. Which of them is missing the kubelet says in Events alone, which are not read, as
/// users' Secrets are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmounted {
    /// When it got its node.
    pub since: Timestamp,
    /// Secrets and claims of users that it cannot start without.
    pub needs: Vec<String>,
}

impl PodFacts {
    /// The facts of `pod`.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        Self {
            incarnation: incarnation(pod),
            leaving: pod.metadata.deletion_timestamp.is_some(),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            address: address(pod, "admin"),
            inspector: address(pod, inspector::PORT).filter(|_| is_started(pod, inspector::NAME)),
            mounts: Arc::new(mounts(pod)),
            hindrance: status.and_then(|status| unschedulable(status).or_else(|| failing(status))),
            unmounted: status.and_then(|status| unmounted(pod.spec.as_ref()?, status)),
        }
    }

    /// What keeps it from running, as far as that can be told at `now`.
    #[must_use]
    pub fn hindrance(&self, now: Timestamp) -> Option<Hindrance> {
        let late = self.unmounted.as_ref().filter(|_| self.told_after(now).is_none());
        self.hindrance.clone().or_else(|| late.map(Unmounted::hindrance))
    }

    /// When [`Self::hindrance`] says more, after `now`.
    #[must_use]
    pub fn told_after(&self, now: Timestamp) -> Option<Duration> {
        let waited =
            Duration::try_from(now.duration_since(self.unmounted.as_ref()?.since)).unwrap_or_default();
        MOUNTED_WITHIN.checked_sub(waited).filter(|left| !left.is_zero())
    }

    /// It will be counted on.
    #[must_use]
    pub const fn stays(&self) -> bool {
        !self.leaving && !self.finished
    }

    /// No node has room for it.
    #[must_use]
    pub const fn waits_for_node(&self) -> bool {
        self.stays() && matches!(self.hindrance, Some(Hindrance::Unschedulable(_)))
    }
}

impl Unmounted {
    fn hindrance(&self) -> Hindrance {
        Hindrance::Unmounted(format!(
            "a pod has a node and waits for its volumes for more than {} s: see that there is {} in its namespace",
            MOUNTED_WITHIN.as_secs(),
            self.needs.join(" and ")
        ))
    }
}

/// What the workload's controller says of it, and what keeps `pods`, those that stay, from running at `now`.
pub fn workload_facts<'a>(
    workload: &Value,
    pods: impl Iterator<Item = &'a PodFacts>,
    now: Timestamp,
) -> Workload {
    let number = |pointer: &str| workload.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let count = |pointer: &str| i32::try_from(number(pointer)).unwrap_or(i32::MAX);
    let mut hindrances = pods.filter_map(|pod| pod.hindrance(now));
    Workload {
        replicas: count("/status/replicas"),
        updated: count("/status/updatedReplicas"),
        ready: count("/status/readyReplicas"),
        current: number("/status/observedGeneration") >= number("/metadata/generation"),
        hindrance: hindrances.next().or_else(|| unmade(workload)),
    }
}

/// Why the workload's controller makes no pod. The name that the pod would have is another each time, and left out.
fn unmade(workload: &Value) -> Option<Hindrance> {
    let says = |one: &&Value| one["type"] == "ReplicaFailure" && one["status"] == "True";
    let condition = workload.pointer("/status/conditions")?.as_array()?.iter().find(says)?;
    let message = condition["message"].as_str().unwrap_or_default();
    let why = message.split_once(" is forbidden: ").map_or(message, |(_, why)| why);
    Some(Hindrance::Failing(format!("no pod can be made: {why}")))
}

fn unschedulable(status: &PodStatus) -> Option<Hindrance> {
    let says = |condition: &&PodCondition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    };
    let condition = status.conditions.iter().flatten().find(says)?;
    Some(Hindrance::Unschedulable(condition.message.clone().unwrap_or_default()))
}

/// Whether no sandbox could be made for the pod, which comes after its volumes are mounted, and it needs what others make.
fn unmounted(spec: &PodSpec, status: &PodStatus) -> Option<Unmounted> {
    let find = |type_: &str, truth: &str| {
        status.conditions.iter().flatten().find(|one| one.type_ == type_ && one.status == truth)
    };
    let since = find("PodScheduled", "True")?.last_transition_time.as_ref()?.0;
    find("PodReadyToStartContainers", "False")?;
    let needs: Vec<String> = spec.volumes.iter().flatten().filter_map(needed).collect();
    let is_begun = |container: &ContainerStatus| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.is_none_or(|waiting| waiting.reason.as_deref() != Some("ContainerCreating"))
    };
    let has_begun = status.container_statuses.iter().flatten().any(is_begun);
    (!needs.is_empty() && !has_begun).then_some(Unmounted { since, needs })
}

/// What of others `volume` needs. The admin Secret is the operator's own.
fn needed(volume: &Volume) -> Option<String> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Some(format!("a volume of PersistentVolumeClaim {}", claim.claim_name));
    }
    let secret = volume.secret.as_ref().filter(|one| volume.name != "admin" && one.optional != Some(true))?;
    Some(format!("a Secret {}", secret.secret_name.as_ref()?))
}

/// Why a container does not start, or does not stay.
fn failing(status: &PodStatus) -> Option<Hindrance> {
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.filter(|container| !container.ready).find_map(why).map(Hindrance::Failing)
}

fn why(container: &ContainerStatus) -> Option<String> {
    let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    if let Some(ended) = ended.filter(|_| container.restart_count > 0) {
        let reason = ended.reason.as_deref().unwrap_or("Error");
        return Some(format!(
            "{} ends by itself and is started again: {reason}, exit code {}; see its log",
            container.name, ended.exit_code
        ));
    }
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    match waiting.reason.as_deref()? {
        "ContainerCreating" | "PodInitializing" => None,
        // The two take turns, each with a text of its own.
        "ErrImagePull" | "ImagePullBackOff" => Some(format!(
            "{} cannot be pulled: see that there is such an image, and that its node may pull it",
            container.image
        )),
        reason => {
            let message = waiting.message.as_deref().unwrap_or_default();
            Some(format!("{} does not start: {reason}: {message}", container.name))
        }
    }
}

/// The pod's address, and its port of that name.
fn address(pod: &Pod, name: &str) -> Option<SocketAddr> {
    let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    let spec = pod.spec.as_ref()?;
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut ports = containers.flat_map(|container| &container.ports).flatten();
    let found = ports.find(|port| port.name.as_deref() == Some(name))?;
    Some(SocketAddr::new(ip, u16::try_from(found.container_port).ok()?))
}

/// Whether the container of initialization of that name, which stays, has answered.
fn is_started(pod: &Pod, name: &str) -> bool {
    let statuses = pod.status.iter().filter_map(|status| status.init_container_statuses.as_ref()).flatten();
    statuses.into_iter().any(|container| container.name == name && container.started == Some(true))
}

/// The Secrets and claims that are mounted.
fn mounts(pod: &Pod) -> Mounts {
    let volumes = || pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let secret = |volume: &Volume| volume.secret.as_ref()?.secret_name.clone();
    let claim = |volume: &Volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone());
    Mounts { secrets: volumes().filter_map(secret).collect(), claims: volumes().filter_map(claim).collect() }
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
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn pod(changes: serde_json::Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "x", "uid": "u"},
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
        let none = PodFacts::of(&pod(json!({"/spec/containers/0/ports/1/name": "other"})));
        assert_eq!(none.address, None);
    }

    #[test]
    fn the_inspector_and_what_it_has_mounted_are_found() {
        let mut pod = pod(json!({}));
        assert_eq!(PodFacts::of(&pod).inspector, None, "a pod of an older release");
        let spec = pod.spec.as_mut().unwrap();
        let container = json!([{"name": "inspector", "ports": [{"name": "inspect", "containerPort": 8082}]}]);
        let volumes = json!([
            {"name": "cache", "emptyDir": {}},
            {"name": "credentials-0", "secret": {"secretName": "hf", "optional": true}},
            {"name": "claim-0", "persistentVolumeClaim": {"claimName": "models"}},
        ]);
        spec.init_containers = serde_json::from_value(container).unwrap();
        spec.volumes = serde_json::from_value(volumes).unwrap();
        assert_eq!(PodFacts::of(&pod).inspector, None, "its image is being pulled");
        let started = json!([{"name": "inspector", "started": true, "restartCount": 0, "image": "", "imageID": "", "ready": true}]);
        pod.status.as_mut().unwrap().init_container_statuses = serde_json::from_value(started).unwrap();
        let facts = PodFacts::of(&pod);
        assert_eq!(facts.inspector, "127.0.0.9:8082".parse().ok());
        assert_eq!(facts.address, "127.0.0.9:8081".parse().ok());
        let one = |name: &str| BTreeSet::from([name.to_owned()]);
        assert_eq!(*facts.mounts, Mounts { secrets: one("hf"), claims: one("models") });
    }

    #[test]
    fn a_restarted_container_is_another_incarnation_and_readiness_is_not() {
        let first = PodFacts::of(&pod(json!({})));
        let unready = PodFacts::of(&pod(json!({"/status/containerStatuses/0/ready": false})));
        assert_eq!(first, unready);
        let again = PodFacts::of(&pod(json!({"/status/containerStatuses/0/restartCount": 1})));
        assert_ne!(first.incarnation, again.incarnation);
    }

    #[test]
    fn why_a_container_does_not_run_is_said_in_words_that_stay() {
        let container = |state: serde_json::Value, last: serde_json::Value, restarts: u32| {
            let facts = PodFacts::of(&pod(json!({"/status/containerStatuses/0": {
                "name": "runtime", "restartCount": restarts, "image": "nowhere/none:1", "imageID": "", "ready": false,
                "state": state, "lastState": last
            }})));
            facts.hindrance.map(|hindrance| match hindrance {
                Hindrance::Failing(why) => why,
                other => panic!("{other:?}"),
            })
        };
        let waiting =
            |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
        assert_eq!(container(waiting("ContainerCreating", ""), json!({}), 0), None);
        assert_eq!(container(json!({"running": {}}), json!({}), 0), None);
        let pull = container(waiting("ErrImagePull", "not found"), json!({}), 0);
        assert!(pull.as_ref().unwrap().starts_with("nowhere/none:1 cannot be pulled: see"), "{pull:?}");
        assert_eq!(pull, container(waiting("ImagePullBackOff", "Back-off"), json!({}), 0));
        let ended = json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}});
        let again = container(json!({"running": {}}), ended.clone(), 1);
        assert!(again.as_ref().unwrap().contains("OOMKilled, exit code 137"));
        assert_eq!(again, container(waiting("CrashLoopBackOff", "back-off 40s"), ended, 2));
        let config =
            container(waiting("CreateContainerConfigError", "secret \"keys\" not found"), json!({}), 0);
        assert!(config.unwrap().ends_with("secret \"keys\" not found"));
    }

    #[test]
    fn a_pod_whose_volumes_are_not_mounted_in_time_says_what_it_needs_of_others() {
        let waits = |mounted: &str, reason: &str| {
            let mut pod = pod(json!({"/status": {
                "conditions": [
                    {"type": "PodScheduled", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z"},
                    {"type": "PodReadyToStartContainers", "status": mounted},
                ],
                "containerStatuses": [{
                    "name": "runtime", "restartCount": 0, "image": "", "imageID": "", "ready": false,
                    "state": {"waiting": {"reason": reason}}
                }],
            }}));
            let volumes = json!([
                {"name": "admin", "secret": {"secretName": "base-admin"}},
                {"name": "keys", "secret": {"secretName": "keys"}},
                {"name": "credentials-0", "secret": {"secretName": "hf", "optional": true}},
                {"name": "claim-0", "persistentVolumeClaim": {"claimName": "models"}},
            ]);
            pod.spec.as_mut().unwrap().volumes = serde_json::from_value(volumes).unwrap();
            PodFacts::of(&pod)
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let facts = waits("False", "ContainerCreating");
        assert_eq!((facts.hindrance(at(29)), facts.told_after(at(29))), (None, Some(Duration::from_secs(1))));
        let Some(Hindrance::Unmounted(why)) = facts.hindrance(at(30)) else { panic!("30 s are over") };
        let needs =
            "see that there is a Secret keys and a volume of PersistentVolumeClaim models in its namespace";
        assert!(why.ends_with(needs), "{why}");
        assert_eq!(facts.told_after(at(30)), None);
        assert_eq!(waits("True", "ContainerCreating").unmounted, None, "its image is being pulled");
        let failing = waits("False", "CrashLoopBackOff");
        assert_eq!(failing.unmounted, None, "its sandbox is gone, it had one");
    }

    #[test]
    fn only_a_pod_that_stays_waits_for_a_node() {
        let condition = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]);
        let mut facts = PodFacts::of(&pod(json!({"/status": {"conditions": condition}})));
        assert_eq!(facts.hindrance, Some(Hindrance::Unschedulable("0/3 nodes".to_owned())));
        assert!(facts.waits_for_node());
        facts.leaving = true;
        assert!(!facts.waits_for_node());
    }

    #[test]
    fn why_no_pod_can_be_made_is_said_without_the_name_that_it_would_have_had() {
        let failure = |status: &str, name: &str| {
            let message = format!("pods \"{name}\" is forbidden: exceeded quota: gpus");
            let conditions = json!([{"type": "ReplicaFailure", "status": status, "message": message}]);
            workload_facts(
                &json!({"status": {"replicas": 1, "conditions": conditions}}),
                std::iter::empty(),
                NOW,
            )
        };
        let said = failure("True", "x-1").hindrance;
        assert_eq!(said, Some(Hindrance::Failing("no pod can be made: exceeded quota: gpus".to_owned())));
        assert_eq!(said, failure("True", "x-2").hindrance);
        assert_eq!(failure("False", "x-1").hindrance, None);
    }

    #[test]
    fn what_a_pod_says_of_itself_goes_before_what_its_controller_says() {
        let condition = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]);
        let waits = PodFacts::of(&pod(json!({"/status": {"conditions": condition}})));
        let failure = json!([{"type": "ReplicaFailure", "status": "True", "message": "no"}]);
        let facts = workload_facts(&json!({"status": {"conditions": failure}}), [&waits].into_iter(), NOW);
        assert_eq!(facts.hindrance, Some(Hindrance::Unschedulable("0/3 nodes".to_owned())));
    }
}
