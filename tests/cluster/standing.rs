//! What a Deployment says while its pods are not, or not yet, as its spec asks.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment as Workload, DeploymentStatus as Counted};
use lorikeet_crds::condition::find;
use lorikeet_crds::{ConditionType, Deployment};
use serde_json::json;

use crate::manifests::{deployment, secret, with};
use crate::stage::{Stage, is_ready_deployment};
use crate::until::{PATIENCE, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_not_ready_while_a_former_replica_is_left_to_serve() {
    let stage = Stage::with_operator("surge").await;
    let base = deployment(&stage.namespace, "base", 1);
    stage.kubectl.apply(std::slice::from_ref(&base));
    stage.until_deployment_ready("base").await;
    let former = stage.kubelet.until_running(1).await.remove(0);
    stage.kubelet.next(|script| script.base_loads = true);
    stage.kubectl.apply(&[with(base, "/spec/serving/maxQueue", json!(7))]);
    let pods = stage.kubelet.until_running(2).await;
    let next = pods.iter().find(|fake| fake.name() != former.name()).expect("another pod");
    // By numbers alone that is one of one: the former replica is the one that is ready.
    until("one is of the newest spec, one is ready", PATIENCE, async || {
        let Counted { replicas, updated_replicas, ready_replicas, .. } =
            stage.get::<Workload>("base-runtime").await?.status?;
        ([replicas, updated_replicas, ready_replicas] == [Some(2), Some(1), Some(1)]).then_some(())
    })
    .await;
    stage.until_quiet(Duration::from_secs(2)).await;
    let said = stage.get::<Deployment>("base").await.expect("it is there");
    assert!(!is_ready_deployment(&said), "{:?}", said.status);
    let status = said.status.unwrap_or_default();
    assert_eq!(status.observed_generation, said.metadata.generation);
    let reconciling = find(&status.conditions, ConditionType::Reconciling).expect("it is said");
    assert_eq!((reconciling.status.as_str(), reconciling.reason.as_str()), ("True", "ReplicasNotReady"));
    assert!(reconciling.message.ends_with("1 of a former one still run"), "{}", reconciling.message);
    next.script(|script| script.base_loads = false);
    stage.until_deployment_ready("base").await;
    let last = stage.kubelet.until_running(1).await.remove(0);
    assert_eq!(last.name(), next.name());
}

/// Nobody but the kubelet knows which Secret is missing, and it says so in Events alone; the operator reads neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_waits_for_a_secret_is_told_of_by_the_secrets_name() {
    let stage = Stage::with_operator("waits").await;
    let namespace = stage.namespace.clone();
    let keys = json!({"apiKeysSecretRef": {"name": "keys-of-users"}});
    stage.kubectl.apply(&[with(deployment(&namespace, "base", 1), "/spec/auth", keys)]);
    let message = until("what the pod needs is named", PATIENCE, async || {
        let status = stage.get::<Deployment>("base").await?.status?;
        let ready = find(&status.conditions, ConditionType::Ready).cloned()?;
        ready.message.contains("a Secret keys-of-users").then_some(ready)
    })
    .await;
    assert_eq!((message.status.as_str(), message.reason.as_str()), ("False", "ReplicasNotReady"));
    assert!(!message.message.contains("base-admin"), "{}", message.message);
    stage.kubectl.apply(&[secret(&namespace, "keys-of-users")]);
    stage.until_deployment_ready("base").await;
}
