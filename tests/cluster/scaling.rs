//! /scale: what a person or an autoscaler writes there is what runs; what it reads there is true.

use k8s_openapi::api::apps::v1::Deployment as Workload;
use lorikeet_crds::Deployment;
use serde_json::{Value, json};

use crate::manifests::{deployment, with};
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_to_scale_runs_within_the_bounds_of_autoscaling() {
    let stage = Stage::with_operator("scaling").await;
    let namespace = stage.namespace.clone();
    let bounds = json!({"minReplicas": 1, "maxReplicas": 2});
    stage.kubectl.apply(&[with(deployment(&namespace, "base", 1), "/spec/autoscaling", bounds)]);
    stage.until_deployment_ready("base").await;
    // As an HorizontalPodAutoscaler does.
    let scale = |count: u32| {
        let patch = json!({"spec": {"replicas": count}}).to_string();
        let arguments = ["patch", "ldep", "base", "--subresource=scale", "--type=merge", "--patch", &patch];
        stage.kubectl.run(&[&arguments[..], &["--namespace", &namespace]].concat());
    };
    let read = || -> Value {
        let arguments = ["get", "ldep", "base", "--subresource=scale", "--output=json"];
        let text = stage.kubectl.run(&[&arguments[..], &["--namespace", &namespace]].concat());
        serde_json::from_str(&text).expect("JSON")
    };
    scale(2);
    stage.kubelet.until_running(2).await;
    until("/scale tells of both", PATIENCE, async || {
        (read().pointer("/status/replicas") == Some(&json!(2))).then_some(())
    })
    .await;
    let selector = read()["status"]["selector"].as_str().expect("a selector").to_owned();
    let pods = ["get", "pods", "--output=name", "--selector", &selector, "--namespace", &namespace];
    assert_eq!(stage.kubectl.run(&pods).lines().count(), 2, "{selector}");
    // Beyond its bounds it is not followed, and not corrected either: the number is not ours to write.
    scale(9);
    let spec = |deployment: &Deployment| deployment.metadata.generation;
    until("the edit is seen", PATIENCE, async || {
        let deployment = stage.get::<Deployment>("base").await?;
        let seen = deployment.status.as_ref().and_then(|status| status.observed_generation);
        (deployment.spec.replicas == Some(9) && seen == spec(&deployment)).then_some(())
    })
    .await;
    let child = stage.get::<Workload>("base-runtime").await.and_then(|workload| workload.spec);
    assert_eq!(child.and_then(|spec| spec.replicas), Some(2));
    stage.until_deployment_ready("base").await;
    scale(1);
    stage.kubelet.until_running(1).await;
    let written = stage.writes();
    let specs = written.iter().filter(|event| {
        event.object_ref.resource == "deployments"
            && event.object_ref.api_group == lorikeet_crds::GROUP
            && event.object_ref.subresource != "status"
    });
    assert_eq!(specs.count(), 0, "the operator writes no spec");
}
