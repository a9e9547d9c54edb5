//! A Deployment that is paused: nothing of it is written, whatever becomes of its children, and its statuses say so.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment as Workload;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, Patch, PatchParams};
use lorikeet_crds::ConditionType;
use lorikeet_crds::Deployment;
use lorikeet_crds::condition::find;
use serde_json::json;

use crate::audit::Event;
use crate::manifests::{adapter, deployment, with};
use crate::stage::Stage;
use crate::until::{PATIENCE, until};

/// So many polls of a replica are a while in which an operator that wrote would have written.
const POLLS: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_paused_nothing_is_written_to_children_or_replicas() {
    let mut stage = Stage::new("paused").await;
    stage.kubelet.next(|script| script.longest_poll = Some(Duration::from_millis(100)));
    stage.start_operator().await;
    let namespace = stage.namespace.clone();
    let base = deployment(&namespace, "base", 1);
    stage.kubectl.apply(&[base.clone(), adapter(&namespace, "sql", "base")]);
    stage.until_adapter_ready("sql").await;
    stage.until_deployment_ready("base").await;
    let paused = with(with(base.clone(), "/spec/paused", json!(true)), "/spec/replicas", json!(2));
    stage.kubectl.apply(&[paused]);
    until("base says Paused", PATIENCE, async || {
        let conditions = stage.get::<Deployment>("base").await?.status?.conditions;
        find(&conditions, ConditionType::Stalled).filter(|one| one.reason == "Paused").map(drop)
    })
    .await;
    let replica = stage.kubelet.until_running(1).await.remove(0);
    let workload = stage.get::<Workload>("base-runtime").await.expect("it runs");
    let (written, heard) = (stage.until_quiet(Duration::from_secs(1)).await, replica.heard().len());
    // A new Adapter, and children that somebody changes.
    stage.kubectl.apply(&[adapter(&namespace, "late", "base")]);
    let astray = json!({"spec": {"selector": {"lorikeet.dev/deployment": "other"}}});
    let services = stage.api::<Service>();
    services.patch("base", &PatchParams::default(), &Patch::Merge(&astray)).await.expect("a change");
    let policies = stage.api::<NetworkPolicy>();
    policies.delete("base-runtime", &DeleteParams::default()).await.expect("it is deleted");
    stage.until_adapter("late", "observed", |adapter| adapter.status.is_some()).await;
    let polled = replica.polls();
    until("a while passes", PATIENCE, async || (replica.polls() >= polled + POLLS).then_some(())).await;
    let says =
        |event: &Event| event.object_ref.subresource == "status" || event.object_ref.resource == "events";
    let others: Vec<String> = stage
        .writes()
        .split_off(written)
        .iter()
        .filter(|event| !says(event))
        .map(ToString::to_string)
        .collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(replica.heard().len(), heard, "a paused Deployment's replica was written to");
    let now = stage.get::<Workload>("base-runtime").await.expect("it runs");
    assert_eq!(now.metadata.generation, workload.metadata.generation, "{:?}", now.spec);
    assert_eq!(selected(&stage).await.as_deref(), Some("other"));
    assert!(stage.get::<NetworkPolicy>("base-runtime").await.is_none());
    stage.kubectl.apply(&[with(base, "/spec/replicas", json!(2))]);
    stage.until_adapter_ready("late").await;
    stage.kubelet.until_running(2).await;
    until("the children are repaired", PATIENCE, async || {
        stage.get::<NetworkPolicy>("base-runtime").await?;
        selected(&stage).await.filter(|name| name == "base")
    })
    .await;
}

/// The Deployment whose pods requests go to.
async fn selected(stage: &Stage) -> Option<String> {
    let selector = stage.get::<Service>("base").await?.spec?.selector?;
    selector.get("lorikeet.dev/deployment").cloned()
}
