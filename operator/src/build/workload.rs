//! The pods: an `apps/v1` Deployment that passes Pod Security `restricted` and never waits for GPUs that it holds itself.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment as Workload, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapProjection, Container, ContainerPort, EmptyDirVolumeSource, HTTPGetAction,
    Lifecycle, LifecycleHandler, PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec,
    PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecretVolumeSource,
    SecurityContext, SleepAction, TopologySpreadConstraint, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use lorikeet_crds::Deployment;
use lorikeet_crds::deployment::RolloutStrategy;

use crate::build::arguments::{Places, arguments};
use crate::build::health::{LIVE, Probing, READY, START};
use crate::build::inspector::inspector;
use crate::build::pool::{GPU, affinity, tolerations};
use crate::build::registry::suffix;
use crate::build::{ADMIN_PORT, PUBLIC_PORT, Scope, Settings};
use crate::decide::mounts::Mounts;
use crate::decide::scale::{gpus, replicas};
use crate::decide::shards::MOST;
use crate::decide::validate::ValidFleet;
use crate::fleet::{Capacity, Fleet};

/// Where pods have claims mounted, each under its name.
pub const CLAIMS: &str = "/models";
/// Where pods have Secrets of sources mounted, each under its name.
const CREDENTIALS: &str = "/etc/lorikeet/credentials";
/// Where containers have the admin Secret mounted.
const ADMIN_FOLDER: &str = "/etc/lorikeet/admin";
/// The unprivileged user of the images.
const USER: i64 = 65_532;
/// Beyond the drain: time for the process to end.
const GRACE_SECONDS: i64 = 15;
/// Between a pod's end and the signal to its process: load balancers take that long to hear of it.
const FAREWELL_SECONDS: i64 = 5;

/// `<name>-runtime`.
#[must_use]
pub fn workload(
    scope: &Scope,
    fleet: &Fleet,
    deployment: &Deployment,
    valid: &ValidFleet,
    settings: &Settings,
) -> Workload {
    let spec = &deployment.spec;
    Workload {
        metadata: scope.metadata("-runtime"),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas(spec)),
            selector: scope.selector(),
            progress_deadline_seconds: Some(seconds(START.patience())),
            strategy: Some(strategy(spec.rollout.strategy, fleet.capacity, gpus(&spec.node_pool))),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(scope.labels()), ..ObjectMeta::default() }),
                spec: Some(pod(scope, deployment, valid, settings)),
            },
            ..DeploymentSpec::default()
        }),
        ..Workload::default()
    }
}

/// Auto surges only where a new replica finds its GPUs free: else it would wait for those that the old one holds until
/// the new one is ready, which is never.
#[must_use]
pub fn surges(asked: RolloutStrategy, capacity: Capacity, gpus: u32) -> bool {
    match asked {
        RolloutStrategy::Surge => true,
        RolloutStrategy::Recreate => false,
        RolloutStrategy::Auto => gpus == 0 || capacity.free_gpus.is_some_and(|free| free >= gpus),
    }
}

fn strategy(asked: RolloutStrategy, capacity: Capacity, gpus: u32) -> DeploymentStrategy {
    let (surge, unavailable) = if surges(asked, capacity, gpus) { (1, 0) } else { (0, 1) };
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(surge)),
            max_unavailable: Some(IntOrString::Int(unavailable)),
        }),
    }
}

fn pod(scope: &Scope, deployment: &Deployment, valid: &ValidFleet, settings: &Settings) -> PodSpec {
    let pool = &deployment.spec.node_pool;
    PodSpec {
        service_account_name: Some(scope.name("-runtime")),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(
            i64::from(valid.drain_seconds) + FAREWELL_SECONDS + GRACE_SECONDS,
        ),
        node_selector: pool.node_selector.clone(),
        affinity: pool.accelerator.map(affinity),
        tolerations: Some(tolerations(pool)),
        topology_spread_constraints: Some(vec![
            spread(scope, "kubernetes.io/hostname"),
            spread(scope, "topology.kubernetes.io/zone"),
        ]),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        init_containers: Some(vec![beside(deployment, &valid.mounts, settings)]),
        containers: vec![container(deployment, valid, settings)],
        volumes: Some(volumes(scope, deployment, &valid.mounts)),
        ..PodSpec::default()
    }
}

