//! Secrets and claims of sources: mounted into the pods, named to the replicas, never read by the operator.

use k8s_openapi::api::apps::v1::Deployment as Workload;
use k8s_openapi::api::core::v1::{PodSpec, Volume};
use lorikeet_crds::Reason;
use serde_json::json;

use crate::manifests::{adapter, deployment, with};
use crate::stage::Stage;

async fn pod(stage: &Stage) -> PodSpec {
    let workload = stage.get::<Workload>("base-runtime").await.expect("the workload is there");
    workload.spec.and_then(|spec| spec.template.spec).expect("it has pods")
}

/// The volume that is mounted at `path`.
#[track_caller]
fn at<'a>(pod: &'a PodSpec, path: &str) -> Option<&'a Volume> {
    let mount = pod.containers[0].volume_mounts.iter().flatten().find(|mount| mount.mount_path == path)?;
    assert_eq!(mount.read_only, Some(true), "{path}");
    pod.volumes.iter().flatten().find(|volume| volume.name == mount.name)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_adapters_name_is_mounted_and_an_absent_secret_holds_up_nothing() {
    let stage = Stage::with_operator("mounts").await;
    let namespace = stage.namespace.clone();
    let base = with(deployment(&namespace, "base", 1), "/spec/model/secretRef/name", json!("of-model"));
    stage.kubectl.apply(&[base, adapter(&namespace, "plain", "base")]);
    stage.until_adapter_ready("plain").await;
    let before = stage.kubelet.until_running(1).await.remove(0);
    assert!(at(&pod(&stage).await, "/etc/lorikeet/credentials/of-model").is_some());
    let closed = |name: &str, secret: &str| {
        with(adapter(&namespace, name, "base"), "/spec/secretRef/name", json!(secret))
    };
    let files = with(adapter(&namespace, "files", "base"), "/spec/source", json!("pvc://loras/files"));
    stage.kubectl.apply(&[closed("one", "hf"), closed("two", "hf"), files, closed("odd", "no_name")]);
    for name in ["one", "two", "files"] {
        stage.until_adapter_ready(name).await;
    }
    let refused = stage.until_adapter_says("odd", Reason::InvalidSpec).await;
    let said = format!("{:?}", refused.status.unwrap_or_default().conditions);
    assert!(said.contains("secretRef.name: expected a name"), "{said}");
    let pod = pod(&stage).await;
    let secret = at(&pod, "/etc/lorikeet/credentials/hf").and_then(|volume| volume.secret.clone());
    let secret = secret.expect("it is a Secret");
    assert_eq!((secret.secret_name.as_deref(), secret.optional), (Some("hf"), Some(true)));
    let claim = at(&pod, "/models/loras").and_then(|volume| volume.persistent_volume_claim.clone());
    assert_eq!(claim.map(|claim| claim.claim_name).as_deref(), Some("loras"));
    stage.kubectl.run(&["delete", "lora", "odd", "--namespace", &namespace, "--timeout=60s"]);
    stage.until_whole("base").await;
    let after = stage.kubelet.until_running(1).await.remove(0);
    assert_ne!(before.name(), after.name(), "a new name replaces the pods");
    let heard: Vec<_> = after.heard().into_iter().flat_map(|heard| heard.set).collect();
    let of = |name: &str| heard.iter().rfind(|one| one.name == name).and_then(|one| one.credentials.clone());
    assert_eq!([of("one"), of("plain"), of("files")], [Some("hf".to_owned()), None, None]);
    // Further ones with names that are there replace nothing.
    stage.kubectl.apply(&[closed("three", "of-model")]);
    stage.until_adapter_ready("three").await;
    assert_eq!(stage.kubelet.until_running(1).await[0].name(), after.name());
    let read: Vec<_> = stage.audit.requests();
    let users = read.iter().filter(|event| {
        event.object_ref.resource == "secrets" && ["hf", "of-model"].contains(&event.object_ref.name.as_str())
    });
    assert_eq!(users.count(), 0, "users' Secrets are mounted, not read");
}
