//! What goes with a Deployment that is deleted while its spec is invalid, and what does not hold it up.

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use lorikeet_api::AdapterState;
use lorikeet_crds::condition::find;
use lorikeet_crds::{Adapter, ConditionType, Deployment, Reason};
use serde_json::json;

use crate::end_state::{KINDS, api};
use crate::manifests::{adapter, deployment, with};
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

/// What bears the label of Deployment `name`, of every kind that the operator or a controller makes.
async fn children(stage: &Stage, name: &str) -> Vec<String> {
    let params = ListParams::default().labels(&format!("lorikeet.dev/deployment={name}"));
    let mut found = Vec::new();
    for kind in KINDS {
        let of_kind = api(&stage.client, kind, &stage.namespace).list(&params).await.expect("a list");
        found.extend(
            of_kind.items.into_iter().filter_map(|one| Some(format!("{} {}", kind.2, one.metadata.name?))),
        );
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_deployment_goes_with_all_that_is_its_own_and_holds_no_adapter() {
    // Here the operator outlives Adapters, and holds them until they have drained.
    let Some(mut stage) = Stage::cluster_wide("invalid-gone").await else { return };
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    let good = with(deployment(&namespace, "base", 2), "/spec/rollout/drainSeconds", json!(300));
    let bad = with(good.clone(), "/spec/adapters/gpuMemory", json!("plenty"));
    stage.kubectl.apply(&[good]);
    stage.kubectl.apply(&["quick", "stuck", "stays"].map(|name| adapter(&namespace, name, "base")));
    for name in ["quick", "stuck", "stays"] {
        stage.until_adapter_ready(name).await;
    }
    stage.until_deployment_ready("base").await;
    let fakes = stage.kubelet.until_running(2).await;
    fakes[0].script(|script| script.clings.push("stuck".to_owned()));
    stage.kubectl.apply(&[bad]);
    until("base is invalid", PATIENCE, async || {
        let conditions = stage.get::<Deployment>("base").await?.status?.conditions;
        find(&conditions, ConditionType::Ready)
            .filter(|ready| ready.reason == Reason::InvalidSpec.as_str())
            .map(drop)
    })
    .await;

    // What is deleted drains; the rest is served.
    stage.kubectl.run(&["delete", "lora", "quick", "stuck", "--namespace", &namespace, "--wait=false"]);
    stage.until_gone::<Adapter>("quick").await;
    assert!(fakes.iter().all(|fake| !fake.serves("quick") && fake.serves("stays")));
    until("the other one drains", PATIENCE, async || {
        let report = fakes[0].report();
        let drains =
            |one: &lorikeet_api::AdapterReport| one.name == "stuck" && one.state == AdapterState::Draining;
        report.adapters.iter().any(drains).then_some(())
    })
    .await;
    assert!(stage.get::<Adapter>("stuck").await.is_some(), "it was let go before it has drained");

    // Its replicas go, and with them what they would have drained.
    assert!(children(&stage, "base").await.len() > 8, "{:?}", children(&stage, "base").await);
    stage.kubectl.run(&["delete", "ldep", "base", "--namespace", &namespace, "--timeout=60s"]);
    stage.until_gone::<Adapter>("stuck").await;
    stage.kubelet.until_running(0).await;
    until("nothing of it is left", PATIENCE, async || {
        children(&stage, "base").await.is_empty().then_some(())
    })
    .await;
    let pods = stage.api::<Pod>().list(&ListParams::default()).await.expect("a list");
    assert!(pods.items.is_empty(), "{:?}", pods.items);

    // Who stays says what is missing, and nothing of replicas that are gone; who then goes is not held.
    let stays =
        stage.until_adapter_says("stays", Reason::DeploymentNotFound).await.status.unwrap_or_default();
    assert!(stays.placements.is_empty() && stays.digest.is_none(), "{stays:?}");
    stage.kubectl.run(&["delete", "lora", "stays", "--namespace", &namespace, "--timeout=60s"]);
    stage.until_gone::<Adapter>("stays").await;
}