fn container(deployment: &Deployment, valid: &ValidFleet, settings: &Settings) -> Container {
    let spec = &deployment.spec;
    let places = places(deployment, settings);
    Container {
        name: "runtime".to_owned(),
        image: Some(image(spec, settings)),
        args: Some(arguments(deployment, valid, &places)),
        ports: Some(vec![port("http", PUBLIC_PORT), port("admin", ADMIN_PORT)]),
        // A model may take minutes to load: until then only the start-up probe speaks.
        startup_probe: Some(probe(START)),
        readiness_probe: Some(probe(READY)),
        liveness_probe: Some(probe(LIVE)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: FAREWELL_SECONDS }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        resources: Some(resources(spec.resources.clone().unwrap_or_default(), gpus(&spec.node_pool))),
        volume_mounts: Some(mounts(deployment, &valid.mounts)),
        security_context: Some(security()),
        ..Container::default()
    }
}

fn beside(deployment: &Deployment, of_sources: &Mounts, settings: &Settings) -> Container {
    let mut mounts = vec![mount("admin", ADMIN_FOLDER.to_owned(), true)];
    mounts.extend(mounts_of(of_sources));
    inspector(image(&deployment.spec, settings), &places(deployment, settings), mounts, security())
}

fn image(spec: &lorikeet_crds::DeploymentSpec, settings: &Settings) -> String {
    spec.image.clone().unwrap_or_else(|| settings.image.clone())
}

fn security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

fn places(deployment: &Deployment, settings: &Settings) -> Places {
    Places {
        listen: format!("[::]:{PUBLIC_PORT}"),
        admin: format!("[::]:{ADMIN_PORT}"),
        admin_folder: ADMIN_FOLDER.to_owned(),
        registry: "/etc/lorikeet/registry".to_owned(),
        cache: "/cache".to_owned(),
        api_keys: deployment.spec.auth.as_ref().map(|_| "/etc/lorikeet/keys/keys".to_owned()),
        source_roots: vec![CLAIMS.to_owned()],
        claims: CLAIMS.to_owned(),
        credentials: CREDENTIALS.to_owned(),
        reach: settings.reach.clone(),
    }
}

/// A port of a container.
pub(super) fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), container_port: number, ..ContainerPort::default() }
}

fn probe(probing: Probing) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(probing.path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(seconds(probing.period)),
        timeout_seconds: Some(seconds(probing.timeout)),
        failure_threshold: Some(probing.failures as i32),
        ..Probe::default()
    }
}

/// Whole seconds, as the API has them.
pub(super) fn seconds(time: Duration) -> i32 {
    i32::try_from(time.as_secs()).unwrap_or(i32::MAX)
}

fn resources(mut resources: ResourceRequirements, gpus: u32) -> ResourceRequirements {
    if gpus > 0 {
        let quantity = Quantity(gpus.to_string());
        resources.limits.get_or_insert_default().insert(GPU.to_owned(), quantity.clone());
        resources.requests.get_or_insert_default().insert(GPU.to_owned(), quantity);
    }
    resources
}

fn spread(scope: &Scope, topology: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        topology_key: topology.to_owned(),
        max_skew: 1,
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(scope.selector()),
        ..TopologySpreadConstraint::default()
    }
}

