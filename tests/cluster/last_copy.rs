//! The last copy: an adapter that one replica alone keeps is on another at once, however that replica goes.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use lorikeet_crds::Adapter;
use serde_json::json;

use crate::manifests::{adapter, deployment, with};
use crate::stage::{Stage, is_ready_adapter};
use crate::until::{SECONDS, until};

/// A load takes so long that an adapter which nobody kept meanwhile is missed.
const LOAD: Duration = Duration::from_millis(500);

/// What tells the controller of ReplicaSets which pod to take away first. Users and autoscalers set it; the operator does not.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost=-1";

/// Three replicas, of which one keeps `hot`, and its users are busy. Replicas take their leave, as pods do.
async fn with_a_hot_adapter(name: &str) -> Stage {
    let stage = Stage::unhurried(name).await;
    stage.kubelet.next(|script| {
        script.farewell = true;
        script.load = LOAD;
    });
    let namespace = stage.namespace.clone();
    let hot = with(adapter(&namespace, "hot", "base"), "/spec/placement/replicas", json!(1));
    stage.kubectl.apply(&[deployment(&namespace, "base", 3), hot]);
    stage.until_adapter_ready("hot").await;
    stage.until_whole("base").await;
    stage
}

/// The one replica that keeps it.
async fn holder(stage: &Stage) -> String {
    until("one replica keeps it", SECONDS, async || {
        let fakes = stage.kubelet.fakes();
        let mut keep = fakes.iter().filter(|fake| fake.serves("hot"));
        let one = keep.next()?;
        one.asked("hot", 4);
        keep.next().is_none().then(|| one.name().to_owned())
    })
    .await
}

/// Waits until another replica than `gone` serves it, and its status says so. With `always`, it is served by one of them at
/// every moment.
async fn until_elsewhere(stage: &Stage, gone: &str, always: bool) {
    until("another replica serves it, and its status says so", SECONDS, async || {
        let fakes = stage.kubelet.fakes();
        assert!(!always || fakes.iter().any(|fake| fake.serves("hot")), "no replica serves it");
        let elsewhere = fakes.iter().any(|fake| fake.name() != gone && fake.serves("hot"));
        let status = stage.get::<Adapter>("hot").await.filter(is_ready_adapter)?.status?;
        let told = status.placements.iter().any(|place| place.pod != gone && place.state == "Ready");
        let counted = (status.replicas.desired, status.replicas.ready) == (1, 1);
        (elsewhere && told && counted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scale_down_that_takes_the_last_copy_drops_no_adapter() {
    let stage = with_a_hot_adapter("last-scaled").await;
    let gone = holder(&stage).await;
    stage.kubectl.run(&["annotate", "pod", &gone, "--namespace", &stage.namespace, COST]);
    stage.kubectl.run(&["scale", "ldep/base", "--replicas=2", "--namespace", &stage.namespace]);
    until_elsewhere(&stage, &gone, true).await;
    let left = stage.kubelet.until_running(2).await;
    assert!(left.iter().all(|fake| fake.name() != gone), "another one was taken away");
    until_elsewhere(&stage, &gone, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_copy_outlives_the_deletion_of_its_pod_and_comes_back_after_the_loss_of_it() {
    let stage = with_a_hot_adapter("last-deleted").await;
    let gone = holder(&stage).await;
    stage.kubectl.run(&["delete", "pod", &gone, "--namespace", &stage.namespace, "--wait=false"]);
    until_elsewhere(&stage, &gone, true).await;
    stage.kubelet.until_running(3).await;
    stage.until_whole("base").await;
    // A node that is lost takes its pods without a farewell.
    let lost = holder(&stage).await;
    let force = ["--wait=false", "--force", "--grace-period=0"];
    stage
        .kubectl
        .run(&[["delete", "pod", &lost, "--namespace", &stage.namespace].as_slice(), &force].concat());
    until_elsewhere(&stage, &lost, false).await;
    stage.until_whole("base").await;
    let pods = stage.api::<Pod>().list(&ListParams::default()).await.expect("pods").items;
    assert!(pods.iter().all(|pod| pod.metadata.annotations.is_none()), "the operator wrote to pods");
}