fn volumes(scope: &Scope, deployment: &Deployment, of_sources: &Mounts) -> Vec<Volume> {
    let empty = |name: &str| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let mut volumes =
        vec![empty("cache"), empty("tmp"), secret("admin", scope.name("-admin")), registry_volume(scope)];
    if let Some(auth) = &deployment.spec.auth {
        volumes.push(secret("keys", auth.api_keys_secret_ref.name.clone()));
    }
    // One that is not there must not keep pods from starting: who needs it says so.
    volumes.extend(of_sources.secrets.iter().enumerate().map(|(index, name)| Volume {
        name: secret_volume(index),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name.clone()),
            optional: Some(true),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }));
    volumes.extend(of_sources.claims.iter().enumerate().map(|(index, name)| Volume {
        name: claim_volume(index),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: name.clone(),
            read_only: Some(true),
        }),
        ..Volume::default()
    }));
    volumes
}

fn secret(volume: &str, name: String) -> Volume {
    Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource { secret_name: Some(name), ..SecretVolumeSource::default() }),
        ..Volume::default()
    }
}

fn registry_volume(scope: &Scope) -> Volume {
    let shard = |index| VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: scope.name(&suffix(index)),
            optional: Some(true),
            ..ConfigMapProjection::default()
        }),
        ..VolumeProjection::default()
    };
    Volume {
        name: "registry".to_owned(),
        projected: Some(ProjectedVolumeSource {
            sources: Some((0..MOST).map(shard).collect()),
            ..ProjectedVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn secret_volume(index: usize) -> String {
    format!("credentials-{index}")
}

fn claim_volume(index: usize) -> String {
    format!("claim-{index}")
}

fn mounts(deployment: &Deployment, of_sources: &Mounts) -> Vec<VolumeMount> {
    let mut mounts = vec![
        mount("cache", "/cache".to_owned(), false),
        mount("tmp", "/tmp".to_owned(), false),
        mount("admin", ADMIN_FOLDER.to_owned(), true),
        mount("registry", "/etc/lorikeet/registry".to_owned(), true),
    ];
    if deployment.spec.auth.is_some() {
        mounts.push(mount("keys", "/etc/lorikeet/keys".to_owned(), true));
    }
    mounts.extend(mounts_of(of_sources));
    mounts
}

/// What sources take, each under its name.
fn mounts_of(sources: &Mounts) -> Vec<VolumeMount> {
    let secret = |(index, name)| mount(&secret_volume(index), format!("{CREDENTIALS}/{name}"), true);
    let claim = |(index, name)| mount(&claim_volume(index), format!("{CLAIMS}/{name}"), true);
    let secrets = sources.secrets.iter().enumerate().map(secret);
    secrets.chain(sources.claims.iter().enumerate().map(claim)).collect()
}

fn mount(volume: &str, path: String, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path,
        // The API server leaves out what is false here.
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::arguments::Reach;

    /// Two Secrets and two claims, one of each of the model's.
    fn built() -> PodSpec {
        let mut deployment = Deployment::default();
        deployment.metadata.name = Some("base".to_owned());
        deployment.spec.model.source.source = "pvc://models/llama".to_owned();
        let key = crate::fleet::FleetKey { namespace: "here".to_owned(), name: "base".to_owned() };
        let names = |names: [&str; 2]| names.map(str::to_owned).into();
        let mounts = Mounts { secrets: names(["s3", "hf"]), claims: names(["models", "loras"]) };
        let valid = ValidFleet { mounts, ..ValidFleet::default() };
        let settings = Settings {
            image: "image".to_owned(),
            namespace: "system".to_owned(),
            reach: Reach { hub: "https://hub.local".to_owned(), hosts: vec!["10.0.0.0/8".to_owned()] },
        };
        pod(&Scope::of(&key, &deployment), &deployment, &valid, &settings)
    }

    #[test]
    fn every_secret_and_claim_is_mounted_under_its_name_and_none_need_be_there() {
        let pod = built();
        for container in pod.init_containers.iter().flatten().chain(&pod.containers) {
            let at = |path: &str| {
                let mount = container.volume_mounts.iter().flatten().find(|mount| mount.mount_path == path);
                let mount = mount.unwrap_or_else(|| panic!("{}: nothing at {path}", container.name));
                assert_eq!(mount.read_only, Some(true));
                pod.volumes.iter().flatten().find(|volume| volume.name == mount.name).unwrap()
            };
            for name in ["hf", "s3"] {
                let secret = at(&format!("/etc/lorikeet/credentials/{name}")).secret.clone().unwrap();
                assert_eq!((secret.secret_name.as_deref(), secret.optional), (Some(name), Some(true)));
            }
            for name in ["loras", "models"] {
                let claim = at(&format!("/models/{name}")).persistent_volume_claim.clone().unwrap();
                assert_eq!((claim.claim_name.as_str(), claim.read_only), (name, Some(true)));
            }
            let admin = at("/etc/lorikeet/admin").secret.clone().unwrap();
            assert_eq!(admin.secret_name.as_deref(), Some("base-admin"));
        }
    }

    #[test]
    fn the_inspector_may_no_more_than_the_replica_and_leaves_its_pod_guaranteed() {
        let pod = built();
        let (inspector, replica) = (&pod.init_containers.as_ref().unwrap()[0], &pod.containers[0]);
        assert_eq!(inspector.restart_policy.as_deref(), Some("Always"), "it is there while the replica runs");
        assert_eq!(inspector.image, replica.image);
        assert_eq!(inspector.security_context, replica.security_context);
        let resources = inspector.resources.clone().unwrap();
        assert!(resources.limits.is_some());
        assert_eq!(resources.limits, resources.requests);
        let flags = |of: &Container| of.args.clone().unwrap();
        let own = flags(inspector);
        assert_eq!(own[..2], ["inspector", "--admin-listen=[::]:8082"]);
        for flag in own[2..].iter().filter(|flag| *flag != "--log-format=json") {
            assert!(flags(replica).contains(flag), "{flag} is not the replica's");
        }
        let writable =
            inspector.volume_mounts.iter().flatten().filter(|mount| mount.read_only != Some(true)).count();
        assert_eq!(writable, 0, "it writes nothing");
    }

    #[test]
    fn auto_surges_where_a_new_replica_finds_its_gpus_free_and_what_is_asked_for_is_done_wherever() {
        use RolloutStrategy::{Auto, Recreate, Surge};
        // GPUs of a replica; those that are free, where that is known; whether Auto surges.
        for (gpus, free_gpus, auto) in [
            (0, None, true),
            (0, Some(0), true),
            (2, None, false),
            (2, Some(0), false),
            (2, Some(1), false),
            (2, Some(2), true),
            (2, Some(8), true),
        ] {
            let capacity = Capacity { free_gpus, ..Capacity::default() };
            for (asked, expected) in [(Surge, true), (Recreate, false), (Auto, auto)] {
                let case = format!("{asked:?}, {gpus} GPUs, free: {free_gpus:?}");
                assert_eq!(surges(asked, capacity, gpus), expected, "{case}");
                let rolling = strategy(asked, capacity, gpus).rolling_update.unwrap();
                let both = [i32::from(expected), i32::from(!expected)].map(|one| Some(IntOrString::Int(one)));
                assert_eq!([rolling.max_surge, rolling.max_unavailable], both, "{case}");
            }
        }
    }

    #[test]
    fn a_replica_fetches_from_where_the_operator_may_read_and_listens_everywhere() {
        let arguments = built().containers[0].args.clone().unwrap();
        for flag in [
            "--credentials=/etc/lorikeet/credentials",
            "--hf-endpoint=https://hub.local",
            "--allow-source-host=10.0.0.0/8",
            // A pod of a cluster of either family has addresses of that family alone.
            "--listen=[::]:8080",
            "--admin-listen=[::]:8081",
        ] {
            assert!(arguments.iter().any(|one| one == flag), "{flag} is not in {arguments:?}");
        }
    }
}
